"""Who was not let in, and why: the answer, and the line in the log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metergate.entitlements import Decision

_log = logging.getLogger("metergate.engine")

PERIOD_SECONDS = 10.0
LINES = 500


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request is not let in: the HTTP ``status`` and ``detail`` of the answer, and the ``reason`` for logs and metrics.

    ``retry_after`` is in seconds, for answers that may differ soon; ``decision`` has the failed features, if it got so far.
    """

    status: int
    detail: str
    reason: str
    retry_after: int | None = None
    decision: Decision | None = None

    @property
    def age(self) -> float | None:
        """How many seconds ago OpenMeter was asked, to the millisecond; None where it was not."""
        if self.decision is None or self.decision.age is None:
            return None
        return round(self.decision.age, 3)

    def members(self) -> dict[str, Any]:
        """What the problem that answers has of its own: ``detail``, ``reason``, and where OpenMeter was asked ``age``, the
        seconds since then, and ``features``: which failed and why. No balances: they are not for whoever may call.
        """
        members: dict[str, Any] = {"detail": self.detail, "reason": self.reason}
        if self.age is not None:
            members["age"] = self.age
        if self.decision is not None:
            members["features"] = [
                {"feature": failure.feature, "reason": failure.reason} for failure in self.decision.failures
            ]
        return members


NO_USER = Denial(401, "This API meters its callers and there is no authenticated user.", "no_user")
NO_SUBJECT = Denial(
    403, "The authenticated user has no subject that an entitlement could be checked for.", "no_subject"
)


def denial_of(decision: Decision) -> Denial:
    features = ", ".join(failure.feature for failure in decision.failures)
    if decision.reason == "error":
        detail = f"It could not be found out whether you are entitled to: {features}. Try again shortly."
        return Denial(
            decision.status,
            detail,
            decision.reason,
            retry_after=math.ceil(decision.retry_after or 1),
            decision=decision,
        )
    if decision.reason == "exhausted":
        detail = f"Your quota is used up for: {features}."
    else:
        detail = f"You have no access to: {features}."
    return Denial(decision.status, detail, decision.reason, decision=decision)


class DenialLog:
    """Says each denial at once, but in a flood no more than is of use.

    In each period of `PERIOD_SECONDS` every subject, reason and route has one line, and all together `LINES`; what was left
    out is said in numbers at the begin of the next. A line takes 20 µs and more: a client that is denied and goes on asking
    would otherwise cost more than one that is served.
    """

    __slots__ = ("_clock", "_policy", "_said", "_unsaid", "_until", "_verb", "unsaid")

    def __init__(self, policy: str, *, shadow: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._verb = "would deny (shadow)" if shadow else "denied"
        self._clock = clock
        self._until = float("-inf")
        self._said: set[tuple[str | None, str, str]] = set()
        self._unsaid = 0
        self.unsaid = 0
        """How many have had no line of their own, since the start."""

    def say(self, subject: str | None, denial: Denial, route: str) -> None:
        now = self._clock()
        if now >= self._until:
            self._begin_period(now)
        whom = (subject, denial.reason, route)
        if whom in self._said or len(self._said) >= LINES:
            self._unsaid += 1
            self.unsaid += 1
            return
        self._said.add(whom)
        _log.warning(
            "policy %s %s: %s",
            self._policy,
            self._verb,
            denial.reason,
            extra={
                "policy": self._policy,
                "subject": subject,
                "route": route,
                "reason": denial.reason,
                "age": denial.age,
                "failures": _failures(denial),
            },
        )

    def _begin_period(self, now: float) -> None:
        if self._unsaid:
            _log.warning(
                "policy %s %s %d requests more, like those it has named before",
                self._policy,
                self._verb,
                self._unsaid,
                extra={"policy": self._policy, "unsaid": self._unsaid},
            )
        self._until = now + PERIOD_SECONDS
        self._said.clear()
        self._unsaid = 0


def _failures(denial: Denial) -> list[dict[str, Any]]:
    return [
        {
            "feature": failure.feature,
            "reason": failure.reason,
            "balance": failure.balance,
            "usage": failure.usage,
            "overage": failure.overage,
        }
        for failure in (denial.decision.failures if denial.decision else ())
    ]
