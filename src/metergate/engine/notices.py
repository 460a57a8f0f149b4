"""What the processes of one gateway tell each other: whose entitlements have changed.

A file of lines that all of them append to under a lock, and read on in some times a second. A line is the id of a
message and the subjects it is about. The ids tell which messages are not new, for all processes alike. At `MOST_BYTES`
the file is replaced by an empty one; who has the old one open reads it to its end first.

Nothing depends on a line being read: a subject of whom nothing was heard is asked for when its answer is old.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

MOST_BYTES = 1 << 20
MOST_IDS = 10_000
"""Ids that are remembered. One that is forgotten may come once more, which costs a read of OpenMeter."""

LOOKS_PER_SECOND = 10

_LINES = "lines"
_LOCK = "lock"
_CHUNK = 1 << 18


class _Line(msgspec.Struct, frozen=True, array_like=True):
    id: str
    subjects: list[str]


class Notices:
    """One process's view of the file. Not for several threads.

    ``expire`` is called with each subject whose entitlements have changed, whoever was told of it.
    """

    def __init__(
        self,
        folder: Path | None,
        expire: Callable[[str], None],
        *,
        most_bytes: int = MOST_BYTES,
        most_ids: int = MOST_IDS,
    ) -> None:
        """
        Args:
            folder: shared by all processes of the gateway and with nothing else in it; made where it is not there.
                None where there is one process only.
            most_bytes: at which the file is begun anew.
            most_ids: ids of messages that are remembered.
        """
        self._is_shared = folder is not None
        self._folder = folder or Path()
        self._lines, self._lock = self._folder / _LINES, self._folder / _LOCK
        self._expire = expire
        self._most_bytes = most_bytes
        self._most_ids = most_ids
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._file = -1
        self._inode = self._position = 0

    def open(self) -> None:
        """Join the others. What was said before counts as known, since this process knows no subject yet.

        In the process that will look, so after any fork. Raises OSError.
        """
        if not self._is_shared:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._reopen()
            for line in self._new_lines():
                self._remember(line.id)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def post(self, message: str, subjects: Sequence[str]) -> bool:
        """Have all processes expire these subjects, this one at once. False: that message is not new, nothing was done.

        Raises OSError where the others cannot be told; this process is then.
        """
        if self._file < 0:
            return self._take(message, subjects)
        try:
            with self._alone():
                self.look()
                if message in self._ids:
                    return False
                self._append(msgspec.json.encode(_Line(message, list(subjects))) + b"\n")
        except OSError:
            self._take(message, subjects)
            raise
        return self._take(message, subjects)

    def look(self) -> None:
        """Take note of what the others have said. Costs a microsecond where that is nothing. Raises OSError."""
        if self._file < 0:
            return
        while True:
            now = self._lines.stat()
            if now.st_ino == self._inode and now.st_size == self._position:
                return
            for line in self._new_lines():
                self._take(line.id, line.subjects)
            if now.st_ino == self._inode:
                return
            self._reopen()

    def _take(self, message: str, subjects: Sequence[str]) -> bool:
        if message in self._ids:
            return False
        self._remember(message)
        for subject in subjects:
            self._expire(subject)
        return True

    def _remember(self, message: str) -> None:
        self._ids[message] = None
        while len(self._ids) > self._most_ids:
            self._ids.popitem(last=False)

    def _append(self, line: bytes) -> None:
        """The lock is held, and all that is in the file has been read."""
        if self._position and self._position + len(line) > self._most_bytes:
            begun = self._lines.with_suffix(".new")
            begun.write_bytes(b"")
            begun.replace(self._lines)
            self._reopen()
        if os.write(self._file, line) < len(line):
            os.ftruncate(self._file, self._position)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._position += len(line)

    def _new_lines(self) -> Iterator[_Line]:
        """The whole lines from where we are; half a one is still being written."""
        while True:
            data = b""
            while not data.endswith(b"\n"):
                more = os.pread(self._file, _CHUNK, self._position + len(data))
                if not more:
                    break
                data += more
            whole = data[: data.rfind(b"\n") + 1]
            if not whole:
                return
            self._position += len(whole)
            for line in whole.splitlines():
                with suppress(msgspec.DecodeError):
                    yield msgspec.json.decode(line, type=_Line)

    def _reopen(self) -> None:
        self.close()
        self._file = os.open(self._lines, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._inode, self._position = os.fstat(self._file).st_ino, 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else appends meanwhile."""
        with self._lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
