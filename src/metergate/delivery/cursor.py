"""How far OpenMeter has acknowledged a segment: an append-only file of fixed-width entries beside it.

An entry is the offset behind the last acknowledged line and a checksum over it and the segment's name, in text so that
people can read it. The last entry that is whole counts. A torn or damaged one falls back to the one before, so a
crash at the worst moment only makes the same bytes, with the same ids, go out again; it never skips a line.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from metergate.delivery.files import Files, append_whole

ENTRY_BYTES = 26
_TAIL_ENTRIES = 128


def encode_entry(segment: str, offset: int) -> bytes:
    """One entry: 16 hex digits of offset, a space, 8 of checksum, a newline."""
    digits = f"{offset:016x}"
    return f"{digits} {_checksum(segment, digits):08x}\n".encode()


def last_offset(segment: str, data: bytes) -> int:
    """The offset of the last whole entry in a cursor file's ``data``; 0 where there is none."""
    for start in range(len(data) // ENTRY_BYTES * ENTRY_BYTES - ENTRY_BYTES, -1, -ENTRY_BYTES):
        offset = _decode(segment, data[start : start + ENTRY_BYTES])
        if offset is not None:
            return offset
    return 0


def read_offset(segment: str, path: Path) -> int:
    """As ``last_offset``, of the file at ``path``, which need not be there. Reads only its end, if that is whole."""
    try:
        with path.open("rb") as file:
            entries = os.fstat(file.fileno()).st_size // ENTRY_BYTES
            file.seek(max(0, entries - _TAIL_ENTRIES) * ENTRY_BYTES)
            offset = last_offset(segment, file.read())
            if offset or entries <= _TAIL_ENTRIES:
                return offset
            file.seek(0)
            return last_offset(segment, file.read())
    except FileNotFoundError:
        return 0


class Cursor:
    """Writes the cursor of one segment. The file is made at the first acknowledgement.

    ``durable``: every move survives a power cut. Without, a power cut can make acknowledged events go out again.
    """

    def __init__(self, files: Files, path: Path, segment: str, *, durable: bool) -> None:
        self._files = files
        self._path = path
        self._segment = segment
        self._durable = durable
        self._fd = -1

    def move(self, offset: int) -> None:
        """Writes down that everything before ``offset`` is settled.

        Raises:
            OSError: it could not be written; what was written before still stands.
        """
        fresh = self._fd < 0
        if fresh:
            self._fd = self._open()
        append_whole(self._files, self._fd, encode_entry(self._segment, offset))
        if self._durable:
            self._files.sync(self._fd)
            if fresh:
                self._files.sync_folder(self._path.parent)

    def close(self) -> None:
        """Closes the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        fd = self._files.open_to_append(self._path)
        size = os.fstat(fd).st_size
        if size % ENTRY_BYTES:  # a torn entry would shift all that follow
            self._files.truncate(fd, size - size % ENTRY_BYTES)
        return fd


def _decode(segment: str, entry: bytes) -> int | None:
    try:
        digits, checksum = entry.decode("ascii").rstrip("\n").split(" ")
        offset = int(digits, 16)
    except ValueError:
        return None
    return offset if encode_entry(segment, offset) == entry and checksum else None


def _checksum(segment: str, digits: str) -> int:
    return zlib.crc32(f"{segment} {digits}".encode())
