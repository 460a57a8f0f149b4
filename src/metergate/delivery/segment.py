"""Segments: append-only files of events, one writer each; a line is one event. Names, locks, and what a crash left behind.

A *writer* is one Delivery in one process. Its name is unique over processes, boots and containers, and every file of its
begins with it::

    20261122T144100.123456Z-4711-9f86d081.lock            held by flock while the writer, or who adopted it, lives
    20261122T144100.123456Z-4711-9f86d081.000001.jsonl    a segment
    20261122T144100.123456Z-4711-9f86d081.000001.cursor   how far it is acknowledged

Who holds the lock, and nobody else, sends and removes the segments. The system drops the lock when its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from metergate.delivery.files import Files, read_at

SEGMENT_SUFFIX = ".jsonl"
CURSOR_SUFFIX = ".cursor"
LOCK_SUFFIX = ".lock"
_TAIL_CHUNK = 64 * 1024
_TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"


@dataclass(slots=True)
class Segment:
    """One segment and how much of it may be read.

    ``committed`` is the bytes of whole records, ``events`` their number (of a dead writer's: those not yet settled); the
    writer raises both after each. ``closed``: nothing will be appended, and ``committed`` is final.
    ``opened_at`` is seconds since 1970, from the writer's name or the moment it was made. ``start``: how many bytes its
    writer had recorded before it, of a live one.
    """

    path: Path
    opened_at: float
    committed: int = 0
    events: int = 0
    closed: bool = False
    start: int = 0

    @property
    def name(self) -> str:
        """``<writer>.<number>``."""
        return self.path.name.removesuffix(SEGMENT_SUFFIX)

    @property
    def cursor_path(self) -> Path:
        """The cursor's file."""
        return self.path.with_name(self.name + CURSOR_SUFFIX)


def new_writer_name(wall_time: float) -> str:
    """A name that no other writer has or will have. It begins with the time, so names sort by age."""
    moment = datetime.fromtimestamp(wall_time, UTC).strftime(_TIME_FORMAT)
    return f"{moment}-{os.getpid()}-{secrets.token_hex(4)}"


def writer_time(writer: str) -> float:
    """When the writer began, in seconds since 1970; 0 for a name that is not one of ours."""
    try:
        return datetime.strptime(writer.partition("-")[0], _TIME_FORMAT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def segment_path(folder: Path, writer: str, number: int) -> Path:
    """Where the writer's segment of that number is."""
    return folder / f"{writer}.{number:06d}{SEGMENT_SUFFIX}"


def writer_of(file_name: str) -> str:
    """The writer that a file in the folder of segments belongs to; empty for a foreign file."""
    name, _, suffix = file_name.rpartition(".")
    if f".{suffix}" == LOCK_SUFFIX:
        return name
    writer, _, number = name.rpartition(".")
    return writer if f".{suffix}" in (SEGMENT_SUFFIX, CURSOR_SUFFIX) and number.isdigit() else ""


@dataclass(slots=True)
class WriterLock:
    """The right to send a writer's segments, for as long as ``fd`` is open."""

    writer: str
    path: Path
    fd: int

    def is_in_place(self) -> bool:
        """Whether others find it locked. False when somebody removed the file: they would make another, and get that one."""
        return _is_still(self.path, self.fd)

    def close(self) -> None:
        """Gives the right back. In a forked child: lets go of the inherited descriptor, the parent keeps its lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Removes the file and gives the right back: the writer has no segments left."""
        self.path.unlink(missing_ok=True)
        self.close()


def claim_new(folder: Path, wall_time: float) -> WriterLock:
    """The lock of a new writer.

    Raises:
        OSError: the file cannot be made.
    """
    while True:
        # Somebody who looks for the dead may lock the new file before we do; then it is theirs to remove.
        lock = claim(folder, new_writer_name(wall_time))
        if lock is not None:
            return lock


def claim(folder: Path, writer: str) -> WriterLock | None:
    """The lock of that writer, or None while it, or somebody who adopted it, lives.

    Raises:
        OSError: the file cannot be opened.
    """
    path = folder / (writer + LOCK_SUFFIX)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if try_lock(fd, fcntl.LOCK_EX) and _is_still(path, fd):
        return WriterLock(writer, path, fd)
    os.close(fd)
    return None


def try_lock(fd: int, kind: int) -> bool:
    """Whether the lock was free."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, fd: int) -> bool:
    """False when the file was removed, and perhaps made anew, between opening and locking: the lock is then worth nothing."""
    try:
        there, here = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def recover_segment(files: Files, path: Path) -> tuple[Segment, int]:
    """A dead writer's segment, ready to be read, and how many bytes of torn tail were cut off its end.

    A record is one ``write`` and ends with a newline, so what stands behind the last newline is half a record, and the
    ``record`` that wrote it never returned. Needs the writer's lock.

    Raises:
        OSError: the file cannot be read or cut.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        whole = end_of_lines(fd, size)
        if whole < size:
            files.truncate(fd, whole)
    finally:
        os.close(fd)
    return Segment(path, writer_time(writer_of(path.name)), whole, closed=True), size - whole


def end_of_lines(fd: int, size: int) -> int:
    """The offset behind the last newline within ``size`` bytes; 0 where there is none."""
    while size:
        start = max(0, size - _TAIL_CHUNK)
        newline = read_at(fd, size - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        size = start
    return 0


def count_lines(path: Path, start: int, end: int) -> int:
    """Lines between two offsets; reads in pieces."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = 0
        while start < end:
            data = read_at(fd, min(1 << 20, end - start), start)
            if not data:
                break
            lines += data.count(b"\n")
            start += len(data)
        return lines
    finally:
        os.close(fd)
