"""Which route a request has taken, as its application declares it: ``/orders/{number}``, never ``/orders/7``. Pure."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def template(scope: MutableMapping[str, Any]) -> str | None:
    """The route's template, with the prefix of what it is mounted below, without the server's own ``root_path``.

    Litestar has it in the scope, Starlette and FastAPI have the route there, once it is found. None where none is, and
    where the framework does not say so in the scope.
    """
    found = scope.get("path_template")
    if found is None:
        found = getattr(_route(scope), "path", None)
    if not isinstance(found, str):
        return None
    if "app_root_path" not in scope:  # where Starlette keeps the server's, once something is mounted
        return found
    return _prefix(scope, found) + found


def _route(scope: MutableMapping[str, Any]) -> Any:
    """FastAPI keeps the routes of an included router as they were, and knows beside them where they are included."""
    fastapi = scope.get("fastapi")
    included = fastapi.get("effective_route_context") if isinstance(fastapi, dict) else None
    return scope.get("route") if included is None else included


def _prefix(scope: MutableMapping[str, Any], inner: str) -> str:
    """What stands before a mounted route: the path as it came, so values of the mount's own parameters are put back."""
    prefix = str(scope.get("root_path", "")).removeprefix(scope["app_root_path"])
    parts = prefix.split("/")
    for name, value in scope.get("path_params", {}).items():
        if f"{{{name}}}" not in inner and f"{{{name}:" not in inner and str(value) in parts:
            parts[parts.index(str(value))] = f"{{{name}}}"
    return "/".join(parts)
