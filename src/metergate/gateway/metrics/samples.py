"""What the rooms' ``statistics()`` say, as samples of metrics; and how the samples of several workers add up.

A statistics object is a frozen dataclass. A number in it is a metric, a mapping of names to numbers one with a label
``reason``, a mapping of hosts to statistics one of each host with a label ``destination``. `FAMILIES` knows name, kind
and help of the fields that there are; a field that is not in it still appears, under a name made from its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NamedTuple

import msgspec

Kind = Literal["counter", "gauge", "highest"]
"""Of several workers: a counter is the sum, of dead ones too; a gauge the sum of the living; a ``highest`` their maximum
(where every worker reports on the same thing, or the worst counts)."""

Labels = tuple[tuple[str, str], ...]

LABEL_LIMIT = 100
"""So many values of one label are told apart; the others add up under ``other``."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number. ``name`` has no ``_total``; labels are sorted by name."""

    name: str
    labels: Labels
    value: float
    kind: Kind


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """Counts per bucket, not cumulative, the last one unbounded; ``total`` is the sum of what was observed."""

    name: str
    labels: Labels
    buckets: list[int]
    total: float


class Family(NamedTuple):
    """What a metric is called, what it is, and a sentence about it."""

    name: str
    kind: Kind
    help: str


FAMILIES: dict[str, Family] = {
    "requests": Family(
        "metergate_requests", "counter", "Requests answered, by route, method and class of status."
    ),
    "request_seconds": Family(
        "metergate_request_seconds", "counter", "Time from a request's head to its answer's end."
    ),
    "routes_overflowed": Family(
        "metergate_routes_overflowed", "counter", "Requests counted under another route."
    ),
    "BackendsStatistics.decisions": Family(
        "metergate_decisions", "counter", "Entitlement decisions, by reason."
    ),
    "BackendsStatistics.dropped": Family(
        "metergate_events_dropped", "counter", "Events that could not be made or kept."
    ),
    "BackendsStatistics.not_read": Family(
        "metergate_bodies_not_read",
        "counter",
        "Bodies of responses, or parts of them, that could not be read for a meter.",
    ),
    "DeliveryStatistics.dropped": Family(
        "metergate_events_dropped", "counter", "Events that could not be made or kept."
    ),
    "DeliveryStatistics.recorded": Family(
        "metergate_events_recorded", "counter", "Events kept for delivery."
    ),
    "DeliveryStatistics.delivered": Family(
        "metergate_events_delivered", "counter", "Events OpenMeter acknowledged."
    ),
    "DeliveryStatistics.buried": Family(
        "metergate_events_buried", "counter", "Events put into the dead letters."
    ),
    "DeliveryStatistics.dead_letters": Family(
        "metergate_dead_letters", "highest", "Events in the dead letters now."
    ),
    "DeliveryStatistics.pending_events": Family(
        "metergate_events_pending", "gauge", "Events not delivered yet."
    ),
    "DeliveryStatistics.pending_bytes": Family(
        "metergate_events_pending_bytes", "gauge", "Bytes of pending events."
    ),
    "DeliveryStatistics.oldest_pending_seconds": Family(
        "metergate_oldest_pending_event_seconds", "highest", "Age of the oldest event not delivered yet."
    ),
    "DeliveryStatistics.spool_bytes": Family(
        "metergate_spool_bytes", "highest", "Bytes of the spool on disk."
    ),
    "DeliveryStatistics.stranded_folders": Family(
        "metergate_spool_stranded_folders",
        "highest",
        "Folders of the spool whose key is not configured any more.",
    ),
    "DeliveryStatistics.batches": Family(
        "metergate_delivery_batches", "counter", "Batches OpenMeter acknowledged."
    ),
    "DeliveryStatistics.retries": Family(
        "metergate_delivery_retries", "counter", "Batches that had to be repeated."
    ),
    "DeliveryStatistics.splits": Family(
        "metergate_delivery_splits", "counter", "Batches halved after a refusal."
    ),
    "DeliveryStatistics.state": Family(
        "metergate_delivery_state", "gauge", "Workers whose delivery is in that state."
    ),
    "DeliveryStatistics.adopted_segments": Family(
        "metergate_spool_adopted_segments", "counter", "Segments of dead processes that were taken over."
    ),
    "DeliveryStatistics.torn_tails": Family(
        "metergate_spool_torn_tails", "counter", "Half lines cut off at recovery."
    ),
    "DeliveryStatistics.unsynced": Family(
        "metergate_spool_unsynced_events", "counter", "Events the disk did not sync."
    ),
    "DeliveryStatistics.cursor_errors": Family(
        "metergate_spool_cursor_errors", "counter", "Acknowledgements that could not be written down."
    ),
    "EntitlementStatistics.decisions": Family(
        "metergate_entitlement_decisions",
        "counter",
        "Decisions by reason; in shadow mode those of the denials.",
    ),
    "EntitlementStatistics.asked": Family(
        "metergate_entitlement_reads", "counter", "Subjects OpenMeter was asked for."
    ),
    "EntitlementStatistics.refreshes": Family(
        "metergate_entitlement_refreshes", "counter", "Reads in the background, to renew a snapshot."
    ),
    "EntitlementStatistics.failures": Family(
        "metergate_entitlement_failures", "counter", "Reads that failed, by reason."
    ),
    "EntitlementStatistics.timeouts": Family(
        "metergate_entitlement_timeouts", "counter", "Decisions that waited too long."
    ),
    "EntitlementStatistics.in_flight": Family(
        "metergate_entitlement_reads_in_flight", "gauge", "Reads under way."
    ),
    "EntitlementStatistics.turned_away": Family(
        "metergate_entitlement_turned_away",
        "counter",
        "Reads given up because too many subjects waited for one.",
    ),
    "EntitlementStatistics.requests": Family(
        "metergate_entitlement_requests", "counter", "HTTP requests to OpenMeter, of all kinds of reads."
    ),
    "EntitlementStatistics.batches": Family(
        "metergate_entitlement_batches", "counter", "Batch queries among them."
    ),
    "EntitlementStatistics.confirmed": Family(
        "metergate_entitlement_confirmed", "counter", "Snapshots that a batch query renewed."
    ),
    "EntitlementStatistics.queued": Family(
        "metergate_entitlement_queued", "gauge", "Subjects that wait until the budget has a read for them."
    ),
    "EntitlementStatistics.deferred": Family(
        "metergate_entitlement_deferred",
        "counter",
        "Decisions on an older answer because the budget had no read at once.",
    ),
    "EntitlementStatistics.snapshots": Family(
        "metergate_entitlement_snapshots", "gauge", "Subjects that are known."
    ),
    "EntitlementStatistics.evictions": Family(
        "metergate_entitlement_evictions", "counter", "Snapshots forgotten to make room."
    ),
    "EntitlementStatistics.used_up": Family(
        "metergate_entitlement_used_up", "counter", "Denials on the usage recorded here alone."
    ),
    "EntitlementStatistics.failing": Family(
        "metergate_entitlement_failing", "highest", "1 while OpenMeter counts as failing."
    ),
    "LocalStatistics.places": Family(
        "metergate_local_places", "highest", "Features of subjects that the local count has a place for."
    ),
    "LocalStatistics.evicted": Family(
        "metergate_local_evicted", "counter", "Idle ones whose place went to another."
    ),
    "LocalStatistics.crowded_out": Family(
        "metergate_local_crowded_out",
        "counter",
        "Times there was no place, so that something was not counted.",
    ),
    "WebhookStatistics.messages": Family(
        "metergate_webhook_messages", "counter", "Messages to the webhook, by what became of them."
    ),
    "ConsumerStatistics.keys": Family("metergate_api_keys", "highest", "API keys that are known."),
    "ConsumerStatistics.reloads": Family(
        "metergate_api_keys_reloads", "counter", "Times the consumers were read again."
    ),
    "ConsumerStatistics.failed_reloads": Family(
        "metergate_api_keys_failed_reloads", "counter", "Times the consumers could not be read again."
    ),
    "JwtStatistics.cached": Family("metergate_jwt_cached", "gauge", "Verified tokens in memory."),
    "JwtStatistics.verified": Family("metergate_jwt_verified", "counter", "Tokens verified."),
    "JwtStatistics.refused": Family("metergate_jwt_refused", "counter", "Tokens refused."),
    "JwtStatistics.evicted": Family("metergate_jwt_evicted", "counter", "Tokens forgotten to make room."),
    "JwksStatistics.keys": Family(
        "metergate_jwks_keys", "highest", "Keys of the token issuer that are known."
    ),
    "JwksStatistics.fetches": Family("metergate_jwks_fetches", "counter", "Fetches of the issuer's keys."),
    "JwksStatistics.failed_fetches": Family(
        "metergate_jwks_failed_fetches", "counter", "Fetches that failed."
    ),
    "JwksStatistics.age_seconds": Family(
        "metergate_jwks_age_seconds", "highest", "Age of the issuer's keys."
    ),
    "WorkerStatistics.workers": Family("metergate_workers", "gauge", "Worker processes that report."),
    "WorkerStatistics.start_time_seconds": Family(
        "metergate_last_worker_start_time_seconds", "highest", "When the youngest worker started, since 1970."
    ),
    "WorkerStatistics.background_tasks": Family(
        "metergate_background_tasks", "gauge", "Tasks that outlive their request."
    ),
    "WorkerStatistics.background_refused": Family(
        "metergate_background_refused", "counter", "Tasks refused because too many were under way."
    ),
}

