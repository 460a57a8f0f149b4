"""What OpenMeter's answer to a batch means for the events in it. Pure: an answer and a standing in, an action out.

====================================  =========  ==========================================================
answer                                verdict    why
====================================  =========  ==========================================================
204, 202                              delivered  the two that OpenMeter's versions give
400, 413, 422, several events         split      one bad event refuses all: halve until it stands alone
400, 413, 422, one event, OpenMeter   bury       to the dead letters with the answer
400, 422, one event, somebody else    retry      ten times, slowly, then bury (see below)
401, 403                              retry      the key is wrong: an operator has to act, nothing is lost
429, and 503 with ``Retry-After``     retry      when we are told to
no answer, 408, 425, 5xx              retry      jittered exponential back-off, for ever
anything else (200, 3xx, 404, …)      retry      not OpenMeter: ``apiUrl`` leads elsewhere; slowly and loudly
====================================  =========  ==========================================================

200 is not believed: what answers 200 to this POST is a captive portal or a web page, and events would vanish.

*When everything is refused.* A misconfigured proxy can answer 400 to all that comes (plain HTTP to a TLS port does). An
answer that is not in OpenMeter's form says nothing about an event, so such an event is kept and tried again: over ten
refusals, some five minutes, an operator has the error in the log. After that it is buried, since a proxy that rewrites the
bodies of errors must not let one bad event hold up all billing. If OpenMeter itself refuses one event after another, none
delivered between, the way is rather wrong than the events: after 20, every further refusal costs a pause that doubles up to
``REFUSING_CAP``. So it goes on, and at a speed at which somebody notices; the first delivery restores full speed. Nothing is
lost either way: dead letters keep the bytes and can be driven again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metergate.openmeter.ingest import IngestAnswer

Verdict = Literal["delivered", "split", "bury", "retry"]
State = Literal["ok", "retrying", "throttled", "unauthorized", "misdirected", "refusing"]
"""How a destination is: all well; no answer or an error of the server; told to wait; key refused; not OpenMeter at that URL;
every event refused. (``blocked`` in statistics: the spool's own disk.)"""

BACKOFF_BASE, BACKOFF_CAP = 0.5, 30.0
SLOW_BASE, SLOW_CAP = 10.0, 60.0
LONGEST_RETRY_AFTER = 600.0
TRIES_OF_A_STRANGER = 10
REFUSED_IN_A_ROW = 20
REFUSING_CAP = 5.0

_REFUSED = frozenset({400, 413, 422})
_SERVER_WAITS = frozenset({0, 408, 425})


@dataclass(frozen=True, slots=True)
class Standing:
    """What came before this answer.

    ``failures``: tries in a row that settled nothing. ``refusals``: how often the event that is next, alone, was refused by
    somebody who is not OpenMeter. ``buried``: events refused in a row, none delivered between.
    """

    failures: int = 0
    refusals: int = 0
    buried: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What to do with the batch, after ``pause`` seconds of sending nothing, and the state to report meanwhile."""

    verdict: Verdict
    state: State
    pause: float = 0.0


def after_response(events: int, answer: IngestAnswer, standing: Standing, jitter: float) -> Action:
    """What to do with a batch of ``events`` that got ``answer``. ``jitter`` is a random number from 0 to 1."""
    status = answer.status
    if status in (202, 204):
        return Action("delivered", "ok")
    if status in _REFUSED:
        return _after_refusal(events, answer, standing, jitter)
    if status in (401, 403):
        return Action("retry", "unauthorized", _slowly(standing.failures, jitter))
    if status == 429 or (status == 503 and answer.retry_after is not None):
        return Action("retry", "throttled", _as_told(answer.retry_after, standing.failures, jitter))
    if status in _SERVER_WAITS or 500 <= status <= 599:
        return Action("retry", "retrying", backoff(standing.failures, jitter))
    return Action("retry", "misdirected", _slowly(standing.failures, jitter))


def backoff(attempt: int, jitter: float, base: float = BACKOFF_BASE, cap: float = BACKOFF_CAP) -> float:
    """Seconds before try number ``attempt`` + 2: doubling from ``base`` up to ``cap``, of which a random half is taken off.

    ``jitter`` from 0 to 1. Half is always waited, so that a server in trouble is never hammered.
    """
    return min(cap, base * 2.0 ** min(attempt, 30)) * (0.5 + jitter / 2)


def _after_refusal(events: int, answer: IngestAnswer, standing: Standing, jitter: float) -> Action:
    refusing = standing.buried >= REFUSED_IN_A_ROW
    state: State = "refusing" if refusing else "ok"
    pause = backoff(standing.buried - REFUSED_IN_A_ROW, jitter, 0.1, REFUSING_CAP) if refusing else 0.0
    if events > 1:
        return Action("split", state, pause)
    # 413 comes from proxies as well, and one event cannot be made smaller.
    if answer.by_openmeter or answer.status == 413 or standing.refusals + 1 >= TRIES_OF_A_STRANGER:
        return Action("bury", state, pause)
    return Action("retry", "misdirected", _slowly(standing.refusals, jitter))


def _slowly(failures: int, jitter: float) -> float:
    return backoff(failures, jitter, SLOW_BASE, SLOW_CAP)


def _as_told(retry_after: float | None, failures: int, jitter: float) -> float:
    if retry_after is None:
        return backoff(failures, jitter)
    # Never sooner than told, and not all processes of a host in the same moment.
    return min(max(retry_after, 0.05), LONGEST_RETRY_AFTER) * (1 + jitter / 10)
