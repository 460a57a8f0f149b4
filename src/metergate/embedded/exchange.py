"""Files of CloudEvents: JSON lines, CSV and Parquet, chosen by the file's ending.

CSV and Parquet have the columns id, source, type, subject, and may have time (RFC 3339; in Parquet a timestamp too)
and data (a JSON object as text; in Parquet a struct too). Others are left alone.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

import duckdb
import msgspec

from metergate.embedded.domain.cloudevents import SINGLE, Event, InvalidEvents, read_events
from metergate.embedded.domain.moments import format_rfc3339
from metergate.errors import ConfigurationError

COLUMNS = ("id", "source", "type", "subject", "time", "data")
_REQUIRED = COLUMNS[:4]
_ROWS = 5_000
_SCHEMA_PREFIX = "request body has an error: "
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Entry:
    """One line (or row) of a file: its event, or what is wrong with it. ``share``: how much of the file is read by then."""

    line: int
    share: float
    event: Event | None = None
    wrong: str = ""


def read_file(file: Path) -> Iterator[Entry]:
    """The file's entries, empty lines left out. Raises ConfigurationError where it cannot be read as what it is named."""
    readers: dict[str, Callable[[Path], Iterator[Entry]]] = {
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    return readers[_format(file, readers)](file)


def _format(file: Path, known: dict[str, Any]) -> str:
    if file.suffix.lower() not in known:
        raise ConfigurationError(
            f"{file}: this ending says of no kind of file that can be dealt with. Use one of {', '.join(known)}."
        )
    return file.suffix.lower()


def encode_event(event: Event) -> bytes:
    """The event as JSON, as it would come in."""
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
    }
    if event.time is not None:
        attributes["time"] = format_rfc3339(datetime.fromtimestamp(event.time, UTC))
    if event.data is not None:
        return _encode({**attributes, "data": msgspec.Raw(event.data.encode())})
    return _encode(attributes)


def _entry(line: int, share: float, text: bytes) -> Entry:
    try:
        return Entry(line, share, read_events(text, SINGLE)[0])
    except InvalidEvents as exception:
        return Entry(line, share, wrong=str(exception).removeprefix(_SCHEMA_PREFIX))


def _read_json_lines(file: Path) -> Iterator[Entry]:
    size, read = max(file.stat().st_size, 1), 0
    with file.open("rb") as source:
        for number, line in enumerate(source, 1):
            read += len(line)
            if line.strip():
                yield _entry(number, read / size, line)


def _read_csv(file: Path) -> Iterator[Entry]:
    size = max(file.stat().st_size, 1)
    with file.open(encoding="utf-8-sig", newline="") as source:
        read = 0

        def lines() -> Iterator[str]:
            nonlocal read
            for line in source:
                read += len(line.encode())
                yield line

        try:
            rows = csv.DictReader(lines(), strict=True)
            _check_columns(file, rows.fieldnames or ())
            for row in rows:
                yield _row_entry(rows.line_num, read / size, row)
        except (csv.Error, UnicodeDecodeError) as exception:
            raise ConfigurationError(f"{file}: is no CSV in UTF-8: {exception}.") from exception


def _check_columns(file: Path, found: Sequence[str]) -> None:
    if missing := [name for name in _REQUIRED if name not in found]:
        raise ConfigurationError(
            f"{file}: has no column {', '.join(missing)}. Its first line names the columns: {', '.join(COLUMNS)}."
        )


def _row_entry(line: int, share: float, row: dict[str, Any]) -> Entry:
    attributes = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    if "data" in attributes:
        try:
            msgspec.json.decode(attributes["data"], type=msgspec.Raw)
        except msgspec.DecodeError as exception:
            return Entry(line, share, wrong=f"data is no JSON: {exception}")
        attributes["data"] = msgspec.Raw(attributes["data"].encode())
    return _entry(line, share, _encode({"specversion": "1.0", **attributes}))