HELP: dict[str, str] = {family.name: family.help for family in FAMILIES.values()}


def read_statistics(statistics: Any, labels: Mapping[str, str] | None = None) -> list[Sample]:
    """The samples of one statistics object; ``labels`` go on each of them."""
    return list(_walk(statistics, _sorted(labels or {})))


def _sorted(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _walk(statistics: Any, labels: Labels) -> Iterator[Sample]:
    owner = type(statistics).__name__
    for field in fields(statistics):
        value = getattr(statistics, field.name)
        family = FAMILIES.get(f"{owner}.{field.name}") or _unknown(owner, field.name)
        if is_dataclass(value):
            yield from _walk(value, labels)
        elif isinstance(value, Mapping):
            yield from _mapping(value, family, labels)
        elif isinstance(value, str):
            if family.name.endswith("_state"):
                yield Sample(family.name, _with(labels, "state", value), 1, family.kind)
        elif isinstance(value, int | float) and math.isfinite(value):
            yield Sample(family.name, labels, float(value), family.kind)


def _mapping(values: Mapping[str, Any], family: Family, labels: Labels) -> Iterator[Sample]:
    rest = 0.0
    for index, (key, value) in enumerate(values.items()):
        if is_dataclass(value):
            if index < LABEL_LIMIT:
                yield from _walk(value, _with(labels, "destination", key))
        elif not isinstance(value, int | float):
            continue
        elif index < LABEL_LIMIT:
            yield Sample(family.name, _with(labels, "reason", key), float(value), family.kind)
        else:
            rest += value
    if rest:
        yield Sample(family.name, _with(labels, "reason", "other"), rest, family.kind)


def _with(labels: Labels, name: str, value: str) -> Labels:
    return tuple(sorted((*labels, (name, value))))


def _unknown(owner: str, field: str) -> Family:
    """A field that nobody has described: a gauge, which is true of any number."""
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in owner).strip("_")
    return Family(f"metergate_{words.removesuffix('_statistics')}_{field}", "gauge", f"{field} of {owner}.")


def add_up(samples: Iterable[Sample]) -> list[Sample]:
    """One sample for each name and labels, out of those of several workers."""
    found: dict[tuple[str, Labels], Sample] = {}
    for sample in samples:
        key = (sample.name, sample.labels)
        known = found.get(key)
        if known is None:
            found[key] = sample
            continue
        value = max(known.value, sample.value) if sample.kind == "highest" else known.value + sample.value
        found[key] = Sample(sample.name, sample.labels, value, sample.kind)
    return list(found.values())


def add_up_histograms(histograms: Iterable[Histogram]) -> list[Histogram]:
    """The same for histograms, which all have the same buckets. One of another shape (another version's) is left out."""
    found: dict[tuple[str, Labels], Histogram] = {}
    for one in histograms:
        key = (one.name, one.labels)
        known = found.get(key)
        if known is None:
            found[key] = one
        elif len(known.buckets) == len(one.buckets):
            buckets = [a + b for a, b in zip(known.buckets, one.buckets, strict=True)]
            found[key] = Histogram(one.name, one.labels, buckets, known.total + one.total)
    return list(found.values())
