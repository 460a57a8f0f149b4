"""One database for all tests of a process, emptied after each: to open one takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.embedded.conftest import MovableClock, OpenMeter

from metergate.embedded.config import Configuration
from metergate.embedded.server import TABLES, _assemble
from metergate.embedded.store.database import Database


class Kept:
    """The opened database; another one after a test that has closed it."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._database: Database | None = None

    def take(self) -> Database:
        """It, open and empty."""
        if self._database is None or self._database._closed:
            schema = [statement for module in TABLES for statement in module.SCHEMA]
            self._database = Database.open(self._folders.mktemp("kept") / "data", schema)
            self._database.close = lambda: None  # an application that ends does not close it
        return self._database

    def empty(self) -> None:
        if self._database is not None:
            self._database.submit(_empty).result(10)

    def close(self) -> None:
        if self._database is not None:
            del self._database.close
            self._database.close()
            self._database = None


def _empty(cursor: Any) -> None:
    for (table,) in cursor.execute("SELECT table_name FROM duckdb_tables()").fetchall():
        if table != "about":
            cursor.execute(f'DELETE FROM "{table}"')  # noqa: S608 - a name of our own


class Lasting(OpenMeter):
    """Over the kept database, until it is stopped: then that is closed, and what is started is opened anew."""

    kept: Kept

    def begin(self, kept: Kept) -> None:
        self.kept = kept
        self.app = _assemble(kept.take(), Configuration(), None, self.clock, None, 0.0)
        self.runner.run(self.app.startup())

    def stop(self) -> None:
        super().stop()
        self.kept.close()

    def end(self) -> None:
        """Leave the database open and empty, unless the test has closed it."""
        super().stop()
        self.kept.empty()


@pytest.fixture(scope="session")
def kept_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    made = Kept(tmp_path_factory)
    yield made
    made.close()


@pytest.fixture
def openmeter(kept_database: Kept, clock: MovableClock) -> Iterator[OpenMeter]:
    server = Lasting(kept_database.take().folder, clock)
    with server.runner:
        server.begin(kept_database)
        yield server
        server.end()
