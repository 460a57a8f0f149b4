"""Built-in handlers, which answer at the end of a route, by the name a project's JSON exports them under.

A project's own callable is not in `BUILTIN`: `handlers.function.wrap` makes a handler of it.
"""

from metergate.gateway.registry import HandlerFactory, handler

_HERE = "metergate.gateway.handlers"

BUILTIN: dict[str, HandlerFactory] = {
    "urlForwardHandler": handler(f"{_HERE}.url", "build_forward"),
    "urlRewriteHandler": handler(f"{_HERE}.url", "build_rewrite"),
    "redirectHandler": handler(f"{_HERE}.redirect"),
    "openApiSpecHandler": handler(f"{_HERE}.openapi"),
    "asgiHandler": handler(f"{_HERE}.asgi"),
}

__all__ = ["BUILTIN", "HandlerFactory"]
