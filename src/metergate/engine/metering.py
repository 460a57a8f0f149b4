"""How one request is metered: what was armed and set on its way, recorded once when its status is settled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from metergate.engine.traffic import Traffic
from metergate.errors import UsageError
from metergate.policy.events import EventEncoder
from metergate.policy.meters import runtime_meters
from metergate.policy.model import Meter
from metergate.policy.secret import Secret
from metergate.policy.traffic import NOTHING_SEEN, Seen

if TYPE_CHECKING:
    from metergate.engine.admission import Engine
    from metergate.entitlements import Decision
    from metergate.entitlements.usage.holds import Hold

_log = logging.getLogger("metergate.engine")

_Durable = tuple["Future[None]", ...]
_NOTHING: _Durable = ()


class Recording(msgspec.Struct, frozen=True, gc=False):
    """What an engine needs to make the events of one request. ``encoder`` replaces the engine's own where set; ``seen`` is
    what was collected of the traffic."""

    request_id: str
    subject: str | None
    time_ms: int
    runtime: tuple[Meter, ...] | None
    sequence: dict[str, int]
    route: str
    encoder: EventEncoder | None = None
    seen: Seen = NOTHING_SEEN


class Metering:
    """How one request will be metered: armed by the policies that let it in, settled once with its final status.

    ``now_ms`` gives the time of an event, milliseconds since 1970 UTC.
    """

    __slots__ = ("_armed", "_now_ms", "_runtime", "_settled", "holds", "request_id", "route", "traffic")

    def __init__(self, request_id: str, now_ms: Callable[[], int] | None = None) -> None:
        self.request_id = request_id
        self._now_ms = now_ms
        self._runtime: tuple[Meter, ...] = ()
        self._armed: list[tuple[Engine, str | None, str]] = []
        self.holds: tuple[Hold, ...] = ()
        """What is held for this request, for the next policy's `Engine.admit`."""
        self.traffic: Traffic | None = None
        """What collects for the meters that take something from the traffic; None where none of them does."""
        self.route: str | None = None
        """The route's template, where a host learns it only after `arm`, or more of it; before it settles."""
        self._settled = False

    def set_meters(self, meters: Any) -> None:
        """The run-time meters of this request: one or a list; replaces earlier ones, ``[]`` clears. Copied.

        Each is a mapping with ``type`` and, if wanted, ``data``, ``id``, ``subject``, ``source``, ``time``, or a
        `Meter`. They replace the configured meters of their types. Raises UsageError on a bad argument. Too late, and
        logged as such, once the response is settled.
        """
        checked = runtime_meters(meters)
        if self._settled:
            _log.error("set_meters came after the response was settled; request %s", self.request_id)
            return
        self._runtime = checked

    def add_meters(self, meters: Any) -> None:
        """As `set_meters`, but earlier run-time meters stay."""
        checked = runtime_meters(meters)
        if self._settled:
            _log.error("add_meters came after the response was settled; request %s", self.request_id)
            return
        self._runtime += checked

    def get_meters(self) -> tuple[Meter, ...]:
        """The run-time meters set so far."""
        return self._runtime

    def arm(self, engine: Engine, subject: str | None, route: str = "", hold: Hold | None = None) -> None:
        """Meter this request by that engine's policy, whose `admit` has let it in and holds this for it."""
        self._armed.append((engine, subject, route))
        if engine.demand is not None:
            if self.traffic is None:
                self.traffic = Traffic(engine.demand, engine.backends.not_read)
            self.traffic.add(engine, engine.demand)
        if hold is not None:
            self.holds = (*self.holds, hold)

    def is_armed_by(self, engine: Engine) -> bool:
        """Whether that engine's policy has let this request in already."""
        return any(armed is engine for armed, _, _ in self._armed)

    def release(self) -> None:
        """Give back what is held for this request: its cost is counted, or it costs nothing. Once it has ended."""
        holds, self.holds = self.holds, ()
        for hold in holds:
            hold.release()

    async def check(self, feature: str) -> Decision:
        """What would be decided now of a feature for who pays for this request; see `Engine.check`.

        Of several policies that one answers that requires the feature, else the first that knows who pays. Raises
        UsageError where none has let this request in.
        """
        engine, subject = self._payer(feature)
        return await engine.check(subject, feature)

    async def balance(self, feature: str) -> float | None:
        """What is left of a feature to who pays for this request; see `check` and `Engine.balance`."""
        engine, subject = self._payer(feature)
        return await engine.balance(subject, feature)

    def _payer(self, feature: str) -> tuple[Engine, str]:
        payers = [(engine, subject) for engine, subject, _ in self._armed if subject is not None]
        if not payers:
            raise UsageError(
                f"whose {feature} is asked for? No openmeter-inbound policy with a subject has let this request in: put "
                "one on the route, before what asks"
            )
        return next((one for one in payers if feature in one[0].policy.required_entitlements), payers[0])

    @property
    def armed(self) -> bool:
        return bool(self._armed)

    def settle(self, status: int) -> tuple[Future[None], ...]:
        """Record the events for this final status; once, before the response's last byte leaves.

        Returns what has to be awaited before that byte where the durability is ``power``; otherwise an empty tuple.
        A later call does nothing.
        """
        if self._settled:
            return _NOTHING
        self._settled = True
        if self.traffic is not None and self.route is not None:
            self.traffic.routed(self.route)
        try:
            return self._record(status) if self._armed else _NOTHING
        finally:
            if self.holds:
                self.release()

    def _record(self, status: int) -> tuple[Future[None], ...]:
        now = self._now_ms() if self._now_ms is not None else time.time_ns() // 1_000_000
        if len(self._armed) == 1:
            engine, subject, route = self._armed[0]
            if not engine.meters(status):
                return _NOTHING
            seen = NOTHING_SEEN if self.traffic is None else self.traffic.seen(status)
            durable = engine.record(
                Recording(
                    self.request_id, subject, now, self._runtime or None, {}, self.route or route, None, seen
                )
            )
            return _NOTHING if durable is None else (durable,)
        return self._record_several(status, now)

    def _record_several(self, status: int, now: int) -> tuple[Future[None], ...]:
        """Several policies: run-time meters go to each destination once, by its first policy with a subject.

        The ids of configured meters count on through all of one URL, because two keys of it may be of one organisation.
        Those of run-time meters begin anew for each key: there they are the same usage, sent twice.
        """
        armed = [one for one in self._armed if one[0].meters(status)]
        carriers = _carriers(armed)
        types = frozenset(meter.type for meter in self._runtime)
        seen = NOTHING_SEEN if self.traffic is None or not armed else self.traffic.seen(status)
        sequences: dict[str, dict[str, int]] = {}
        pending: list[Future[None]] = []
        for index, (engine, subject, route) in enumerate(armed):
            carries = index in carriers
            sequence = sequences.setdefault(engine.policy.api_url, {})
            numbers = _without(types, sequence) if types and carries else sequence
            durable = engine.record(
                Recording(
                    self.request_id,
                    subject,
                    now,
                    self._runtime or None if carries else None,
                    numbers,
                    self.route or route,
                    engine.without(types) if types and not carries else None,
                    seen,
                )
            )
            if numbers is not sequence:
                sequence.update(numbers)
            if durable is not None:
                pending.append(durable)
        return tuple(pending)


def _carriers(armed: list[tuple[Engine, str | None, str]]) -> frozenset[int]:
    """For each destination which one sends the run-time meters: the first, but rather one that knows who pays."""
    carriers: dict[tuple[str, Secret], int] = {}
    for index in sorted(range(len(armed)), key=lambda index: armed[index][1] is None):
        policy = armed[index][0].policy
        carriers.setdefault((policy.api_url, policy.api_key), index)
    return frozenset(carriers.values())


def _without(types: frozenset[str], sequence: dict[str, int]) -> dict[str, int]:
    """The sequence without what meters of these types have taken of it: ``call``, ``call-2``."""
    return {
        name: count
        for name, count in sequence.items()
        if name not in types and name.rpartition("-")[0] not in types
    }
