"""What OpenMeter answered, for all worker processes of a host and for those that start later: a file beside the count.

A file of lines that all append to, one for each answer with balances or for all subjects of a batch query, and read on
in when they lack an answer. A line is the writer's name and the answers, each with its ceilings, which name places of
the shared count. Times are those of ``time.monotonic``, the same for all processes since the machine started.

At `MOST_BYTES` the file is begun anew, and the one before is kept for who starts next. A line is written in one piece,
without a lock; one that is torn, or none of ours, is passed over. Nothing depends on a line being read: who has not
heard of an answer asks for one. It holds subjects and balances, no keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from metergate.entitlements.snapshot import NEVER, Snapshot
from metergate.entitlements.usage.holds import Ceiling
from metergate.entitlements.usage.places import Place
from metergate.openmeter.values import AccessState, FeatureValue, SubjectAccess

_log = logging.getLogger("metergate.entitlements")

MOST_BYTES = 16 << 20
KEPT_SECONDS = 600.0
"""Older answers are of no use to who starts."""
_AT_A_TIME = 1 << 16
"""Bytes that are read in one look: about a millisecond. The rest is read in the next."""
_LONGEST = 4 << 20

_Value = tuple[str, bool, float | None, float | None, float | None]
_Ceiling = tuple[str, int, int, float, float, list[float | None] | None, bool]


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    subject: str
    asked_at: float
    balances_at: float | None
    """None where it was never asked for balances."""
    is_expired: bool
    state: AccessState
    values: list[_Value]
    ceilings: list[_Ceiling]


_read_line = msgspec.json.Decoder(tuple[str, list[_Answer]]).decode
_write_line = msgspec.json.Encoder().encode


class Answers:
    """One process's view of the file. On the event loop, and nowhere else."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        """``path``: in the folder of the count, where ``lock`` keeps apart who begins the file anew."""
        self.path = path
        self.shared = self.heard = 0
        """Answers written, and answers of others read."""
        self._most_bytes = most_bytes
        self._file = -1
        self._inode = self._position = 0
        self._name, self._process = "", 0
        self._complained = self._is_closed = False

    def recall(self) -> Iterator[tuple[str, Snapshot]]:
        """All that was answered before, oldest first, and from now on what `look` finds comes after that."""
        with contextlib.suppress(OSError):
            self._switch(self._before)
            yield from self._read_on(1 << 62)
        with contextlib.suppress(OSError):
            self._switch(self.path)
            yield from self._read_on(1 << 62)

    def look(self) -> Iterable[tuple[str, Snapshot]]:
        """What others have been answered since the last look, or a part of that, in the order it came."""
        if self._is_closed:
            return ()
        try:
            now = os.stat(self.path)  # noqa: PTH116  # half the time of Path.stat, and this is often
            if now.st_ino == self._inode and now.st_size == self._position:
                return ()
            found = list(self._read_on(_AT_A_TIME)) if self._file >= 0 else []
            if not found and now.st_ino != self._inode:
                self._switch(self.path)
                found = list(self._read_on(_AT_A_TIME))
        except OSError:  # then nobody tells us anything
            return ()
        return found

    def share(self, answers: Iterable[tuple[str, Snapshot]]) -> None:
        """Tell the others, in one line. Where that cannot be done it is said once."""
        answered = [_answer(subject, snapshot) for subject, snapshot in answers]
        if not answered or self._is_closed:
            return
        try:
            line = b"\n" + _write_line((self._own_name(), answered)) + b"\n"  # a torn one before it ends here
        except UnicodeError:  # a subject that no text can hold, nor OpenMeter
            return
        try:
            if self._file < 0:
                self._switch(self.path)
            if os.fstat(self._file).st_size + len(line) > self._most_bytes:
                self._begin_anew()
            if os.write(self._file, line) < len(line):
                raise OSError(None, "the disk is full")
        except OSError as failure:
            if not self._complained:
                self._complained = True
                _log.warning(
                    "Worker processes do not hear of each other's answers, and ask OpenMeter for more of them: %s cannot "
                    "be written (%s).",
                    self.path,
                    failure.strerror or failure,
                )
            return
        self._complained = False
        self.shared += len(answered)

    def close(self) -> None:
        """Hear and say no more."""
        self._is_closed = True
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    @property
    def _before(self) -> Path:
        return self.path.with_name(f"{self.path.name}.before")

    def _own_name(self) -> str:
        """What tells our lines from those of others; in a forked child it is another."""
        if self._process != os.getpid():
            self._name, self._process = os.urandom(8).hex(), os.getpid()
        return self._name

    def _switch(self, path: Path) -> None:
        """Go on at the start of this file; it is made where it is the current one."""
        make = os.O_CREAT if path == self.path else 0
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | make, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._inode, self._position = file, os.fstat(file).st_ino, 0

    def _begin_anew(self) -> None:
        """Where somebody else does that, or a process starts, it is left for later."""
        with (self.path.parent / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if self.path.stat().st_ino == os.fstat(self._file).st_ino:
                self.path.replace(self._before)
            self._switch(self.path)

    def _read_on(self, most: int) -> Iterator[tuple[str, Snapshot]]:
        """About so many bytes of whole lines from where we are; half a line is still being written."""
        own, until = f'["{self._own_name()}"'.encode(), self._position + most
        while self._position < until:
            data = os.pread(self._file, _AT_A_TIME, self._position)
            while data and b"\n" not in data[-_AT_A_TIME:] and len(data) < _LONGEST:
                more = os.pread(self._file, _AT_A_TIME, self._position + len(data))
                data += more
                if not more:
                    return
            if not data:
                return
            whole = data.rfind(b"\n") + 1 or len(data)
            self._position += whole
            for line in data[:whole].splitlines():
                if line and not line.startswith(own):
                    yield from self._read(line)

    def _read(self, line: bytes) -> Iterator[tuple[str, Snapshot]]:
        try:
            _, answers = _read_line(line)
        except (msgspec.DecodeError, RecursionError):
            return
        self.heard += len(answers)
        for answer in answers:
            yield answer.subject, _snapshot(answer)


def _answer(subject: str, snapshot: Snapshot) -> _Answer:
    return _Answer(
        subject,
        snapshot.asked_at,
        None if snapshot.is_provisional else snapshot.balances_at,
        snapshot.is_expired,
        snapshot.state,
        [(one.feature, one.has_access, one.balance, one.usage, one.overage) for one in snapshot.values],
        [
            (
                one.feature,
                *one.place,
                one.amount,
                one.balance,
                None if one.seen is None else [None if at == NEVER else at for at in one.seen],
                one.early,
            )
            for one in snapshot.ceilings
        ],
    )


def _snapshot(answer: _Answer) -> Snapshot:
    access = SubjectAccess(answer.state, tuple(FeatureValue(*value) for value in answer.values))
    snapshot = Snapshot(answer.asked_at, access)
    snapshot.balances_at = NEVER if answer.balances_at is None else answer.balances_at
    snapshot.ceilings = tuple(
        Ceiling(
            feature,
            Place(number, generation),
            amount,
            balance,
            None if seen is None else tuple(NEVER if at is None else at for at in seen),
            early,
        )
        for feature, number, generation, amount, balance, seen, early in answer.ceilings
    )
    if answer.is_expired:
        snapshot.expire()
    return snapshot
