"""May this subject use these features? Pure: a snapshot, the policy's settings and the time in, a decision out.
Nothing here asks, waits, logs or keeps anything. (The local count is asked beside it: `counted`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import msgspec

from metergate.entitlements.snapshot import Snapshot
from metergate.entitlements.usage.holds import Hold
from metergate.openmeter.values import FeatureValue
from metergate.policy.model import EntitlementCheck

Reason = Literal["granted", "stale", "error_allowed", "exhausted", "no_access", "not_found", "error"]
"""Why a decision came out as it did.

* ``granted``: OpenMeter's answer grants all features.
* ``stale``: so does its last answer, which has to do while OpenMeter cannot be asked.
* ``error_allowed``: there is no usable answer, and ``onError`` is ``allow``.
* ``exhausted``: a metered feature has nothing left.
* ``no_access``: the entitlement is there and denies.
* ``not_found``: no such entitlement, no such customer, or a deleted one.
* ``error``: there is no usable answer, and ``onError`` is ``deny``.
"""

FailureReason = Literal["exhausted", "no_access", "not_found", "error"]

REASONS: tuple[Reason, ...] = (
    "granted",
    "stale",
    "error_allowed",
    "exhausted",
    "no_access",
    "not_found",
    "error",
)

_BY_USAGE = "by the usage recorded here"

FORBIDDEN = 403
UNAVAILABLE = 503
"""For a denial because OpenMeter cannot be asked: not the client's fault, and worth another try
(``retry_after``).
"""

_LEAST_PROMISING = (403, 402, 429)
"""The statuses that ``exhaustedStatus`` may be, that with the smallest promise first; see `deny`."""


class Failure(msgspec.Struct, frozen=True):
    """One feature that was not granted. Numbers as OpenMeter gave them, None where there are none; ``detail``
    tells apart what ``reason`` puts together. For the log: balances are not for the client.
    """

    feature: str
    reason: FailureReason
    balance: float | None = None
    usage: float | None = None
    overage: float | None = None
    detail: str = ""


class Decision(msgspec.Struct, frozen=True):
    """Whether a request may go on, and why.

    ``status`` is the HTTP status of the denial, 0 where the request goes on. ``failures`` are the features
    not granted, in the policy's order; in shadow mode also of requests that go on. ``age`` is how many
    seconds ago OpenMeter was asked; None where the answer is fresh enough to be granted without a look, and
    where there is none. ``shadowed``: it would have been denied, but the policy's mode is ``shadow``.
    ``retry_after``: whole seconds for the client to wait, with status 503 only. ``hold``: what is held of the
    subject's balances for the request, to be released when it has ended.
    """

    allowed: bool
    reason: Reason
    status: int = 0
    failures: tuple[Failure, ...] = ()
    age: float | None = None
    shadowed: bool = False
    retry_after: int | None = None
    hold: Hold | None = None


GRANTED = Decision(allowed=True, reason="granted")


def decide(
    snapshot: Snapshot,
    features: tuple[str, ...],
    check: EntitlementCheck,
    *,
    now: float,
    stale: bool = False,
) -> Decision:
    """Decide on what a snapshot says.

    Args:
        features: the feature keys that are all needed.
        now: on the clock of ``snapshot.asked_at``.
        stale: the snapshot serves because OpenMeter cannot be asked.
    """
    failures = tuple(_failures(snapshot, features))
    age = max(now - snapshot.asked_at, 0.0)
    if failures:
        return deny(failures, check, age=age)
    return Decision(allowed=True, reason="stale", age=age) if stale else GRANTED


def grants(snapshot: Snapshot, features: tuple[str, ...]) -> bool:
    """Whether a snapshot grants all of these features."""
    return next(_failures(snapshot, features), None) is None


def decide_used_up(snapshot: Snapshot, feature: str, check: EntitlementCheck, *, now: float) -> Decision:
    """Decide where OpenMeter's answer grants and the usage recorded here has eaten what it left of a feature."""
    value = snapshot.feature(feature)
    failure = (
        Failure(feature, "exhausted", detail=_BY_USAGE)
        if value is None
        else _failure(value, "exhausted", _BY_USAGE)
    )
    return deny((failure,), check, age=max(now - snapshot.asked_at, 0.0))


def decide_without_answer(
    features: tuple[str, ...], check: EntitlementCheck, *, retry_after: float
) -> Decision:
    """Decide where OpenMeter cannot be asked and no answer of it is young enough: ``onError`` of each feature
    says. One that says ``deny`` is enough to deny; only such features are failures.

    ``retry_after``: seconds until OpenMeter is asked again.
    """
    strict = [feature for feature in features if check.of(feature).on_error == "deny"]
    if not strict:
        return Decision(allowed=True, reason="error_allowed")
    failures = tuple(Failure(feature, "error", detail="OpenMeter cannot be asked") for feature in strict)
    return deny(failures, check, age=None, retry_after=max(math.ceil(retry_after), 1))


def deny(
    failures: tuple[Failure, ...],
    check: EntitlementCheck,
    *,
    age: float | None,
    retry_after: int | None = None,
) -> Decision:
    """The denial for these failures; in shadow mode the decision that lets the request go on and tells of it.

    A status promises something: 503 that the same request may do better soon, 429 that waiting helps, 402 that
    paying does, 403 nothing. The answer to several failures promises no more than is so for all of them. So:

    1. One that no quota causes (``no_access``, ``not_found``): 403.
    2. Else, if any is ``exhausted``: of the features' ``exhaustedStatus`` 403 before 402 before 429. It is
       known, and asking again shortly would not change it.
    3. Else all are ``error``: 503.

    The reason is that of the failure that the status goes by, the first such in the policy's order. Who wants
    to know it of each feature reads the failures.
    """
    reason, status = _verdict(failures, check)
    if check.mode == "shadow":
        return Decision(allowed=True, reason=reason, failures=failures, age=age, shadowed=True)
    return Decision(
        allowed=False,
        reason=reason,
        status=status,
        failures=failures,
        age=age,
        retry_after=retry_after if status == UNAVAILABLE else None,
    )


def _verdict(failures: tuple[Failure, ...], check: EntitlementCheck) -> tuple[FailureReason, int]:
    """The reason and the status of several failures, by the rules of `deny`."""
    reasons = [failure.reason for failure in failures]
    for reason in reasons:
        if reason in ("no_access", "not_found"):
            return reason, FORBIDDEN
    if "exhausted" not in reasons:
        return "error", UNAVAILABLE
    statuses = {
        check.of(failure.feature).exhausted_status for failure in failures if failure.reason == "exhausted"
    }
    return "exhausted", next(status for status in _LEAST_PROMISING if status in statuses)


def _failures(snapshot: Snapshot, features: tuple[str, ...]) -> Iterator[Failure]:
    for feature in features:
        value = snapshot.feature(feature)
        if value is None:
            yield Failure(feature, "not_found", detail=snapshot.lack)
        elif not value.has_access:
            empty = value.balance is not None and value.balance <= 0
            yield _failure(value, "exhausted" if empty else "no_access")


def _failure(value: FeatureValue, reason: FailureReason, detail: str = "") -> Failure:
    return Failure(value.feature, reason, value.balance, value.usage, value.overage, detail)
