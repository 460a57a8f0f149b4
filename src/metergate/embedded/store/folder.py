"""The files of the embedded server's folder: the database, its log, and the lock that one process holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import duckdb

from metergate.errors import ConfigurationError

FILE = "openmeter.duckdb"
LOCK = "lock"
LOG = f"{FILE}.wal"
PARTIAL = "restore.partial"
"""Where a backup is unpacked and checked before it becomes the database."""
FORMAT = 1
"""What the tables look like; raised when a migration has to be run (``MIGRATIONS``)."""
MIGRATIONS: dict[int, Sequence[str]] = {}
"""Statements that bring a folder of format n to n + 1."""
MAX_MEMORY_MIB = 1024
"""What DuckDB may take for its pages and for grouping; what does not fit goes to a file beside the database."""
_UNITS = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0, "TiB": 1024.0**2}
_OPTIONS: dict[str, str | bool | int | float | list[str]] = {"checkpoint_threshold": "1TB"}


def connect(folder: Path) -> duckdb.DuckDBPyConnection:
    """Open the database; its log is folded into it by nobody but us."""
    connection = duckdb.connect(str(folder / FILE), config=_OPTIONS)
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    _bound_memory(connection)
    return connection


def _bound_memory(connection: duckdb.DuckDBPyConnection) -> None:
    """DuckDB's own bound is 80 % of what the machine has."""
    row = connection.execute("SELECT current_setting('memory_limit')").fetchone()
    found = re.fullmatch(r"([\d.]+) (\w+)", "" if row is None else str(row[0]))
    if found is None or float(found[1]) * _UNITS.get(found[2], 0.0) > MAX_MEMORY_MIB:
        connection.execute(f"SET GLOBAL memory_limit = '{MAX_MEMORY_MIB}MiB'")


def lock_folder(folder: Path) -> IO[str]:
    """The open, locked file ``lock`` in the folder; it names the process that holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+", encoding="ascii")
    except OSError as exception:
        raise ConfigurationError(
            f"The data folder {folder} cannot be written: {exception.strerror}. "
            "Name another with --data or give this user write access."
        ) from exception
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise ConfigurationError(
            f"The data folder {folder} is in use by process {holder}. "
            "Stop that one first, or name another folder with --data."
        ) from None
    lock.seek(0)
    lock.truncate()
    with contextlib.suppress(OSError):  # the name is for people; a full disk is no reason not to serve
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    return lock


def refuse_half_restored(folder: Path) -> None:
    """Raises ConfigurationError where a restore was killed: an empty database must not begin in its place."""
    if (folder / PARTIAL).exists() and not (folder / FILE).exists():
        raise ConfigurationError(
            f"A restore into {folder} has not come to its end. Give that command again, "
            f"or remove {folder / PARTIAL} to begin with nothing."
        )


@contextlib.contextmanager
def unused_folder(folder: Path) -> Iterator[None]:
    """While open, no server runs on the folder, which is only read. Raises ConfigurationError where one does."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(FileNotFoundError):  # nobody has ever opened it
            lock = held.enter_context((folder / LOCK).open(encoding="ascii"))
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(
                    f"{folder} is in use by process {lock.read().strip() or 'unknown'}. "
                    "Stop that one first, or make a backup of it with `metergate openmeter backup`."
                ) from None
        yield


def migrate(connection: duckdb.DuckDBPyConnection, schema: Iterable[str]) -> None:
    """Bring the tables up to date. Raises ConfigurationError for a folder of a newer version."""
    connection.begin()
    connection.execute("CREATE TABLE IF NOT EXISTS about (format INTEGER NOT NULL)")
    row = connection.execute("SELECT format FROM about").fetchone()
    found = FORMAT if row is None else int(row[0])
    if found > FORMAT:
        raise ConfigurationError(
            f"The data folder has format {found}, this version knows {FORMAT}. "
            "Use the newer version of Metergate that made it."
        )
    for version in range(found, FORMAT):
        for statement in MIGRATIONS[version]:
            connection.execute(statement)
    if row is None or found < FORMAT:
        connection.execute("DELETE FROM about")
        connection.execute("INSERT INTO about VALUES (?)", [FORMAT])
    for statement in schema:
        connection.execute(statement)
    connection.commit()
