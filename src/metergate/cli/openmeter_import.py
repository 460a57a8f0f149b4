"""``metergate openmeter import``: events out of files."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metergate.cli.options_openmeter import URL, Data, Url, progress, token

if TYPE_CHECKING:
    from metergate.cli.stores import Store
    from metergate.embedded.exchange import Entry

BATCH = 2_000
SHOWN = 100
"""So many lines that are wrong are named; all are counted."""


def import_file(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="*.jsonl, *.csv or *.parquet")],
    url: Url = URL,
    data: Data = None,
) -> None:
    """Take in the CloudEvents of files. A line that holds no event is named and left out; those known already are too.

    A batch of lines is stored whole or not at all. The same command can be given again after an interruption.
    """
    from metergate.cli.stores import open_store

    wrong = 0
    with open_store(data, url, token()) as store:
        for file in files:
            wrong += _import_one(store, file)
    if wrong:
        raise typer.Exit(1)


def _import_one(store: Store, file: Path) -> int:
    """How many of its lines were wrong."""
    from metergate.embedded.exchange import encode_event, read_file

    taken, wrong, began = 0, 0, time.monotonic()
    with progress("events") as shown:
        task = shown.add_task(file.name, total=1.0, done=0, rate=0)
        for batch in _batches(read_file(file)):
            for entry in batch:
                if entry.event is None:
                    wrong += 1
                    _name(file, entry, wrong)
            lines = [encode_event(entry.event) for entry in batch if entry.event is not None]
            if lines:
                store.append(lines)
            taken += len(lines)
            rate = taken / (time.monotonic() - began)
            shown.update(task, completed=batch[-1].share, done=taken, rate=rate)
    seconds = time.monotonic() - began
    print(f"{file}: {taken:,} events taken in, {wrong:,} lines wrong, {taken / seconds:,.0f} events/s")
    return wrong


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def _name(file: Path, entry: Entry, count: int) -> None:
    if count <= SHOWN:
        print(f"{file}:{entry.line}: {entry.wrong}", file=sys.stderr)
    elif count == SHOWN + 1:
        print(f"{file}: more lines are wrong; they are counted", file=sys.stderr)
