"""The shared memory of a host's count: files in a folder, mapped by every process of the gateway.

`places` is the table of places, `column-0`, `column-1`, … belong to one process each, which keeps its column
locked for as long as it lives. A dead process leaves its column to the next that starts: the sums in it go on.
After a new start of the machine the clock has begun anew and nothing in the files is of use; they are made
again.

Without a folder everything is in this process's memory, and so is the count.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from metergate.entitlements.usage import column, places
from metergate.entitlements.usage.column import Column
from metergate.entitlements.usage.places import MOST_COLUMNS, MOST_PLACES, Places

_log = logging.getLogger("metergate.entitlements")

TABLE = "places"
BOOT = "boot"
"""Written last: whether what was counted is of this start of the machine, and complete."""
ANSWERS = "answers"
"""What OpenMeter answered, by key; its ceilings name places, and its times are of the clock."""
LAYOUT = 2
ROOM = 4096
"""Places that a column gets room for at a time."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Folder:
    """The table and the columns of one OpenMeter on this host."""

    def __init__(
        self,
        path: Path | None,
        begin: Callable[[Folder], None] = lambda _: None,
        *,
        most_places: int = MOST_PLACES,
    ) -> None:
        """Makes or opens the files. Raises OSError where the folder cannot be written.

        Args:
            path: on a local file system.
            begin: called with this at the end, before anybody else can open it: for what has to be counted in a
                new one. If the process dies in it, the folder is new to the next.
            most_places: a power of two, the same for all who open the folder.
        """
        self.path = path
        self._most = most_places
        self._files: list[int] = []
        self._lock_file = -1
        self._depth = 0
        self.is_new = True
        """Whether nothing was counted in it before."""
        self._room = most_places
        self._identity = 0, 0
        if path is None:
            words = own_memory(places.bytes_for(most_places))
            self.columns = [Column(own_memory(column.bytes_for(most_places)).cast("d"))]
            self.own = 0
            self.places = Places(words.cast("Q"), most_places, contextlib.nullcontext)
            self.places.columns = 1
            begin(self)
            return
        path.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        with self._locked():
            self.is_new = _forget_other_boots(path, most_places)
            self._open_table(path / TABLE)
            self.columns = []
            self.own = self._take_column(path)
            begin(self)
            if self.is_new:
                (path / BOOT).write_text(_boot(most_places), encoding="ascii")

    def refresh(self) -> None:
        """Map the columns of processes that started since."""
        while self.path is not None and len(self.columns) < self.places.columns:
            numbers = self._map(self.path / f"column-{len(self.columns)}", column.bytes_for(self._most))
            self.columns.append(Column(numbers.cast("d")))

    def make_room(self, place: int) -> bool:
        """See to it that a place's cells may be read and written, in the columns of all; False where the disk is full.

        A look into a mapped file that the disk has no room for would end the process.
        """
        if place >= self._room:
            room = self._room_for(place)
            try:
                for number in range(self.places.columns):
                    self._allocate(number, room)
            except OSError:
                return False
            self._room = room
        return True

    def is_lost(self) -> bool:
        """Whether the files that this process uses are not those that others would open."""
        if self.path is None:
            return False
        try:
            found = (self.path / TABLE).stat()
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    @contextlib.contextmanager
    def borrowed(self, number: int) -> Iterator[bool]:
        """Whether that column's process is dead; inside, nobody else takes the column over."""
        if self.path is None or number == self.own:
            yield False
            return
        try:
            file = os.open(self.path / f"column-{number}", os.O_RDWR)
        except FileNotFoundError:  # see `is_lost`
            yield False
            return
        try:
            yield _try_lock(file)
        finally:
            os.close(file)

    def close(self) -> None:
        """Leave the column to others; in a forked child: to the parent, which keeps its lock. The mapped memory goes
        with the last who looks at it.
        """
        for file in (*self._files, self._lock_file):
            if file >= 0:
                os.close(file)
        self._files, self._lock_file = [], -1

    def forget_parent(self) -> None:
        """In a forked child of a process that counts in memory: what was recorded is copied, what was held is not ours."""
        self.columns[self.own].drop_held(len(self.places))
        self.is_new = False

    def _open_table(self, path: Path) -> None:
        """The table of places; made anew where it cannot be one. The folder's lock is held."""
        for _ in range(2):
            table = self._map(path, places.bytes_for(self._most), allocate=True)
            self.places = Places(table.cast("Q"), self._most, self._locked)
            if self.places.is_sound():
                break
            _log.error("%s is damaged: usage is counted anew", path)
            self.is_new = _forget(path.parent)
        found = path.stat()
        self._identity = found.st_dev, found.st_ino

    def _take_column(self, path: Path) -> int:
        """A column that nobody has, or a new one. The folder's lock is held."""
        for number in range(MOST_COLUMNS):
            file = os.open(path / f"column-{number}", os.O_RDWR | os.O_CREAT, 0o600)
            if _try_lock(file):
                self._files.append(file)
                self._room = self._room_for(max(len(self.places) - 1, 0))
                self._allocate(number, self._room)  # before others know of it, and read it
                self.places.columns = max(self.places.columns, number + 1)
                self.refresh()
                self.columns[number].drop_held(len(self.places))
                return number
            os.close(file)
        raise OSError(f"{path} is in use by {MOST_COLUMNS} processes")

    def _room_for(self, place: int) -> int:
        return min((place // ROOM + 1) * ROOM, self._most)

    def _allocate(self, number: int, room: int) -> None:
        file = os.open(cast(Path, self.path) / f"column-{number}", os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, column.bytes_for(room))
        finally:
            os.close(file)

    def _map(self, path: Path, length: int, *, allocate: bool = False) -> memoryview:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if allocate:
                os.posix_fallocate(file, 0, length)
            elif os.fstat(file).st_size < length:
                os.ftruncate(file, length)
            return memoryview(mmap.mmap(file, length))
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._depth += 1
        if self._depth == 1:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)


def own_memory(length: int) -> memoryview:
    """So many bytes, zero, which cost nothing before they are used. A forked child gets a copy of them."""
    return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _forget_other_boots(path: Path, most: int) -> bool:
    """Remove what was counted before the machine started, or by a table that is gone: it says whose the columns' cells are.
    Whether there is nothing now. The folder's lock is held.
    """
    boot, table = path / BOOT, path / TABLE
    are_there = boot.exists() and table.exists()
    if are_there and boot.read_text(encoding="ascii", errors="replace") == _boot(most):
        return False
    return _forget(path)


def _forget(path: Path) -> bool:
    """Begin with what says that the rest is of use: killed in between, the next does the same."""
    for old in (path / BOOT, path / TABLE, *path.glob("column-*"), *path.glob(f"{ANSWERS}*")):
        old.unlink(missing_ok=True)
    return True


def _boot(most: int) -> str:
    return f"{_BOOT.read_text(encoding='ascii').strip()} layout {LAYOUT}, {most} places"


def can_share() -> bool:
    """Whether this system says when it was started; without, no file can outlive a process."""
    return _BOOT.exists()
