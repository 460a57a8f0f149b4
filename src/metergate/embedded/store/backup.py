"""A copy of the folder as a tar archive, made while events come in.

DuckDB changes what its file holds only when the log is folded into it, and the log only grows. So with folding held
back, the first bytes of both are a whole database, however long copying them takes. The copy is a folder to start
from once it is unpacked: it holds everything that was acknowledged before the backup began.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


class Incomplete(OSError):
    """A file of the database ended before it was copied."""


def archive_size(files: Mapping[str, int]) -> int:
    """The bytes of the archive with these files of these sizes."""
    return sum(_BLOCK + size + _padding(size) for size in files.values()) + len(_END)


def archive(folder: Path, files: Mapping[str, int]) -> Iterator[bytes]:
    """The archive, piece by piece. Raises Incomplete."""
    for name, size in files.items():
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, 0o600
        yield header.tobuf(tarfile.GNU_FORMAT)
        yield from _content(folder / name, size)
        yield bytes(_padding(size))
    yield _END


def _content(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as source:
        while size:
            piece = source.read(min(size, CHUNK))
            if not piece:
                raise Incomplete(f"{file.name} has become shorter while it was copied")
            size -= len(piece)
            yield piece


def _padding(size: int) -> int:
    return -size % _BLOCK
