"""The start and stop of a mounted ASGI application: once per worker, shared by every route that mounts it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from metergate.gateway.handlers.asgi import AsgiApplication, Message

_log = logging.getLogger("metergate.gateway")

STOP_SECONDS = 10.0
"""The longest a stop waits for an application to shut down."""


class Lifespan:
    """One application's lifespan in one event loop. ``state`` is what its start-up put there for the requests."""

    _running: ClassVar[dict[int, Lifespan]] = {}

    def __init__(self, application: AsgiApplication) -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._users = 0
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.Event()
        self._supported = False
        self._task = asyncio.create_task(self._run())
        self._events.put_nowait({"type": "lifespan.startup"})

    @classmethod
    async def enter(cls, application: AsgiApplication) -> Lifespan:
        """The application, started. Raises RuntimeError where it refuses; one that knows no lifespan is started."""
        lifespan = cls._running.get(id(application))
        if lifespan is None:
            lifespan = cls._running[id(application)] = cls(application)
        lifespan._users += 1
        try:
            await asyncio.shield(lifespan._started)
        except BaseException:
            await lifespan.leave()
            raise
        return lifespan

    async def leave(self) -> None:
        """The last one to leave shuts the application down and waits for it, at most `STOP_SECONDS`."""
        self._users -= 1
        if self._users:
            return
        self._running.pop(id(self._application), None)
        if self._supported:
            self._events.put_nowait({"type": "lifespan.shutdown"})
            try:
                await asyncio.wait_for(self._stopped.wait(), STOP_SECONDS)
            except TimeoutError:
                _log.error("the ASGI application did not shut down within %g s", STOP_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        scope: Message = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._application(scope, self._events.get, self._send)
        except Exception as failure:  # noqa: BLE001  # the application's, whatever it is
            if self._supported:
                _log.error("the ASGI application failed in its lifespan", exc_info=failure)
        finally:
            # Returning or raising before start-up is how an application says that it has no lifespan.
            if not self._started.done():
                self._started.set_result(None)
            self._stopped.set()

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete" if not self._started.done():
                self._supported = True
                self._started.set_result(None)
            case "lifespan.startup.failed" if not self._started.done():
                text = message.get("message") or "it gave no reason"
                self._started.set_exception(RuntimeError(f"the ASGI application did not start: {text}"))
            case "lifespan.shutdown.failed":
                _log.error("the ASGI application failed to shut down: %s", message.get("message", ""))
                self._stopped.set()
            case "lifespan.shutdown.complete":
                self._stopped.set()
