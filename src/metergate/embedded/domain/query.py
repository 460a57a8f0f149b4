"""A question to a meter and its answer's rows (openmeter/streaming/query_params.go)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

import msgspec

from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.meters import Meter
from metergate.embedded.domain.windows import WindowSize

SUBJECT = "subject"
CUSTOMER = "customer_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterQuery:
    """``start`` is inclusive, ``end`` exclusive, both compared by the second. None or empty: no restriction.

    ``customers`` gives for each customer to filter by the subjects attributed to it.
    """

    start: datetime | None = None
    end: datetime | None = None
    window: WindowSize | None = None
    zone: tzinfo = UTC
    subjects: tuple[str, ...] = ()
    customers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    filters: Mapping[str, StringFilter] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True, gc=False):
    """One value for one window and one group. An answer may have many thousands of them."""

    value: float
    start: datetime
    end: datetime
    subject: str | None = None
    customer: str | None = None
    group_by: Mapping[str, str | None] = msgspec.field(default_factory=dict)


def query_findings(meter: Meter, query: MeterQuery) -> list[str]:
    """What makes the question one that cannot be answered, in OpenMeter's words."""
    findings = [
        f"invalid group by: {key}"
        for key in query.group_by
        if key not in (SUBJECT, CUSTOMER) and key not in meter.group_by
    ]
    findings += [f"invalid group by filter: {key}" for key in query.filters if key not in meter.group_by]
    if query.start is not None and query.end is not None:
        if query.start == query.end:
            findings.append("from and to cannot be equal")
        if query.start > query.end:
            findings.append("from must be before to")
    if CUSTOMER in query.group_by and not query.customers:
        findings.append("customer filter is required with customer_id group by")
    return findings
