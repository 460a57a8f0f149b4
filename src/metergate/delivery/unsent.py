"""What is on disk and not settled, as anybody may look at it: no lock is taken and no file is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from metergate.delivery.batch import is_sound
from metergate.delivery.cursor import read_offset
from metergate.delivery.segment import SEGMENT_SUFFIX, Segment, end_of_lines, writer_of


def unsent_ends(folder: Path) -> Mapping[Path, int]:
    """The segments in ``folder`` that hold events which are not settled, each with where its last whole line ends.

    Raises:
        OSError: the folder or a segment cannot be read.
    """
    ends = ((path, _end(path)) for path in _segment_paths(folder) if _has_unsent(path))
    return {path: end for path, end in ends if end is not None}


def are_settled(ends: Mapping[Path, int]) -> bool:
    """Whether all events are settled that `unsent_ends` found.

    Raises:
        OSError: a cursor cannot be read.
    """
    return all(_settled(path) >= end or not path.exists() for path, end in ends.items())


def unsent_events(folder: Path) -> Iterator[bytes]:
    """The bytes of every event in the segments of ``folder`` that is not settled as of when its segment is opened.

    Each writer's in order. A torn end is passed over as in recovery, and so is a damaged line, which nobody will send. Of
    what is sent meanwhile some may be among them. Memory: one line.

    Raises:
        OSError: the folder or a segment cannot be read.
    """
    for path in _segment_paths(folder):
        yield from _unsent_lines(path)


def _segment_paths(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:  # nobody has recorded anything yet
        return []
    return sorted(folder / name for name in names if name.endswith(SEGMENT_SUFFIX) and writer_of(name))


def _has_unsent(path: Path) -> bool:
    # The cursor first. It is never beyond the end, so a size that is not beyond it then says that both were the same.
    settled = _settled(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # settled and gone
        return False
    try:
        size = os.fstat(fd).st_size
        return size > settled and end_of_lines(fd, size) > settled
    finally:
        os.close(fd)


def _end(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            return end_of_lines(file.fileno(), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        return None


def _unsent_lines(path: Path) -> Iterator[bytes]:
    place = _settled(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end = end_of_lines(file.fileno(), os.fstat(file.fileno()).st_size)
        file.seek(place)
        while place < end and (line := file.readline()):
            place += len(line)
            event = line.rstrip(b"\n")
            if is_sound(event):
                yield event


def _settled(path: Path) -> int:
    segment = Segment(path, 0.0)
    return read_offset(segment.name, segment.cursor_path)
