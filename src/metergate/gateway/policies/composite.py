"""``CompositeInboundPolicy`` and ``CompositeOutboundPolicy``: several policies of the project under one name.

Options ``policies``: their names, in order. A composite may name others; all is flattened at the start, so that a
composite costs a loop and nothing more. The members' own life cycles are the project's affair, which knows them all.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from metergate.gateway.http import Request, Response
from metergate.gateway.model import Inbound, NamedPolicy, Outbound
from metergate.gateway.options import Options

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Site

_EXAMPLE = '["my-api-key-inbound-policy"]'

# The composites that are being built, the outermost first: building one builds those it names.
_under_way: ContextVar[tuple[str, ...]] = ContextVar("metergate_composites", default=())


def build_inbound(options: Any, site: Site) -> NamedPolicy | None:
    """``CompositeInboundPolicy``."""
    members = _members(options, site, "inbound")
    return None if members is None else NamedPolicy(site.name, inbound=InboundChain(members))


def build_outbound(options: Any, site: Site) -> NamedPolicy | None:
    """``CompositeOutboundPolicy``."""
    members = _members(options, site, "outbound")
    return None if members is None else NamedPolicy(site.name, outbound=OutboundChain(members))


def _members(options: Any, site: Site, direction: str) -> tuple[Any, ...] | None:
    """What the named policies do in that direction, flattened; None where one of them cannot be had."""
    read = Options(options)
    found: list[Any] = []
    complete = True
    with _building(site.name):
        for index, name in enumerate(read.texts("policies", _EXAMPLE)):
            member = _member(name, index, site, read, direction)
            complete &= member is not None
            found += member.members if isinstance(member, InboundChain | OutboundChain) else [member]
    return tuple(found) if read.report(site) and complete else None


def _member(name: str, index: int, site: Site, read: Options, direction: str) -> Any:
    circle = _under_way.get()
    if name in circle:
        way = " → ".join((*circle[circle.index(name) :], name))
        read.refuse("policies", f"A composite cannot contain itself: {way}.", f'Leave "{name}" out.')
        return None
    policy: NamedPolicy | None = site.policy(name)
    if policy is None:
        return None
    member = getattr(policy, direction)
    if member is None:
        other = "outbound" if direction == "inbound" else "inbound"
        fix = f"Put it into an {other} composite."
        read.refuse("policies", f'Item {index}, "{name}", is an {other} policy.', fix)
    return member


@contextmanager
def _building(name: str) -> Iterator[None]:
    token = _under_way.set((*_under_way.get(), name))
    try:
        yield
    finally:
        _under_way.reset(token)


class InboundChain:
    """Inbound policies one after the other; a response ends it. Plain as long as they are plain."""

    __slots__ = ("members",)

    def __init__(self, members: tuple[Inbound, ...]) -> None:
        self.members = members

    def __call__(
        self, request: Request, context: Context
    ) -> Request | Response | Awaitable[Request | Response]:
        for index, member in enumerate(self.members):
            outcome = member(request, context)
            if isinstance(outcome, Response):
                return outcome
            if not isinstance(outcome, Request):
                return self._finish(index + 1, outcome, context)
            request = outcome
        return request

    async def _finish(
        self, index: int, outcome: Awaitable[Request | Response], context: Context
    ) -> Request | Response:
        result = await outcome
        for member in self.members[index:]:
            if not isinstance(result, Request):
                return result
            following = member(result, context)
            result = await following if inspect.isawaitable(following) else following
        return result


class OutboundChain:
    """Outbound policies one after the other, each with the response of the one before."""

    __slots__ = ("members",)

    def __init__(self, members: tuple[Outbound, ...]) -> None:
        self.members = members

    def __call__(
        self, response: Response, request: Request, context: Context
    ) -> Response | Awaitable[Response]:
        for index, member in enumerate(self.members):
            outcome = member(response, request, context)
            if not isinstance(outcome, Response):
                return self._finish(index + 1, outcome, request, context)
            response = outcome
        return response

    async def _finish(
        self, index: int, outcome: Awaitable[Response], request: Request, context: Context
    ) -> Response:
        response = await outcome
        for member in self.members[index:]:
            following = member(response, request, context)
            response = await following if inspect.isawaitable(following) else following
        return response
