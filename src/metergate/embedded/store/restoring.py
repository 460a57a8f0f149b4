"""The way back from a backup: what it holds is read whole, compared with its sums, opened, and read to the last row."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb

from metergate.embedded.store.backup import CHUNK, SUMS, sums_text
from metergate.embedded.store.folder import FILE, LOG, connect, migrate, unused_folder
from metergate.errors import ConfigurationError, MetergateError


class Damaged(MetergateError):
    """What should be a backup is none, or not whole."""


def read_backup(source: Path) -> Iterator[tuple[str, bytes]]:
    """Pieces of its files with their names: of an archive, or of a folder that no server runs on.

    Raises Damaged, ConfigurationError for a folder in use, and OSError.
    """
    return _read_folder(source) if source.is_dir() else _read_archive(source)


def _read_archive(file: Path) -> Iterator[tuple[str, bytes]]:
    sums, told = {}, None
    try:
        with tarfile.open(file, "r:") as opened:
            for member in opened:
                content = opened.extractfile(member) if member.isfile() else None
                if member.name not in (FILE, LOG, SUMS) or content is None:
                    raise Damaged(f"{file} is no backup of an embedded OpenMeter: it holds {member.name}.")
                if member.name == SUMS:
                    told = content.read(CHUNK)
                    continue
                digest = hashlib.sha256()
                while piece := content.read(CHUNK):
                    digest.update(piece)
                    yield member.name, piece
                sums[member.name] = digest.hexdigest()
    except tarfile.TarError as exception:
        raise Damaged(f"{file} is no backup, or not all of one: {exception}.") from exception
    if told is None:
        raise Damaged(f"{file} is not all of a backup: {SUMS} is missing at its end.")
    if told != sums_text(sums):
        raise Damaged(f"{file} is damaged: what it holds does not match its {SUMS}.")


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    if not (folder / FILE).is_file():
        raise Damaged(f"{folder} is no backup of an embedded OpenMeter: {FILE} is missing.")
    with unused_folder(folder):
        for name in (FILE, LOG):
            with contextlib.suppress(FileNotFoundError), (folder / name).open("rb") as content:
                while piece := content.read(CHUNK):
                    yield name, piece


def write_files(pieces: Iterable[tuple[str, bytes]], folder: Path) -> Iterator[int]:
    """Put the pieces into files of the folder; the length of each as it is written. All is on disk at the end."""
    with contextlib.ExitStack() as files:
        opened = {}
        for name, piece in pieces:
            if name not in opened:
                opened[name] = files.enter_context((folder / name).open("xb"))
            yield opened[name].write(piece)
        for file in opened.values():
            file.flush()
            os.fsync(file.fileno())


def check(folder: Path, schema: Iterable[str]) -> int:
    """Read every row of every table, and fold the log, so that one file holds all; how many events there are.

    Raises Damaged, and ConfigurationError for what a newer Metergate made.
    """
    try:
        with connect(folder) as connection:
            tables = [
                row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            ]
            if "about" not in tables or "events" not in tables:
                raise Damaged(
                    f"this is no backup of an embedded OpenMeter: its tables are {', '.join(tables)}."
                )
            for table in tables:
                connection.execute(f'SELECT bit_xor(hash(t)) FROM "{table}" t').fetchall()  # noqa: S608 - a name
            migrate(connection, schema)
            row = connection.execute("SELECT count(*) FROM events").fetchone()
            connection.execute("CHECKPOINT")
    except duckdb.Error as exception:
        raise Damaged(f"the backup is damaged: {' '.join(str(exception).split())}") from exception
    if (folder / LOG).exists():
        raise ConfigurationError(f"{folder / LOG} could not be folded into the database: is the disk full?")
    return int(row[0]) if row else 0
