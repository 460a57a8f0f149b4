"""What was sent, kept for a while and compressed, so that what OpenMeter holds can be checked against it.

A settled segment becomes ``sent/<segment>.jsonl.gz``. It holds every line of the segment, those too that went to the dead
letters; its modification time is when the last of them was settled.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metergate.delivery.destination import folders

log = logging.getLogger("metergate.delivery")

SENT_SUFFIX = ".jsonl.gz"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class SentOptions:
    """How long and how much is kept; 0 keeps nothing."""

    keep_seconds: float = 24 * 3600.0
    keep_bytes: int = 256 << 20


def keep_sent(segment: Path, folder: Path) -> None:
    """Writes the compressed copy of a settled segment. A copy that cannot be made is not worth stopping for: it is said."""
    target = folder / (segment.stem + SENT_SUFFIX)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        # Level 1: a tenth of the size already, at a fifth of the default level's time.
        with segment.open("rb") as source, gzip.open(draft, "wb", compresslevel=1) as copy:
            shutil.copyfileobj(source, copy, _PIECE)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        log.warning("Sent segment %s could not be kept: %s.", segment.stem, error.strerror)


def prune_sent(folder: Path, options: SentOptions, wall_time: float) -> None:
    """Removes what is too old, and the oldest of what is too much. Other processes may do the same at the same time."""
    if not folder.is_dir():
        return
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, Path(entry.path)))
    kept = 0
    for changed, size, path in sorted(found, reverse=True):
        kept += size
        if wall_time - changed > options.keep_seconds or kept > options.keep_bytes:
            path.unlink(missing_ok=True)


def sent_events(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Every event in the kept segments of all destinations, oldest segment first: OpenMeter's URL and the event's bytes."""
    for folder in folders(directory):
        for path in sorted(folder.sent.glob("*" + SENT_SUFFIX)):
            with gzip.open(path, "rb") as lines:
                for line in lines:
                    yield folder.destination.url, line.rstrip(b"\n")
