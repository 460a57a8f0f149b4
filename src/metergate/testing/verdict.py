"""Does OpenMeter hold what the callers saw? A pure comparison of three accounts of the same requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from metergate.testing.callers import Ledger


def expected_ids(
    ledger: Ledger, meters: Sequence[str], metered: Collection[int] = range(200, 300)
) -> set[str]:
    """The ids of the events that must be there: of every answer seen complete with a status that is metered."""
    return {
        f"{seen.request_id}-{meter}"
        for seen in ledger.complete.values()
        if seen.status in metered
        for meter in meters
    }


def read_journal(lines: Iterable[str]) -> dict[str, int]:
    """From the upstream's journal: the number (``tag``) of the request for each request id that reached it."""
    tags: dict[str, int] = {}
    for line in lines:
        _, target, request_id = line.rstrip("\n").split("\t")
        if "tag=" in target:
            tags[request_id] = int(target.rpartition("tag=")[2])
    return tags


def discrepancies(
    ledger: Ledger,
    listed: Counter[str],
    reached: Mapping[str, int],
    meters: Sequence[str],
    metered: Collection[int] = range(200, 300),
) -> list[str]:
    """Every way in which they disagree, each with how many and the first few; empty when all is well.

    Args:
        ledger: what the callers sent and saw.
        listed: the ids of the events in OpenMeter, and how often each is there.
        reached: what the upstream saw, from `read_journal`.
        meters: the types of the policy's meters; every metered request has an event of each.
        metered: the statuses that are metered.
    """
    complete = ledger.complete.values()
    sources = {name: _request_id(name, meters) for name in listed}
    request_ids = {source for source in sources.values() if source is not None}
    times_used = Counter(seen.request_id for seen in complete)
    findings: dict[str, Collection[object]] = {
        "events lost, of answers seen complete": expected_ids(ledger, meters, metered) - listed.keys(),
        "events there more than once": {name for name, count in listed.items() if count > 1},
        "events of another meter": {name for name, source in sources.items() if source is None},
        "events of requests that nobody sent": request_ids - reached.keys(),
        "events of answers whose status is not metered": request_ids
        & {seen.request_id for seen in complete if seen.status not in metered},
        "request ids used more than once": {name for name, count in times_used.items() if count > 1},
        "answers with an unexpected status": ledger.unexpected().keys(),
        "requests at the upstream that no caller sent": {
            tag for tag in reached.values() if tag >= ledger.sent
        },
    }
    return [
        f"{len(found)} {what}: {sorted(map(str, found))[:5]}" for what, found in findings.items() if found
    ]


def _request_id(event_id: str, meters: Sequence[str]) -> str | None:
    return next(
        (event_id.removesuffix(f"-{meter}") for meter in meters if event_id.endswith(f"-{meter}")), None
    )
