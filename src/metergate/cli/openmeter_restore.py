"""``metergate openmeter restore``: a folder to start from, out of a backup."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from metergate.cli.options_openmeter import progress
from metergate.errors import UsageError


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|FILE.tar", help="What `metergate openmeter backup` made.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to restore into: empty, or not there yet.")
    ],
) -> None:
    """Make a data folder out of a backup, all of it or nothing. Every row is read before it counts as restored."""
    from metergate.embedded.store.folder import FILE, PARTIAL, lock_folder

    if not source.exists():
        raise UsageError(f"{source} is not there: name what `metergate openmeter backup` made")
    _refuse_used(data)
    began, made = time.monotonic(), not data.exists()
    with lock_folder(data):
        partial = data / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            events = _restore(source, partial)
            (partial / FILE).replace(data / FILE)
        except BaseException:
            shutil.rmtree(data if made else partial)
            raise
        shutil.rmtree(partial)
        _sync(data)
    size = (data / FILE).stat().st_size
    print(f"{data}: {events:,} events, {size / 1e6:,.1f} MB, in {time.monotonic() - began:.1f} s")


def _refuse_used(data: Path) -> None:
    from metergate.embedded.store.folder import LOCK, PARTIAL

    if data.exists() and not data.is_dir():
        raise UsageError(f"{data} is no folder: name another with --data")
    own = {LOCK, PARTIAL, "lost+found"}  # of a restore that was killed; the last is an empty disk's
    used = sorted(file.name for file in data.iterdir() if file.name not in own) if data.exists() else []
    if used:
        raise UsageError(f"{data} is not empty, it holds {used[0]}: name another folder with --data")


def _restore(source: Path, partial: Path) -> int:
    """The whole database in the folder, checked; how many events it has."""
    from metergate.embedded.server import TABLES
    from metergate.embedded.store.restoring import check, read_backup, write_files

    files = source.iterdir() if source.is_dir() else [source]
    total = sum(file.stat().st_size for file in files)
    written, began = 0, time.monotonic()
    with progress("bytes") as shown:
        task = shown.add_task("restoring", total=total, done=0, rate=0)
        for length in write_files(read_backup(source), partial):
            written += length
            rate = written / (time.monotonic() - began)
            shown.update(task, completed=written, done=written, rate=rate)
        shown.update(task, description="checking", total=None)
        return check(partial, [statement for module in TABLES for statement in module.SCHEMA])


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
