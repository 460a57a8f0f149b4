"""What one request's meters take from the traffic, handed in by the host while the request and its response pass.

Only where a policy that was armed has such a meter is there a `Traffic`, and only what one of them takes is asked for:

    metering.arm(engine, subject, route, hold)
    if (traffic := metering.traffic) is not None:
        traffic.request("GET", "/orders/7", "page=2", header, route="/orders/{id}", user=user)
    ...
    look = traffic.response(200, header, began=began, received=lambda: body_bytes)   # the head is known
    for chunk in body: ...; look.feed(chunk)      # behind each chunk; the last one before it leaves
    look.end()                                    # the body has come to its own end: else what was seen is partial
    metering.settle(200)

``response`` answers None where nobody looks at the body. Nothing here waits, raises or holds more than the bounds of
`metergate.streams`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, final
from urllib.parse import parse_qsl

from metergate.policy.expressions import Facts
from metergate.policy.subject import UserLike
from metergate.policy.traffic import Demand, Seen, TokenSource
from metergate.streams import Members, Reading, Tokens, Watch

if TYPE_CHECKING:
    from metergate.engine.admission import Engine

_log = logging.getLogger("metergate.engine")

Header = Callable[[str], str | None]
"""Gives a header by its name in lower case, several lines of it joined by ``", "``; None where there is none."""


@final
class Look:
    """A look along at one response's body. Show it every chunk, as it travels; say when the body is complete."""

    __slots__ = ("_watches", "bytes", "whole")

    def __init__(self, watches: tuple[Watch, ...]) -> None:
        self._watches = watches
        self.bytes = 0
        self.whole = False

    def feed(self, chunk: bytes) -> None:
        """Look at the next chunk. Never raises."""
        self.bytes += len(chunk)
        for watch in self._watches:
            watch.feed(chunk)

    def end(self) -> None:
        """The body has come to its own end: neither client nor upstream broke off."""
        self.whole = True


@final
class Traffic:
    """Collects for one request what the meters of its policies take."""

    __slots__ = (
        "_began",
        "_engines",
        "_facts",
        "_look",
        "_not_read",
        "_received",
        "_sources",
        "_watches",
        "demand",
    )

    def __init__(self, demand: Demand, not_read: Counter[str]) -> None:
        """``not_read`` counts, by the reasons of `metergate.streams.NOT_READ`, what could not be read."""
        self.demand = demand
        self._engines: tuple[Engine, ...] = ()
        self._not_read = not_read
        self._facts = Facts()
        self._began: float | None = None
        self._received: Callable[[], int] | None = None
        self._look: Look | None = None
        self._sources: tuple[TokenSource | None, ...] = ()
        self._watches: tuple[Watch, ...] = ()

    def add(self, engine: Engine, demand: Demand) -> None:
        """Collect for that engine's policy, too; for `Metering.arm`."""
        self._engines = (*self._engines, engine)
        self.demand |= demand

    @property
    def route(self) -> str | None:
        """The route's template. A host that learns it late may set it until the request is settled."""
        return self._facts.route

    @route.setter
    def route(self, template: str | None) -> None:
        self._facts.route = template

    def request(
        self, method: str, path: str, query: str, header: Header, *, route: str | None, user: UserLike | None
    ) -> None:
        """Note the request as it has reached the policy that was armed last.

        ``path`` as the client wrote it, without the query; ``query`` as it wrote that, without the question mark;
        ``route`` is the route's template.
        """
        needs, facts = self.demand.needs, self._facts
        facts.method, facts.path, facts.route, facts.user = method, path, route, user
        if needs.query:
            values: dict[str, str] = {}
            for name, value in parse_qsl(query, keep_blank_values=True):
                if name in needs.query:
                    values.setdefault(name, value)
            facts.query = values
        if needs.request_headers:
            facts.request_headers = _headers(needs.request_headers, header)

    def routed(self, route: str) -> None:
        """Note the route's template, where the host learns it only after `request`."""
        self._facts.route = route

    def response(
        self,
        status: int,
        header: Header,
        *,
        began: float | None = None,
        received: Callable[[], int] | None = None,
        has_body: bool = True,
    ) -> Look | None:
        """Note the response's head, and say who wants to see its body: show it to that. Once.

        Args:
            status: what will be sent.
            header: of the response.
            began: when the request came, by `time.perf_counter`.
            received: how many bytes of the request's body have come by now; asked at the end.
            has_body: False for a response that has none, such as that to HEAD.
        """
        self._began, self._received = began, received
        wanting = [engine.demand for engine in self._engines if engine.meters(status)]
        demands = [demand for demand in wanting if demand is not None]
        if not demands:
            return None
        demand = _union(demands)
        if demand.needs.response_headers:
            self._facts.response_headers = _headers(demand.needs.response_headers, header)
        if not demand.response_body:
            return None
        if has_body and (demand.tokens or demand.needs.members):
            self._watch(demand, header("content-type") or "", header("content-encoding") or "")
        self._look = Look(self._watches)
        return self._look

    def _watch(self, demand: Demand, kind: str, encoding: str) -> None:
        """One watch for each source of tokens; the members go with the first."""
        paths = demand.needs.members
        sources: tuple[TokenSource | None, ...] = tuple(sorted(demand.tokens))
        self._sources = sources or ((None,) if paths else ())
        members = [_members(paths) if paths else None, *(None for _ in self._sources)]
        self._watches = tuple(
            Watch(kind, encoding, tokens=_tokens(source), members=members[index])
            for index, source in enumerate(self._sources)
        )

    def seen(self, status: int) -> Seen:
        """All that was seen, for a response that is settled with this status; for `Metering`."""
        facts, look = self._facts, self._look
        facts.status = status
        if self._began is not None and self.demand.needs.duration:
            facts.duration_ms = (time.perf_counter() - self._began) * 1000.0
        if self._received is not None and self.demand.needs.request_bytes:
            facts.request_bytes = self._received()
        if look is None:
            return Seen(facts)
        facts.response_bytes = look.bytes
        readings = [watch.finish(whole=look.whole) for watch in self._watches]
        self._count(readings)
        if readings:
            facts.body = readings[0].members
        usages = {
            source: reading.usage
            for source, reading in zip(self._sources, readings, strict=True)
            if source is not None
        }
        return Seen(facts, usages)

    def _count(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            for reason, number in reading.not_read.items():
                if not self._not_read[reason]:
                    _log.warning(
                        "the body of a response could not be read for its meters (%s), route %s; counted, said once",
                        reason,
                        self._facts.route,
                        extra={"reason": reason, "route": self._facts.route},
                    )
                self._not_read[reason] += number


def _union(demands: list[Demand]) -> Demand:
    first, *others = demands
    for other in others:
        first |= other
    return first


def _headers(names: Iterable[str], header: Header) -> dict[str, str]:
    found = ((name, header(name)) for name in names)
    return {name: value for name, value in found if value is not None}


def _tokens(source: TokenSource | None) -> Tokens | None:
    return None if source is None else Tokens(source[0], estimate=source[1])


@lru_cache(maxsize=256)
def _members(paths: frozenset[tuple[str, ...]]) -> Members:
    """Made once for each set of paths: as many as there are sets of policies on a route."""
    return Members(sorted(paths))