def _read_parquet(file: Path) -> Iterator[Entry]:
    with duckdb.connect() as connection:
        try:
            types = {
                name: kind
                for name, kind, *_ in connection.execute(
                    "DESCRIBE SELECT * FROM read_parquet($1)", [str(file)]
                ).fetchall()
            }
            _check_columns(file, list(types))
            columns = ", ".join(_column(name, types[name]) for name in COLUMNS if name in types)
            names = [name for name in COLUMNS if name in types]
            (total,) = connection.execute(
                "SELECT count(*) FROM read_parquet($1)", [str(file)]
            ).fetchone() or (0,)
            connection.execute(f"SELECT {columns} FROM read_parquet($1)", [str(file)])  # noqa: S608 - constants
            number = 0
            while rows := connection.fetchmany(_ROWS):
                for row in rows:
                    number += 1
                    yield _row_entry(number, number / total, dict(zip(names, row, strict=True)))
        except duckdb.Error as exception:
            raise ConfigurationError(f"{file}: {' '.join(str(exception).split())}") from exception


def _column(name: str, kind: str) -> str:
    if name == "time" and kind.startswith("TIMESTAMP"):
        return "strftime(time::TIMESTAMP, '%Y-%m-%dT%H:%M:%S.%fZ')"
    return (
        "to_json(data)::VARCHAR" if name == "data" and kind not in ("VARCHAR", "JSON") else f"{name}::VARCHAR"
    )


class EventWriter(Protocol):
    """Takes events as JSON, page by page, into ``partial``."""

    partial: Path

    def write(self, lines: Sequence[bytes]) -> None: ...

    def finish(self) -> None:
        """Have all of it in the file."""
        ...

    def close(self) -> None: ...


@contextmanager
def write_file(file: Path) -> Iterator[EventWriter]:
    """The writer of that file, in the form its ending says. The file is there, whole, at the end, and not before."""
    writers: dict[str, type[_JsonLines | _Csv | _Parquet]] = {
        ".jsonl": _JsonLines,
        ".ndjson": _JsonLines,
        ".csv": _Csv,
        ".parquet": _Parquet,
    }
    writer = writers[_format(file, writers)](file.with_name(file.name + ".partial"))
    try:
        yield writer
        writer.finish()
        with writer.partial.open("rb") as written:
            os.fsync(written.fileno())
        writer.partial.replace(file)
    finally:
        writer.close()
        writer.partial.unlink(missing_ok=True)


class _JsonLines:
    def __init__(self, partial: Path) -> None:
        self.partial = partial
        self._output: IO[bytes] = partial.open("wb")

    def write(self, lines: Sequence[bytes]) -> None:
        self._output.writelines(line + b"\n" for line in lines)

    def finish(self) -> None:
        self._output.flush()

    def close(self) -> None:
        self._output.close()


class _Csv:
    def __init__(self, partial: Path) -> None:
        self.partial = partial
        self._output = partial.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._output, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, lines: Sequence[bytes]) -> None:
        self._rows.writerows(_columns(line) for line in lines)

    def finish(self) -> None:
        self._output.flush()

    def close(self) -> None:
        self._output.close()


class _Parquet:
    """By way of a database beside the file, since all rows of a column lie together in it."""

    def __init__(self, partial: Path) -> None:
        self.partial = partial
        self._database = partial.with_name(partial.name + ".duckdb")
        self._database.unlink(missing_ok=True)
        self._connection = duckdb.connect(str(self._database))
        self._connection.execute(
            "CREATE TABLE events (id VARCHAR, source VARCHAR, type VARCHAR, subject VARCHAR, time VARCHAR, data VARCHAR)"
        )
        self._appender = self._connection.appender("events")

    def write(self, lines: Sequence[bytes]) -> None:
        self._appender.append_rows([_columns(line) for line in lines])

    def finish(self) -> None:
        self._appender.flush()
        columns = "id, source, type, subject, time::TIMESTAMPTZ AS time, data"
        target = str(self.partial).replace("'", "''")
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute(f"COPY (SELECT {columns} FROM events) TO '{target}' (FORMAT parquet)")  # noqa: S608

    def close(self) -> None:
        self._connection.close()
        for file in (self._database, self._database.with_name(self._database.name + ".wal")):
            file.unlink(missing_ok=True)


def _columns(line: bytes) -> tuple[str | None, ...]:
    event = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    return tuple(
        None
        if name not in event
        else bytes(event[name]).decode()
        if name == "data"
        else msgspec.json.decode(event[name], type=str)
        for name in COLUMNS
    )
