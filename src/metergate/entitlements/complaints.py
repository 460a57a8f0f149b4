"""What is said in the log of an OpenMeter that fails: at once, then rarely, and when it is over.

Logger ``metergate.entitlements``. Extras: ``kind`` (outage, unauthorized, throttled, bug), ``failures``
since the last line.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal

from metergate.errors import OpenMeterError, OpenMeterThrottled, OpenMeterUnauthorized

Kind = Literal["outage", "unauthorized", "throttled", "bug"]
KINDS: tuple[Kind, ...] = ("outage", "unauthorized", "throttled", "bug")

EVERY_SECONDS = 60.0
"""At most one line of a kind in this time, however many requests fail."""

logger = logging.getLogger("metergate.entitlements")


def kind_of(error: OpenMeterError) -> Kind:
    """What went wrong, in one word for metrics and logs."""
    if isinstance(error, OpenMeterUnauthorized):
        return "unauthorized"
    return "throttled" if isinstance(error, OpenMeterThrottled) else "outage"


class Complaints:
    """Says what fails, once a minute and kind."""

    def __init__(self) -> None:
        self._said: dict[Kind, float] = {}
        self._unsaid: Counter[Kind] = Counter()

    def failed(self, error: OpenMeterError, now: float) -> None:
        """A request failed. A refused key is an error, since an operator has to act; others are warnings."""
        kind = kind_of(error)
        failures = self._turn(kind, now)
        if not failures:
            return
        extra = {"kind": kind, "failures": failures}
        if kind == "unauthorized":
            logger.error(
                "OpenMeter refuses our API key, no entitlement can be checked: %s", error, extra=extra
            )
        elif kind == "throttled":
            logger.warning("OpenMeter asks us to slow down: %s", error, extra=extra)
        else:
            logger.warning("An entitlement could not be checked: %s", error, extra=extra)

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
