"""``asgiHandler``: mounts any ASGI application of the project at a route.

The bodies stream both ways and nothing is buffered; an application that awaits ``send`` waits for the client. Its
lifespan runs once per worker, however many routes mount it. The scope carries what the policies found:
``metergate.user`` (a `User` or None) and ``metergate.context``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from metergate.gateway.handlers.exchange import Exchange
from metergate.gateway.handlers.lifespan import STOP_SECONDS, Lifespan
from metergate.gateway.http import Request, Response
from metergate.gateway.options import Options

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Handler, Site

Message = MutableMapping[str, Any]
AsgiApplication = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

VERSIONS = {"version": "3.0", "spec_version": "2.4"}


def build(options: Any, site: Site) -> Handler | None:
    """Options: ``app`` (``$import(./modules/app)``), ``export`` (``app``), ``rootPath`` (where it is mounted)."""
    read = Options(options)
    module = read.required("app", "$import(./modules/app)")
    export = read.text("export", "app")
    root_path = read.phrase("rootPath", "").rstrip("/")
    if root_path and not root_path.startswith("/"):
        read.refuse("rootPath", f'"{root_path}" has no leading slash.', f'Write "/{root_path}".')
    if not read.report(site):
        return None
    application = site.load(module, export)
    return None if application is None else AsgiHandler(application, root_path)


class AsgiHandler:
    """One application at one route; the life cycle is shared with the other routes that mount it."""

    __slots__ = ("_application", "_lifespan", "_root_path", "_tasks")

    def __init__(self, application: AsgiApplication, root_path: str = "") -> None:
        self._application = application
        self._root_path = root_path
        self._lifespan: Lifespan | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Run the application's start-up. Raises RuntimeError where it says that it failed."""
        self._lifespan = await Lifespan.enter(self._application)

    async def stop(self) -> None:
        """Let what still runs come to its end, at most `STOP_SECONDS`, then shut the application down."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
        if self._lifespan is not None:
            await self._lifespan.leave()
            self._lifespan = None

    async def __call__(self, request: Request, context: Context) -> Response:
        state = self._lifespan.state.copy() if self._lifespan is not None else {}
        exchange = Exchange(request, context)
        task = asyncio.create_task(exchange.run(self._application, self.scope(request, context, state)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await exchange.response()

    def scope(self, request: Request, context: Context, state: dict[str, Any]) -> Message:
        """The ASGI scope of a request. ``path`` contains ``root_path``, as the specification wants it since 2.3."""
        return {
            "type": "http",
            "asgi": VERSIONS,
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.scheme,
            "path": request.path,
            "raw_path": request.raw_path.encode("latin-1", "replace"),
            "query_string": request.query_string.encode("latin-1", "replace"),
            "root_path": self._root_path,
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1", "replace"))
                for name, value in request.headers.items
            ],
            "client": (request.client, 0) if request.client else None,
            "server": _server(request),
            "state": state,
            "metergate.user": request.user,
            "metergate.context": context,
        }


def _server(request: Request) -> tuple[str, int]:
    """The host and port that the client asked for; the scheme's port where it named none."""
    host, colon, port = request.host.rpartition(":")
    if colon and port.isascii() and port.isdecimal():
        return host.strip("[]"), int(port)
    return request.host.strip("[]"), 443 if request.scheme == "https" else 80
