"""Disks that fill up, and disks that lose power, to hand to ``Delivery(files=...)``. Both work on a real folder.

disk = PowerCutFiles()
delivery = Delivery(url, key, directory=spool, durability="power", files=disk)
delivery.record(line, 1).result()
disk.cut_power(spool)                # everything that was not synced is gone
assert openmeter_gets(line)          # and this event was
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from metergate.delivery.files import Files


class FullDisk(Files):
    """A disk with ``free`` bytes left: writes as much as fits, then fails with ``error``. Truncating gives bytes back.

    ``free`` may be set at any time; ``error`` is ``errno.ENOSPC``, or any other to fail with.
    """

    def __init__(self, free: int, error: int = errno.ENOSPC) -> None:
        self.free = free
        self.error = error
        self._mutex = threading.Lock()

    def write(self, fd: int, data: bytes) -> int:  # type: ignore[override]  # a method where the real one is a function
        """Writes what fits; raises where nothing does."""
        with self._mutex:
            fits = min(len(data), self.free)
            if data and not fits:
                raise OSError(self.error, os.strerror(self.error))
            written = os.write(fd, data[:fits])
            self.free -= written
            return written

    def truncate(self, fd: int, size: int) -> None:
        """Cuts, and frees what was cut."""
        with self._mutex:
            self.free += max(0, os.fstat(fd).st_size - size)
        super().truncate(fd, size)


@dataclass(slots=True)
class _Inode:
    """A file as the disk holds it. ``path`` is where its bytes are now; ``synced`` those that survive."""

    path: Path
    synced: bytes = b""


@dataclass(slots=True)
class _Disk:
    current: dict[Path, _Inode] = field(default_factory=dict)
    open: dict[int, _Inode] = field(default_factory=dict)
    names: dict[Path, dict[str, _Inode]] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)


class PowerCutFiles(Files):
    """A disk that keeps only what was synced, as strictly as POSIX allows.

    A file's bytes survive if the file was synced after they were written; its name, its new name, or its removal, if the
    folder was. ``syncs`` counts syncs of files. ``fail_syncs`` makes that many fail with EIO.
    """

    def __init__(self) -> None:
        self.syncs = 0
        self.fail_syncs = 0
        self._disk = _Disk()
        self._mutex = threading.RLock()

    def open_to_append(self, path: Path) -> int:
        """See ``Files``."""
        with self._mutex:
            existed = path.exists()
            fd = super().open_to_append(path)
            if not existed or path not in self._disk.current:
                self._disk.current[path] = _Inode(path)
            self._disk.open[fd] = self._disk.current[path]
            return fd

    def sync(self, fd: int) -> None:
        """See ``Files``."""
        with self._mutex:
            if self.fail_syncs:
                self.fail_syncs -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            inode = self._disk.open.get(fd)
            if inode is None:  # opened before the power went
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.syncs += 1
            super().sync(fd)
            inode.synced = os.pread(fd, os.fstat(fd).st_size, 0)

    def sync_folder(self, path: Path) -> None:
        """See ``Files``."""
        with self._mutex:
            disk = self._disk
            super().sync_folder(path)
            disk.names[path] = {at.name: inode for at, inode in disk.current.items() if at.parent == path}
            disk.folders.update(entry for entry in path.iterdir() if entry.is_dir())

    def replace(self, source: Path, target: Path) -> None:
        """See ``Files``."""
        with self._mutex:
            super().replace(source, target)
            inode = self._disk.current.pop(source)
            inode.path = target
            self._disk.current[target] = inode

    def unlink(self, path: Path) -> None:
        """See ``Files``."""
        with self._mutex:
            super().unlink(path)
            self._disk.current.pop(path, None)

    def cut_power(self, root: Path, torn: random.Random | None = None) -> None:
        """Leaves below ``root`` what a power cut leaves. Whoever had it open has to be forgotten, not closed.

        ``torn``: of each file that survives, a random part of the bytes that were not synced is kept as well, which a real
        disk may do; None keeps none of them.
        """
        with self._mutex:
            tails = {id(inode): self._tail(inode, torn) for inode in self._disk.current.values()}
            for entry in root.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            disk, self._disk = self._disk, _Disk()
            for folder in sorted(disk.folders):
                if root in folder.parents and (folder.parent == root or folder.parent.is_dir()):
                    folder.mkdir()
            for folder, names in disk.names.items():
                for name, inode in names.items() if folder.is_dir() else ():
                    (folder / name).write_bytes(inode.synced + tails.get(id(inode), b""))

    @staticmethod
    def _tail(inode: _Inode, torn: random.Random | None) -> bytes:
        if torn is None or not inode.path.exists():
            return b""
        written = inode.path.read_bytes()[len(inode.synced) :]
        return written[: torn.randint(0, len(written))]
