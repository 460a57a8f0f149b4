"""The few figures of a gateway that the demo shows, out of its metrics page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

_LET_IN = frozenset({"granted", "stale", "error_allowed"})
_COUNTED = {
    "metergate_events_recorded_total": "metered",
    "metergate_events_delivered_total": "delivered",
    "metergate_events_pending": "waiting",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Since the gateway's start: events ``metered`` and ``delivered``, those ``waiting`` now, decisions by outcome."""

    metered: int = 0
    allowed: int = 0
    denied: int = 0
    delivered: int = 0
    waiting: int = 0

    def __str__(self) -> str:
        names = ("metered", "allowed", "denied", "delivered", "waiting")
        return "   ".join(f"{name} {getattr(self, name)}" for name in names)


def read_figures(page: str) -> Figures:
    """The figures of ``/__metergate/metrics``. Raises ValueError for text that is no such page."""
    from prometheus_client.parser import text_string_to_metric_families

    sums: Counter[str] = Counter()
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if (name := _name(sample)) is not None:
                    sums[name] += int(sample.value)
    except (KeyError, IndexError) as wrong:
        raise ValueError(f"this is no page of metrics: {wrong}") from None
    return Figures(**sums)


def _name(sample: Any) -> str | None:
    if sample.name == "metergate_decisions_total":
        return "allowed" if sample.labels["reason"] in _LET_IN else "denied"
    return _COUNTED.get(sample.name)
