"""``metergate openmeter export``: all events into a file, or into another OpenMeter."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from metergate.cli.options_openmeter import URL, Data, Url, progress, token
from metergate.errors import UsageError

if TYPE_CHECKING:
    from metergate.cli.stores import Store
    from metergate.embedded.store.transfer import Page

BATCH = 500
KEY_VARIABLE = "OPENMETER_API_KEY"


class Progress(msgspec.Struct, frozen=True):
    """How far an export into another OpenMeter has come: all events up to number ``after`` are there."""

    source: str
    target: str
    after: int


def export(
    target: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="*.jsonl, *.csv or *.parquet; it is replaced.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help=f"Send them to this OpenMeter instead, with {KEY_VARIABLE} as its key."
        ),
    ] = None,
    state: Annotated[
        Path,
        typer.Option(metavar="FILE", help="How far --to has come; the same command goes on from there."),
    ] = Path("metergate-export.json"),
    url: Url = URL,
    data: Data = None,
) -> None:
    """Write out all events in the order in which they were stored, ids unchanged."""
    from metergate.cli.stores import open_store

    if (target is None) == (to is None):
        raise UsageError("name a file to write, or with --to the URL of another OpenMeter, one of the two")
    with open_store(data, url, token()) as source:
        if target is not None:
            _into_file(source, target)
        elif to is not None:
            _into_server(source, str(data.resolve()) if data else url, to, state)


def _into_file(source: Store, target: Path) -> None:
    from metergate.embedded.exchange import write_file

    with write_file(target) as writer:
        count, rate = _each_page(source, -1, lambda page: writer.write(page.lines))
    print(f"{target}: {count:,} events written, {rate:,.0f} events/s")


def _into_server(source: Store, name: str, to: str, state: Path) -> None:
    from metergate.cli.stores import ServerStore

    server = ServerStore(to, os.environ.get(KEY_VARIABLE) or None)
    refused = 0

    def send(page: Page) -> None:
        nonlocal refused
        for first in range(0, len(page.lines), BATCH):
            refused += sum(1 for _ in _send(server, page.lines[first : first + BATCH]))
        _save(state, Progress(name, to, page.upto))

    try:
        count, rate = _each_page(source, _load(state, name, to), send)
    finally:
        server.close()
    print(f"{to}: {count - refused:,} events sent, {refused:,} refused, {rate:,.0f} events/s")
    if refused:
        raise typer.Exit(1)


def _each_page(source: Store, after: int, take: Callable[[Page], None]) -> tuple[int, float]:
    """How many events there were behind that number, of those stored by now, and how many a second."""
    count, began = 0, time.monotonic()
    page = source.page(after)
    start, last = after, page.last
    with progress("events") as shown:
        task = shown.add_task("exporting", total=max(last - start, 1), done=0, rate=0)
        while page.upto > after:
            take(page)
            count, after = count + len(page.lines), page.upto
            rate = count / (time.monotonic() - began)
            shown.update(task, completed=after - start, done=count, rate=rate)
            if after >= last:
                break
            page = source.page(after)
    return count, count / max(time.monotonic() - began, 1e-6)


def _send(server: Store, lines: Sequence[bytes]) -> Iterator[bytes]:
    """Those that the server refuses, each named."""
    from metergate.cli.stores import Refused

    try:
        server.append(lines)
    except Refused as exception:
        if len(lines) == 1:
            print(f"{lines[0][:200].decode('utf-8', 'replace')}: {exception}", file=sys.stderr)
            yield lines[0]
            return
        middle = len(lines) // 2
        yield from _send(server, lines[:middle])
        yield from _send(server, lines[middle:])


def _load(state: Path, source: str, target: str) -> int:
    try:
        found = msgspec.json.decode(state.read_bytes(), type=Progress)
    except FileNotFoundError:
        return -1
    except msgspec.DecodeError as exception:
        raise UsageError(
            f"{state} is no state of an export: {exception}. Name another with --state."
        ) from None
    if (found.source, found.target) != (source, target):
        raise UsageError(
            f"{state} is of an export from {found.source} to {found.target}. Name another with --state."
        )
    return found.after


def _save(state: Path, progress: Progress) -> None:
    partial = state.with_name(state.name + ".partial")
    with partial.open("wb") as output:
        output.write(msgspec.json.encode(progress))
        output.flush()
        os.fsync(output.fileno())
    partial.replace(state)
