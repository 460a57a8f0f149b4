"""The operations on files that delivery is made of, handed in so that a test can fill a disk or cut the power."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Literal

DropReason = Literal["spool_full", "disk_full", "io_error", "closed"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULLSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)

# Events name subjects and usage: nobody but the owner reads them.
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700


class Files:
    """The operating system's files. ``metergate.testing.disk`` has ones that fill up, fail, and lose power."""

    write = staticmethod(os.write)
    """``write(fd, data) -> int``, as ``os.write``: may write less than asked for."""

    def open_to_append(self, path: Path) -> int:
        """A descriptor for appending; the file is made where there is none."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _FILE_MODE)

    def truncate(self, fd: int, size: int) -> None:
        """Cuts the file off at ``size`` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Returns when the file's bytes survive a power cut."""
        if _FULLSYNC is not None:
            fcntl.fcntl(fd, _FULLSYNC)  # macOS: fsync does not empty the drive's cache
        else:
            getattr(os, "fdatasync", os.fsync)(fd)

    def sync_folder(self, path: Path) -> None:
        """Returns when the names in the folder survive a power cut."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Renames, in one step, over a file that may be there."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Removes a file; one that is not there is fine."""
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Makes the folder and those above it, each one's name durable before the next is used."""
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            self.sync_folder(folder.parent)


def append_whole(files: Files, fd: int, data: bytes) -> None:
    """Appends all of ``data``, or nothing: what was written before an error is cut off again.

    Raises:
        OSError: nothing was appended; or, where even the cutting failed, ``TornTail``.
    """
    append_rest(files, fd, data, 0)


def append_rest(files: Files, fd: int, data: bytes, written: int) -> None:
    """As ``append_whole``, when the first ``written`` bytes of ``data`` are in the file already."""
    try:
        while written < len(data):
            count = files.write(fd, data[written:])
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += count
    except OSError as error:
        if written:
            _cut(files, fd, written, error)
        raise


def _cut(files: Files, fd: int, written: int, cause: OSError) -> None:
    # The end is asked for and not reckoned: it must be right even if an earlier call was interrupted half-way.
    try:
        files.truncate(fd, os.fstat(fd).st_size - written)
    except OSError as error:
        raise TornTail(cause.errno, f"{cause.strerror}, and half a line stays: {error.strerror}") from cause


class TornTail(OSError):
    """Half a line is at the end of the file and could not be cut off: nothing may be appended to it any more."""


def write_whole_file(files: Files, path: Path, data: bytes) -> None:
    """Writes a file that is there wholly or not at all, also after a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        files.unlink(draft)
        fd = files.open_to_append(draft)
        try:
            append_whole(files, fd, data)
            files.sync(fd)
        finally:
            os.close(fd)
        files.replace(draft, path)
    except OSError:
        files.unlink(draft)
        raise
    files.sync_folder(path.parent)


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Up to ``size`` bytes from ``offset``; fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    while data and len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def drop_reason(error: OSError) -> DropReason:
    """Why an event could not be kept: the disk (or the quota, or a limit on file size) is full, or anything else."""
    return "disk_full" if error.errno in _FULL else "io_error"
