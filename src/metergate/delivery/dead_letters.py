"""Dead letters: events that OpenMeter refused one by one, with its answer. Kept until somebody drives them again.

``dead/<date>.jsonl``, a line each: ``time``, ``status`` and ``detail`` of the refusal, ``segment`` and ``offset`` where the
event was, and ``event``, the exact bytes that were sent. A line that is no JSON at all (a disk lost a page of it) is in
``damaged`` as base64 instead. A crash between burying and moving the cursor buries the event a second time; the pair of
segment and offset tells, and only one is listed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from metergate.delivery.destination import Folder, folders
from metergate.delivery.files import Files, append_whole, write_whole_file
from metergate.delivery.segment import claim_new, segment_path

_LETTER_SUFFIX = ".jsonl"
_NOTHING = msgspec.Raw(b"")


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One refused event. ``status`` is 0 for a damaged line, which was not sent."""

    time: str
    status: int
    detail: str
    segment: str
    offset: int
    event: msgspec.Raw = _NOTHING
    damaged: str = ""

    @property
    def event_bytes(self) -> bytes:
        """The event as it was recorded."""
        return base64.b64decode(self.damaged) if self.damaged else bytes(self.event)

    @property
    def is_damaged(self) -> bool:
        """Whether it is no JSON, and cannot be driven again."""
        return not bytes(self.event)


class Graveyard(Protocol):
    """Where the sender puts dead letters."""

    def bury(self, letter: DeadLetter) -> None:
        """Keeps the letter; on disk, it survives a power cut when this returns.

        Raises:
            OSError: it could not be kept; the event must not be settled.
        """

    def count(self) -> int:
        """Letters there are now."""


def new_letter(line: bytes, status: int, detail: str, place: tuple[str, int], wall_time: float) -> DeadLetter:
    """The dead letter for an event's bytes."""
    time = datetime.fromtimestamp(wall_time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    segment, offset = place
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        damaged = base64.b64encode(line).decode()
        return DeadLetter(time, status, detail, segment, offset, damaged=damaged)
    return DeadLetter(time, status, detail, segment, offset, msgspec.Raw(line))


class DeadLetterFiles:
    """The dead letters of one destination, shared by its processes."""

    def __init__(self, files: Files, folder: Folder) -> None:
        self._files = files
        self._folder = folder.dead
        self._counted: dict[str, tuple[tuple[int, int], int]] = {}

    def bury(self, letter: DeadLetter) -> None:
        """See ``Graveyard``."""
        path = self._folder / (letter.time[:10] + _LETTER_SUFFIX)
        with _locked(self._folder):
            is_new = not path.exists()
            fd = self._files.open_to_append(path)
            try:
                append_whole(self._files, fd, _mending(fd) + msgspec.json.encode(letter) + b"\n")
                self._files.sync(fd)
            finally:
                os.close(fd)
            if is_new:
                self._files.sync_folder(self._folder)

    def count(self) -> int:
        """See ``Graveyard``. Reads again only the files that changed."""
        counted = {}
        for path in _letter_files(self._folder):
            try:
                status = path.stat()
                signature = (status.st_size, status.st_mtime_ns)
                known = self._counted.get(path.name)
                counted[path.name] = known if known and known[0] == signature else (signature, _lines(path))
            except FileNotFoundError:
                continue
        self._counted = counted
        return sum(lines for _, lines in counted.values())

    def read(self) -> list[DeadLetter]:
        """All letters, oldest first, each once. Half a line that a power cut left is passed over."""
        letters: dict[tuple[str, int], DeadLetter] = {}
        for path in _letter_files(self._folder):
            for line in path.read_bytes().split(b"\n"):
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    letter = msgspec.json.decode(line, type=DeadLetter)
                    letters.setdefault((letter.segment, letter.offset), letter)
        return list(letters.values())

    def replace(self, letters: list[DeadLetter]) -> None:
        """Keeps only these. Needs the lock, see ``redrive``."""
        files = _letter_files(self._folder)
        if letters:
            data = b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters)
            write_whole_file(self._files, files[0], data)
        for path in files[1:] if letters else files:
            self._files.unlink(path)
        self._files.sync_folder(self._folder)


def dead_letters(directory: Path) -> list[tuple[Folder, DeadLetter]]:
    """The dead letters of all destinations below ``directory`` (the spool's root), oldest first within each."""
    found: list[tuple[Folder, DeadLetter]] = []
    for folder in folders(directory):
        found += [(folder, letter) for letter in DeadLetterFiles(Files(), folder).read()]
    return found


def redrive(
    directory: Path,
    select: Callable[[Folder, DeadLetter], bool] = lambda _folder, _letter: True,
    files: Files | None = None,
) -> int:
    """Puts the selected dead letters, all by default, back into the spool of their destination, bytes and ids unchanged.

    Whoever sends for that destination finds them within a second or two; where nobody runs, the next start does. Damaged
    ones stay. Returns how many were put back.

    Raises:
        OSError: the disk. What was not put back is still a dead letter; a crash amid it leaves both, with the same ids.
    """
    files = files or Files()
    return sum(_redrive(folder, select, files) for folder in folders(directory))


def _redrive(folder: Folder, select: Callable[[Folder, DeadLetter], bool], files: Files) -> int:
    graves = DeadLetterFiles(files, folder)
    if not folder.dead.is_dir():  # somebody removed it
        return 0
    with _locked(folder.dead):
        letters = graves.read()
        again = [letter for letter in letters if not letter.is_damaged and select(folder, letter)]
        if not again:
            return 0
        # Until the lock is let go nobody adopts the segment, so nothing is sent while it is still a dead letter as well.
        lock = claim_new(folder.segments, datetime.now(UTC).timestamp())
        try:
            lines = b"".join(letter.event_bytes + b"\n" for letter in again)
            write_whole_file(files, segment_path(folder.segments, lock.writer, 1), lines)
            chosen = {id(letter) for letter in again}
            graves.replace([letter for letter in letters if id(letter) not in chosen])
        finally:
            lock.close()
    return len(again)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _letter_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*" + _LETTER_SUFFIX))


def _mending(fd: int) -> bytes:
    """A newline when the file ends in half a line, so that it spoils nothing but itself."""
    size = os.fstat(fd).st_size
    return b"\n" if size and os.pread(fd, 1, size - 1) != b"\n" else b""


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
