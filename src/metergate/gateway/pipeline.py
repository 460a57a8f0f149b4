"""A request's way through the gateway: hooks, route, policies, handler, policies, hooks. Always ends in a response.

    pre-routing hooks → match → request hooks → inbound policies → handler → outbound policies
    → response-sending hooks → final hooks

A response from a hook or an inbound policy ends the way in: handler and outbound policies are skipped, the
response-sending and final hooks still run. What a project's code raises becomes a 500 problem and a log line with the
traceback. Nothing here awaits unless something it calls does.

With which final status a request is metered that a policy has let in, whatever ends it. ``meterOnStatusCodes`` decides:

====================================================  ==================================================
handler, policy, hook                                 the status of the response as the hooks leave it
the client leaves before its response, body read      the same
the client leaves in its body, or that is malformed   400
the client is silent in its body; too large a body    408; 413
no answer from the upstream, or not in time           502; 504
the upstream or the handler breaks a response off     the status that was sent
the client leaves in mid response                     the status that was sent
a project's code raises; a response cannot be sent    500
the gateway stops before the response, or within it   503; the status that was sent
an ASGI server cancels the request (Granian does not)  not metered: there is no status
====================================================  ==================================================

Once: a response that was metered and then could not be sent is not metered again as the 500 that takes its place.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from metergate.gateway import problems
from metergate.gateway.clientbody import ClientGone, ClientSilent
from metergate.gateway.context import BACKGROUND, Context
from metergate.gateway.hooks import RequestHook, RuntimeHooks
from metergate.gateway.http import BodyTooLarge, Request, Response
from metergate.gateway.model import InboundResult, NamedPolicy, Route

if TYPE_CHECKING:
    from metergate.gateway.router import Router

_log = logging.getLogger("metergate.gateway")


class Pipeline:
    """Runs requests through a project's routes. ``policies`` are all of the project by name, for code that invokes one."""

    def __init__(self, router: Router, hooks: RuntimeHooks, policies: Mapping[str, NamedPolicy]) -> None:
        self._router = router
        self._pre_routing = hooks.pre_routing
        self._request_hooks = hooks.request
        self._sending_hooks = hooks.response_sending
        self._policies = policies
        self.final_hooks = hooks.response_sending_final

    async def run(self, request: Request, context: Context) -> tuple[Response, Request]:
        """The response to send, and the request as the policies left it. Raises CancelledError only."""
        try:
            response, request = await self._answer(request, context)
        except ClientGone:
            context.log.info("the client left before its request was complete")
            # Whoever is still there has sent a body that is none.
            detail = "The body of the request is broken off or malformed."
            response = problems.bad_request(request, context, {"detail": detail})
        except BodyTooLarge as refused:
            detail = f"The body is larger than the {refused.limit} bytes that are accepted."
            response = problems.content_too_large(request, context, {"detail": detail})
        except ClientSilent:
            detail = "The body of the request did not come in time."
            response = problems.request_timeout(request, context, {"detail": detail})
        except Exception:  # a project's code may raise anything; the client gets a problem
            context.log.exception("the request failed")
            response = problems.internal_server_error(request, context)
        if self._sending_hooks or context.sending_hooks:
            response = await self._before_sending(response, request, context)
        route = context.route
        if route is not None and route.cors is not None:
            route.cors.decorate(request, response)
        return response, request

    async def _answer(self, request: Request, context: Context) -> tuple[Response, Request]:
        if self._pre_routing:
            outcome = await _through(self._pre_routing, request, context)
            if isinstance(outcome, Response):
                return outcome, request
            request = outcome
        if request.method == "OPTIONS" and (preflight := self._router.preflight(request)) is not None:
            return preflight, request
        match = self._router.match(request.method, request.raw_path)
        if match is None:
            return self._no_route(request, context), request
        route, request.params = match
        context.route = route
        if self._request_hooks:
            outcome = await _through(self._request_hooks, request, context)
            if isinstance(outcome, Response):
                return outcome, request
            request = outcome
        return await self._through_route(route, request, context)

    async def _through_route(
        self, route: Route, request: Request, context: Context
    ) -> tuple[Response, Request]:
        for policy in route.inbound:
            outcome: Any = policy.inbound(request, context)  # type: ignore[misc]  # inbound of a route is set
            if outcome.__class__ is not Request:
                if not isinstance(outcome, Request | Response):
                    outcome = await _awaited(outcome, policy.name)
                if isinstance(outcome, Response):
                    return outcome, request
            request = outcome
        answer: Any = route.handler(request, context)
        response = answer if isinstance(answer, Response) else cast("Response", await answer)
        for policy in route.outbound:
            changed: Any = policy.outbound(response, request, context)  # type: ignore[misc]
            if not isinstance(changed, Response):
                changed = await _awaited(changed, policy.name)
            response = changed
        return response, request

    def _no_route(self, request: Request, context: Context) -> Response:
        return problems.not_found(
            request, context, {"detail": f"There is no route for {request.method} here."}
        )

    async def _before_sending(self, response: Response, request: Request, context: Context) -> Response:
        """A hook that fails is logged and passed over: the response is somebody's paid answer."""
        for hook in (*self._sending_hooks, *context.sending_hooks):
            try:
                changed = hook(response, request, context)
                if inspect.isawaitable(changed):
                    changed = await changed
            except Exception:
                context.log.exception("a response-sending hook failed")
                continue
            if isinstance(changed, Response):
                response = changed
        return response

    def run_final_hooks(self, response: Response, request: Request, context: Context) -> None:
        """Show the response as it will be sent to the final hooks; what they await runs on in the background."""
        for hook in (*self.final_hooks, *context.final_hooks):
            try:
                work = hook(response.snapshot(), request, context)
            except Exception:
                context.log.exception("a final hook failed")
                continue
            if asyncio.iscoroutine(work):
                BACKGROUND.start(work, context)

    async def invoke_inbound(self, name: str, request: Request, context: Context) -> InboundResult:
        """Another inbound policy of the project, for `Context.invoke_inbound_policy`."""
        policy = self._policy(name)
        if policy.inbound is None:
            raise LookupError(f"the policy {name!r} is not an inbound policy")
        outcome: Any = policy.inbound(request, context)
        return outcome if isinstance(outcome, Request | Response) else await _awaited(outcome, name)

    async def invoke_outbound(
        self, name: str, response: Response, request: Request, context: Context
    ) -> Response:
        """Another outbound policy of the project, for `Context.invoke_outbound_policy`."""
        policy = self._policy(name)
        if policy.outbound is None:
            raise LookupError(f"the policy {name!r} is not an outbound policy")
        outcome: Any = policy.outbound(response, request, context)
        return outcome if isinstance(outcome, Response) else await _awaited(outcome, name)

    def _policy(self, name: str) -> NamedPolicy:
        if name not in self._policies:
            raise LookupError(f"there is no policy {name!r} in config/policies.json")
        return self._policies[name]


async def _awaited(outcome: Any, name: str) -> Any:
    """What an async policy gives; anything but a request or a response is a mistake in it."""
    result = await outcome if inspect.isawaitable(outcome) else outcome
    if not isinstance(result, Request | Response):
        raise TypeError(
            f"the policy {name!r} returned {type(result).__name__}: return the request to go on, or a Response"
        )
    return result


async def _through(hooks: list[RequestHook], request: Request, context: Context) -> Request | Response:
    for hook in hooks:
        outcome: Any = hook(request, context)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if isinstance(outcome, Response):
            return outcome
        if isinstance(outcome, Request):
            request = outcome
        elif outcome is not None:
            raise TypeError(
                f"a request hook returned {type(outcome).__name__}: return a Request, a Response or nothing"
            )
    return request
