"""What a Delivery reports about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from metergate.delivery.response import State


@dataclass(frozen=True, slots=True)
class DeliveryStatistics:
    """One Delivery in one process, since it was made (or since the fork). Counts are of events where nothing else is said.

    Attributes:
        state: ``ok``, ``retrying``, ``throttled``, ``unauthorized``, ``misdirected`` (what answers is not OpenMeter),
            ``refusing`` (every event is refused) or ``blocked`` (the spool's own disk lets nothing be settled).
        recorded: kept by ``record``.
        delivered: acknowledged by OpenMeter, adopted ones included.
        buried: refused by OpenMeter, or damaged, and put into the dead letters.
        dead_letters: in the dead letters of this destination now, of all processes.
        dropped: what ``record`` could not keep, by reason: ``spool_full``, ``disk_full``, ``io_error``, ``closed``
            (``memory`` only), and what was lost later: ``removed`` with a segment that somebody deleted,
            ``dead_letters_full`` (``memory`` only).
        pending_events, pending_bytes: recorded or adopted by this process and not settled.
        oldest_pending_seconds: age of the oldest of them, to about a second; 0 where there is none.
        spool_bytes: all segments and dead letters of this destination on disk, of all processes, as last looked at.
        stranded_folders: folders of the same URL but another key that hold events nobody may send (see the log).
        batches, retries, splits: requests that were acknowledged, have to be repeated, were halved.
        adopted_segments: segments of processes that died.
        torn_tails: ends of such segments that were cut off, half a line that ``record`` never returned for.
        unsynced: events of ``power`` for which the disk refused the sync; they are kept and sent, and might not survive a
            power cut.
        cursor_errors: acknowledgements that could not be written down; they go out again after a crash.
        last_error: one line, without secrets; empty where there was none.
    """

    state: State | Literal["blocked"] = "ok"
    recorded: int = 0
    delivered: int = 0
    buried: int = 0
    dead_letters: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    pending_events: int = 0
    pending_bytes: int = 0
    oldest_pending_seconds: float = 0.0
    spool_bytes: int = 0
    stranded_folders: int = 0
    batches: int = 0
    retries: int = 0
    splits: int = 0
    adopted_segments: int = 0
    torn_tails: int = 0
    unsynced: int = 0
    cursor_errors: int = 0
    last_error: str = ""
