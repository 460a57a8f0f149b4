"""``metergate openmeter backup``: a copy of all data, of a running server too."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from metergate.cli.options_openmeter import URL, Data, Url, progress, token
from metergate.errors import UsageError


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="DIR|FILE.tar", help="A new folder to start from, or an archive of one.")
    ],
    url: Url = URL,
    data: Data = None,
) -> None:
    """Copy all data: all that was acknowledged before this began. `--data DIR` then serves the copy."""
    from metergate.cli.stores import open_store

    if target.exists():
        raise UsageError(f"{target} is there already: name another, or remove it first")
    began = time.monotonic()
    archive = target.with_name(f"{target.name}.partial{'' if target.suffix == '.tar' else '.tar'}")
    unpacked = target.with_name(target.name + ".partial")
    try:
        with open_store(data, url, token()) as store:
            size, pieces = store.backup()
            _write(archive, size, pieces)
        if target.suffix == ".tar":
            archive.replace(target)
        else:
            _unpack(archive, unpacked)
            unpacked.replace(target)
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)
    print(f"{target}: {size / 1e6:,.1f} MB in {time.monotonic() - began:.1f} s")


def _write(archive: Path, size: int, pieces: Iterator[bytes]) -> None:
    written, began = 0, time.monotonic()
    with archive.open("wb") as output, progress("bytes") as shown:
        task = shown.add_task("copying", total=size, done=0, rate=0)
        for piece in pieces:
            written += output.write(piece)
            rate = written / (time.monotonic() - began)
            shown.update(task, completed=written, done=written, rate=rate)
        output.flush()
        os.fsync(output.fileno())
    if written != size:
        raise UsageError(f"the copy broke off after {written:,} of {size:,} bytes; nothing of it was kept")


def _unpack(archive: Path, folder: Path) -> None:
    from metergate.embedded.store.restoring import read_backup, write_files

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for _ in write_files(read_backup(archive), folder):
        pass
