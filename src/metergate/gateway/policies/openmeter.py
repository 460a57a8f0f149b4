"""`openmeter-inbound` on a route: asks an `Engine` for each request; and what a project's code may call."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from metergate.engine import Admission, Decision, Denial, Engine
from metergate.gateway import problems
from metergate.gateway.context import Context, ResponseSendingHook
from metergate.gateway.http import Request, Response
from metergate.gateway.model import InboundResult, NamedPolicy, Site
from metergate.gateway.traffic import note_request
from metergate.policy.model import Meter
from metergate.policy.options import read_options

__all__ = ["OpenMeterInboundPolicy", "build"]


def build(options: Any, site: Site) -> NamedPolicy | None:
    """The policy, ready to run; findings go to the site."""
    policy, findings = read_options(options, name=site.name)
    for finding in findings:
        site.report(finding)
    if policy is None:
        return None
    return NamedPolicy(site.name, inbound=OpenMeterInboundPolicy(Engine(policy, site.backends)))


class OpenMeterInboundPolicy:
    """Lets in whom the required entitlements allow, and arms metering for the rest of the request.

    A project's code calls the static functions with its ``context``; they may be called from policies, handlers and
    hooks, before the final hook.
    """

    __slots__ = ("engine",)

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, request: Request, context: Context) -> InboundResult | Awaitable[InboundResult]:
        route = context.route.label if context.route is not None else ""
        admission = self.engine.admit(request.user, route, context.metering.holds)
        if isinstance(admission, Admission):
            return self._answer(admission, request, context, route)
        return self._wait(admission, request, context, route)

    async def _wait(
        self, admission: Awaitable[Admission], request: Request, context: Context, route: str
    ) -> InboundResult:
        return self._answer(await admission, request, context, route)

    def _answer(self, admission: Admission, request: Request, context: Context, route: str) -> InboundResult:
        if admission.explanation is not None and (header := self.engine.explain_header) is not None:
            context.add_response_sending_hook(_with_header(header, admission.explanation))
        if admission.denial is not None:
            return _refusal(admission.denial, request, context)
        metering = context.metering
        metering.arm(self.engine, admission.subject, route, admission.hold)
        if self.engine.demand is not None and metering.traffic is not None:
            note_request(metering.traffic, request, context)
        return request

    @staticmethod
    def set_meters(context: Context, meters: Any) -> None:
        """The run-time meters of this request; see `metergate.engine.Metering.set_meters`."""
        context.metering.set_meters(meters)

    @staticmethod
    def add_meters(context: Context, meters: Any) -> None:
        """As `set_meters`, but earlier ones stay."""
        context.metering.add_meters(meters)

    @staticmethod
    def get_meters(context: Context) -> tuple[Meter, ...]:
        """The run-time meters set so far."""
        return context.metering.get_meters()

    @staticmethod
    async def check(context: Context, feature: str) -> Decision:
        """What would be decided now of a feature for who pays for this request; see `metergate.engine.Metering.check`."""
        return await context.metering.check(feature)

    @staticmethod
    async def balance(context: Context, feature: str) -> float | None:
        """What is left of a feature to who pays for this request; see `metergate.engine.Metering.balance`."""
        return await context.metering.balance(feature)

    setMeters = set_meters  # noqa: N815  # the original's spelling


def _refusal(denial: Denial, request: Request, context: Context) -> Response:
    headers = {"retry-after": str(denial.retry_after)} if denial.retry_after is not None else None
    return problems.of_status(denial.status, request, context, denial.members(), headers)


def _with_header(name: str, value: str) -> ResponseSendingHook:
    """Adds a header to whatever is answered. The response itself stays as it is: a handler may give the same one to all."""

    def hook(response: Response, request: Request, context: Context) -> Response:
        return Response.trusted(response.status, [*response.headers.items, (name, value)], response.body)

    return hook
