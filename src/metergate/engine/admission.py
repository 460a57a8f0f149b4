"""One ``openmeter-inbound`` policy at work: whom it lets in, and the events it records."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from metergate.engine.backends import Backends
from metergate.engine.counting import Count
from metergate.engine.denials import NO_SUBJECT, NO_USER, Denial, DenialLog, denial_of
from metergate.engine.explanations import Explanations
from metergate.engine.metering import Recording
from metergate.entitlements import Decision
from metergate.entitlements.decision import GRANTED
from metergate.entitlements.usage.holds import Hold
from metergate.policy.events import INVALID_DATA, EventEncoder
from metergate.policy.events import NO_SUBJECT as UNCOUNTED
from metergate.policy.model import Policy
from metergate.policy.traffic import demand_of

_log = logging.getLogger("metergate.engine")

_MOST_WARNED = 1000
"""So many routes and meters are warned of, once each: what a host names as the route may have no end."""


class UserLike(Protocol):
    """An authenticated user, as far as metering looks: `metergate.gateway.http.User` is one."""

    @property
    def sub(self) -> str: ...

    @property
    def data(self) -> Mapping[str, Any]: ...


class Admission(msgspec.Struct, frozen=True, gc=False):
    """The answer to one user at one policy: let in where ``denial`` is None. ``subject`` is who pays, if anybody.

    ``explanation`` is the value for the response header `Engine.explain_header`; None where there is none. ``hold`` is
    what is held for the request of its subject's balances: for `Metering.arm`.
    """

    subject: str | None
    denial: Denial | None = None
    explanation: str | None = None
    hold: Hold | None = None


class Engine:
    """One ``openmeter-inbound`` policy, ready to run."""

    __slots__ = (
        "_check",
        "_decisions",
        "_denials",
        "_destination",
        "_encoder",
        "_entitlements",
        "_explanations",
        "_locals",
        "_read_subject",
        "_required",
        "_statuses",
        "_untold",
        "_warned",
        "_without",
        "backends",
        "delivery",
        "demand",
        "policy",
    )

    def __init__(self, policy: Policy, backends: Backends) -> None:
        self.policy = policy
        self.backends = backends
        self.demand = demand_of(policy.meters)
        """What its meters take from the traffic; None where they take nothing."""
        self.delivery = backends.delivery(policy)
        self._entitlements = backends.entitlements(policy)
        self._destination = (policy.api_url, policy.api_key.reveal())
        self._locals = backends.locals
        self._decisions = backends.decisions
        self._encoder = EventEncoder(policy)
        self._read_subject = policy.subject_path.read
        self._required = policy.required_entitlements
        self._check = policy.entitlement_check
        self._statuses = policy.statuses
        self._warned: set[tuple[str, str, str]] = set()
        self._without: dict[frozenset[str], EventEncoder] = {}
        self._denials = DenialLog(policy.name, shadow=policy.entitlement_check.mode == "shadow")
        self._explanations = Explanations(policy.name, policy.entitlement_check.explain_header)
        # The usual decision, of which there is nothing to tell: then it costs nothing to know that.
        self._untold = None if self._explanations.wanted else GRANTED

    @property
    def explain_header(self) -> str | None:
        """The response header for what `Admission.explanation` says, lower case."""
        return self._explanations.header

    def admit(
        self, user: UserLike | None, route: str = "", beside: tuple[Hold, ...] = ()
    ) -> Admission | Awaitable[Admission]:
        """Whether this user may go on, and who pays. An awaitable only where OpenMeter has to be asked first.

        ``route`` names the route in the log. ``beside``: what other policies hold for the same request,
        `Metering.holds`; of one unit that all need it takes one. Order: the subject, then the entitlements (policy.md 6).
        """
        subject = self._read_subject(user)
        if not self._required:
            return Admission(subject)
        if subject is None:
            return self._refuse_nobody(user, route)
        decision = self._entitlements.decide(subject, self._required, self._check, beside)
        if decision is None:
            return self._ask(subject, route, beside)
        if decision is self._untold:
            self._decisions["granted"] += 1
            return Admission(subject)
        return self._answer(subject, decision, route)

    def admit_at_once(
        self, user: UserLike | None, route: str = "", beside: tuple[Hold, ...] = ()
    ) -> Admission | None:
        """As `admit`, on any thread, where nobody has to be asked; None where `admit` has to find out, on the event loop."""
        subject = self._read_subject(user)
        if not self._required:
            return Admission(subject)
        if subject is None:
            return self._refuse_nobody(user, route)
        decision = self._entitlements.grant(subject, self._required, self._check, beside)
        return None if decision is None else self._answer(subject, decision, route)

    async def _ask(self, subject: str, route: str, beside: tuple[Hold, ...]) -> Admission:
        decision = await self._entitlements.ask(subject, self._required, self._check, beside)
        return self._answer(subject, decision, route)

    def _refuse_nobody(self, user: UserLike | None, route: str) -> Admission:
        denial = NO_USER if user is None else NO_SUBJECT
        self._decisions[denial.reason] += 1
        self._denials.say(None, denial, route)
        shadowed = self._check.mode == "shadow"
        told = None
        if self._explanations.wanted:
            told = self._explanations.tell(denial.reason, None, shadowed=shadowed, subject=None, route=route)
        return Admission(None, None if shadowed else denial, told)

    def _answer(self, subject: str, decision: Decision, route: str) -> Admission:
        self._decisions[decision.reason] += 1
        told = self._tell(subject, decision, route) if self._explanations.wanted else None
        if decision.allowed and not decision.shadowed:
            return Admission(subject, None, told, decision.hold)
        denial = denial_of(decision)
        self._denials.say(subject, denial, route)
        return Admission(subject, None if decision.allowed else denial, told)

    def _tell(self, subject: str, decision: Decision, route: str) -> str | None:
        age = decision.age
        if age is None and decision.reason == "granted":
            age = self._entitlements.age(subject)
        return self._explanations.tell(
            decision.reason, age, shadowed=decision.shadowed, subject=subject, route=route
        )

    async def check(self, subject: str, feature: str) -> Decision:
        """What this policy would decide now of one feature, required or not. Nobody is let in by it: nothing is held.

        With the policy's ``entitlementCheck``: waits for OpenMeter for ``timeoutSeconds`` at most, and only where no
        answer serves; in shadow mode ``allowed`` is always so, and ``shadowed`` says that it would not be.
        """
        self.backends.watch(self.policy, feature)
        return await self._entitlements.check(subject, (feature,), self._check)

    async def balance(self, subject: str, feature: str) -> float | None:
        """What is left of a feature, in units of its meter: of OpenMeter's balance what was not recorded here since, nor is
        held by requests in flight. None where there is no balance, and where OpenMeter cannot be asked.

        A feature that no policy requires is counted here from the first look of this process on.
        """
        self.backends.watch(self.policy, feature)
        return await self._entitlements.balance(subject, feature, self._check)

    def record(self, recording: Recording) -> Future[None] | None:
        """Make and keep the events of one settled request; for `Metering`."""
        made = (recording.encoder or self._encoder).record(
            recording.request_id,
            recording.subject,
            recording.time_ms,
            recording.runtime,
            recording.sequence,
            recording.seen,
            self._counts_nowhere,
        )
        for drop in made.dropped:
            self.backends.dropped[drop.reason] += 1
            self._warn_dropped(drop.reason, drop.type, drop.message, recording)
        if not made.count:
            return None
        local = self._locals.get(self._destination)
        if local is None:
            return self.delivery.record(made.lines, made.count)
        with local.lock:
            local.spend(made.events)  # before they are written: killed in between, we are strict
            return self.delivery.record(made.lines, made.count)

    def _warn_dropped(self, reason: str, meter: str, message: str, recording: Recording) -> None:
        extra = {"policy": self.policy.name, "route": recording.route, "meter": meter, "reason": reason}
        if reason == INVALID_DATA:
            _log.error("policy %s: event %s dropped: %s", self.policy.name, meter, message, extra=extra)
            return
        once = (recording.route, reason, "" if reason == UNCOUNTED else meter)
        if once in self._warned or len(self._warned) >= _MOST_WARNED:
            return
        self._warned.add(once)
        if reason != UNCOUNTED:
            _log.warning(
                "policy %s: %s Counted, said once for this route", self.policy.name, message, extra=extra
            )
        else:
            _log.warning(
                "policy %s: a request without a subject at %s is not metered on this route; counted, said once",
                self.policy.name,
                self.policy.subject_path,
                extra=extra,
            )

    def _counts_nowhere(self, event_type: str, missing: tuple[str, ...]) -> bool:
        """Whether an event counts for no meter as this is missing in it; known where features are counted here."""
        local = self._locals.get(self._destination)
        return isinstance(local, Count) and local.counts_nowhere(event_type, missing)

    def meters(self, status: int) -> bool:
        """Whether a response with that final status is metered."""
        return status in self._statuses

    def without(self, types: frozenset[str]) -> EventEncoder:
        """An encoder that leaves the configured meters of these types out."""
        left_out = types.intersection([meter.type for meter in self.policy.meters])
        if not left_out:
            return self._encoder
        encoder = self._without.get(left_out)
        if encoder is None:
            kept = tuple(meter for meter in self.policy.meters if meter.type not in left_out)
            encoder = self._without[left_out] = EventEncoder(replace(self.policy, meters=kept))
        return encoder
