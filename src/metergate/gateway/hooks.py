"""Hooks for every request, registered once by a project's `runtime_init(runtime)`.

Per request, `Context.add_response_sending_hook` and `add_response_sending_final_hook` do the same for one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metergate.gateway.http import Request, Response

if TYPE_CHECKING:
    from metergate.gateway.context import Context, FinalHook, ResponseSendingHook

RequestHook = Callable[
    [Request, "Context"], "Request | Response | Awaitable[Request | Response | None] | None"
]
"""``hook(request, context)``: a request to go on with, a response to answer with, or None to go on."""


@dataclass(slots=True)
class RuntimeHooks:
    """What `runtime_init` is handed. Hooks run in the order they were added.

    Pre-routing hooks run before a route is looked for (``context.route`` is None), request hooks after it, before the
    inbound policies. Response-sending hooks may return another response, final hooks only look.
    """

    pre_routing: list[RequestHook] = field(default_factory=list)
    request: list[RequestHook] = field(default_factory=list)
    response_sending: list[ResponseSendingHook] = field(default_factory=list)
    response_sending_final: list[FinalHook] = field(default_factory=list)

    def add_pre_routing_hook(self, hook: RequestHook) -> None:
        self.pre_routing.append(hook)

    def add_request_hook(self, hook: RequestHook) -> None:
        self.request.append(hook)

    def add_response_sending_hook(self, hook: ResponseSendingHook) -> None:
        self.response_sending.append(hook)

    def add_response_sending_final_hook(self, hook: FinalHook) -> None:
        self.response_sending_final.append(hook)
