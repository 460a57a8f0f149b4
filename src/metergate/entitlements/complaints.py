"""What is said in the log of an OpenMeter that fails: at once, then rarely, and when it is over.

Logger ``metergate.entitlements``. Extras: ``kind`` (outage, misdirected, blocked, unauthorized, throttled, bug),
``failures`` since the last line.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal

from metergate.errors import (
    OpenMeterBlocked,
    OpenMeterError,
    OpenMeterMisdirected,
    OpenMeterThrottled,
    OpenMeterUnauthorized,
)

Kind = Literal["outage", "misdirected", "blocked", "unauthorized", "throttled", "bug"]
KINDS: tuple[Kind, ...] = ("outage", "misdirected", "blocked", "unauthorized", "throttled", "bug")
_KIND_OF: dict[type[OpenMeterError], Kind] = {
    OpenMeterMisdirected: "misdirected",
    OpenMeterBlocked: "blocked",
    OpenMeterUnauthorized: "unauthorized",
    OpenMeterThrottled: "throttled",
}
_SAID: dict[Kind, tuple[int, str]] = {
    "misdirected": (logging.ERROR, "No entitlement can be checked: %s"),
    "blocked": (
        logging.WARNING,
        "Some entitlements cannot be checked, others may: %s. If it is all of them, see to apiKey, too",
    ),
    "unauthorized": (logging.ERROR, "OpenMeter refuses our API key, no entitlement can be checked: %s"),
    "throttled": (logging.WARNING, "OpenMeter asks us to slow down: %s"),
    "outage": (logging.WARNING, "An entitlement could not be checked: %s"),
}

EVERY_SECONDS = 60.0
"""At most one line of a kind in this time, however many requests fail."""

logger = logging.getLogger("metergate.entitlements")


def kind_of(error: OpenMeterError) -> Kind:
    """What went wrong, in one word for metrics and logs."""
    return _KIND_OF.get(type(error), "outage")


class Complaints:
    """Says what fails, once a minute and kind."""

    def __init__(self) -> None:
        self._said: dict[Kind, float] = {}
        self._unsaid: Counter[Kind] = Counter()

    def failed(self, error: OpenMeterError, now: float) -> None:
        """A request failed. Where an operator has to act (the key, the URL) it is an error; others are warnings."""
        kind = kind_of(error)
        failures = self._turn(kind, now)
        if not failures:
            return
        level, message = _SAID[kind]
        logger.log(level, message, error, extra={"kind": kind, "failures": failures})

    def broke(self, bug: Exception, now: float) -> None:
        """Our own code raised what it should not."""
        failures = self._turn("bug", now)
        if failures:
            extra = {"kind": "bug", "failures": failures}
            logger.error("A bug in the check of an entitlement: %r", bug, exc_info=bug, extra=extra)

    def recovered(self) -> None:
        """OpenMeter answers again after it counted as failing."""
        failures = sum(self._unsaid.values())
        self._said.clear()
        self._unsaid.clear()
        logger.info("OpenMeter answers again", extra={"failures": failures})

    def _turn(self, kind: Kind, now: float) -> int:
        """How many failures a line now stands for; 0 if it is too soon for one."""
        self._unsaid[kind] += 1
        if now - self._said.get(kind, float("-inf")) < EVERY_SECONDS:
            return 0
        self._said[kind] = now
        return self._unsaid.pop(kind)
