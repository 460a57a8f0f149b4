"""A copy of the folder as a tar archive, made while events come in.

DuckDB changes what its file holds only when the log is folded into it, and the log only grows. So with folding held
back, the first bytes of both are a whole database, however long copying them takes. The copy is a folder to start
from once it is unpacked: it holds everything that was acknowledged before the backup began. Last in the archive is
``SHA256SUMS``, as ``sha256sum`` writes it.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

CHUNK = 1 << 20
SUMS = "SHA256SUMS"
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


class Incomplete(OSError):
    """A file of the database ended before it was copied."""


def archive_size(files: Mapping[str, int]) -> int:
    """The bytes of the archive with these files of these sizes."""
    sums = len(sums_text(dict.fromkeys(files, hashlib.sha256().hexdigest())))
    return sum(_BLOCK + size + _padding(size) for size in (*files.values(), sums)) + len(_END)


def archive(folder: Path, files: Mapping[str, int]) -> Iterator[bytes]:
    """The archive, piece by piece. Raises Incomplete."""
    sums = {}
    for name, size in files.items():
        yield _header(name, size)
        digest = hashlib.sha256()
        for piece in _content(folder / name, size):
            digest.update(piece)
            yield piece
        yield bytes(_padding(size))
        sums[name] = digest.hexdigest()
    text = sums_text(sums)
    yield _header(SUMS, len(text)) + text + bytes(_padding(len(text)))
    yield _END


def sums_text(sums: Mapping[str, str]) -> bytes:
    """What ``SHA256SUMS`` holds of these digests by file name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def _header(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o600
    return header.tobuf(tarfile.GNU_FORMAT)


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
