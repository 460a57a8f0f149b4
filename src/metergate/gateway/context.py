"""What goes with one request through the gateway: its id, log, route, meters, hooks and background work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import TYPE_CHECKING, Any

from metergate.engine import Metering
from metergate.gateway.http import Request, Response

if TYPE_CHECKING:
    from metergate.gateway.model import Route
    from metergate.gateway.pipeline import Pipeline

ResponseSendingHook = Callable[[Response, Request, "Context"], Response | Awaitable[Response | None] | None]
"""Runs after the outbound policies and may return another response; sync or async."""

FinalHook = Callable[[Response, Request, "Context"], Awaitable[None] | None]
"""Runs when the response is settled, before it leaves; what it does to the response is ignored, what it awaits runs on
in the background."""

_requests = logging.getLogger("metergate.request")


class RequestLog(logging.LoggerAdapter[logging.Logger]):
    """``context.log``: a logger whose every line carries the request id and the route."""

    def __init__(self, context: Context) -> None:
        super().__init__(_requests, {})
        self._context = context

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        context = self._context
        route = context.route
        extra = {"request_id": context.request_id, "route": route.label if route else None}
        if context.incoming_request_id is not None:
            extra["incoming_request_id"] = context.incoming_request_id
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return msg, kwargs


class Context:
    """One request's context, handed to every policy, handler and hook.

    ``request_id`` is a UUID made here, never the client's; ``incoming_request_id`` is what the client sent as its own.
    ``custom`` is for the project's code. ``parent_context`` is set in a route that another route invoked.
    ``begun_metering`` is None until somebody asks for `metering`, ``sending_hooks`` and ``final_hooks`` are what was added.
    """

    __slots__ = (
        "_log",
        "begun_metering",
        "custom",
        "final_hooks",
        "incoming_request_id",
        "parent_context",
        "pipeline",
        "request_id",
        "route",
        "sending_hooks",
    )

    def __init__(
        self,
        request_id: str,
        route: Route | None = None,
        parent_context: Context | None = None,
        pipeline: Pipeline | None = None,
    ) -> None:
        self.request_id = request_id
        self.pipeline = pipeline
        self.route = route
        self.parent_context = parent_context
        self.incoming_request_id: str | None = None
        self.custom: dict[str, Any] = {}
        self._log: RequestLog | None = None
        self.begun_metering: Metering | None = None
        self.sending_hooks: tuple[ResponseSendingHook, ...] = ()
        self.final_hooks: tuple[FinalHook, ...] = ()

    @property
    def log(self) -> RequestLog:
        if self._log is None:
            self._log = RequestLog(self)
        return self._log

    @property
    def metering(self) -> Metering:
        """What this request will be metered as; see `metergate.engine.Metering`."""
        metering = self.begun_metering
        if metering is None:
            metering = self.begun_metering = Metering(self.request_id)
        return metering

    async def invoke_inbound_policy(self, name: str, request: Request) -> Request | Response:
        """Run another inbound policy of the project on this request, by its name in policies.json."""
        return await self._running().invoke_inbound(name, request, self)

    async def invoke_outbound_policy(self, name: str, response: Response, request: Request) -> Response:
        """Run another outbound policy of the project on a response."""
        return await self._running().invoke_outbound(name, response, request, self)

    def _running(self) -> Pipeline:
        if self.pipeline is None:
            raise RuntimeError("policies can be invoked while a request passes through a gateway only")
        return self.pipeline

    def wait_until(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let ``work`` run on after the response has left. An exception in it is logged; a stop waits for it a while."""
        BACKGROUND.start(work, self)

    def add_response_sending_hook(self, hook: ResponseSendingHook) -> None:
        """``hook(response, request, context)`` runs after the outbound policies; a response it returns replaces ours."""
        self.sending_hooks += (hook,)

    def add_response_sending_final_hook(self, hook: FinalHook) -> None:
        """``hook(response, request, context)`` sees the settled response; it can neither change nor delay it."""
        self.final_hooks += (hook,)

    def __repr__(self) -> str:
        return f"<Context {self.request_id} {self.route.label if self.route else 'no route'}>"


class BackgroundWork:
    """Coroutines that outlive their request. Bounded: past ``limit`` a new one is refused, counted and logged."""

    __slots__ = ("_tasks", "limit", "refused")

    def __init__(self, limit: int = 10_000) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.limit = limit
        self.refused = 0

    def start(self, work: Coroutine[Any, Any, Any], context: Context) -> None:
        if len(self._tasks) >= self.limit:
            work.close()
            self.refused += 1
            context.log.error("background work refused: %d tasks are under way", len(self._tasks))
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, context))

    def _ended(self, task: asyncio.Task[Any], context: Context) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            context.log.error("background work failed", exc_info=failure)

    def __len__(self) -> int:
        return len(self._tasks)

    async def drain(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for what runs, then cancel it."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)


BACKGROUND = BackgroundWork()
"""Of this process: its event loop has one."""
