"""The folder of the embedded server: one DuckDB file, one writer thread, a few reading threads.

How the other modules use it::

    SCHEMA = ["CREATE TABLE IF NOT EXISTS features (id VARCHAR, ...)"]   # in your module; run at every start

    rows = await database.read("SELECT id FROM features WHERE key = ?", [key])

    def both(cursor: Cursor) -> Feature: ...                             # several reads that must agree
    feature = await database.reading(both)

    def create(cursor: Cursor) -> Feature:                               # reads and writes, all or nothing
        if cursor.execute("SELECT ...", [key]).fetchone(): raise Conflict(...)
        cursor.execute("INSERT INTO features VALUES (?, ?)", [...])
        return feature
    feature = await database.write(create)

*Group commit*: the writer thread takes every function that waits, runs them one after another inside one
transaction and commits once (DuckDB does an ``fdatasync`` of its log at every commit). An awaited ``write``
returns after that, so whatever was answered is on disk, and every later read sees it.

*A disk that is full* (or a log that cannot be written for another reason) makes the commit fail: the write
raises Unavailable, nothing of it is there, reading goes on, and so does writing once there is space. The log
is folded into the file by this module, not by DuckDB in the middle of a commit: only where there is space for
it, since DuckDB refuses everything after a checkpoint that failed. Where that happens nevertheless, the file
is closed and opened again; what was committed is in the log.

*Rules for the function given to* ``write``: it only touches the cursor and what it returns, since it may be
run twice: DuckDB has no save points, so when one of a group raises, the group is rolled back and each is run
again in a transaction of its own; who raises gets his exception, the others do not notice. It never begins or
commits. It is quick: everybody's ingest waits behind it. As there is a single writer, what it reads cannot
change under it.

SQL belongs into ``embedded/store``; times are kept as naive TIMESTAMP in UTC, JSON as VARCHAR.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar, cast

import duckdb

from metergate.embedded.store.folder import FILE, LOG, connect, lock_folder, migrate, refuse_half_restored
from metergate.embedded.store.rows import FlushingCursor, Rows
from metergate.errors import ConfigurationError, MetergateError

log = logging.getLogger("metergate.embedded")

Cursor: TypeAlias = duckdb.DuckDBPyConnection
Row: TypeAlias = tuple[Any, ...]
T = TypeVar("T")

MAX_WAITING = 10_000
READERS = 4
FOLD_BYTES = 16 * 1024 * 1024
"""A log so long is folded into the file; the same is DuckDB's own default."""


class Overloaded(MetergateError):
    """More writes wait than the bound allows; try again a little later. Answered with 503."""


class Unavailable(MetergateError):
    """The folder cannot be written, or not even read, for now. Answered with 503."""


@dataclass(frozen=True, slots=True)
class DatabaseStatistics:
    """Counts since the start. ``refused`` is what the bound on waiting writes cost, ``reopened`` how often
    DuckDB had to be started again.
    """

    waiting: int
    max_waiting: int
    writes: int
    commits: int
    rolled_back: int
    refused: int
    reopened: int


class _Job:
    __slots__ = ("error", "function", "future", "result", "writes")

    def __init__(
        self, function: Callable[[Cursor], Any], future: Future[Any], *, writes: bool = True
    ) -> None:
        self.function = function
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None
        self.writes = writes


class Database:
    """An opened folder. Made by ``Database.open``; ``close`` it, in the end nothing is lost even without."""

    def __init__(self, folder: Path, lock: IO[str], connection: Cursor) -> None:
        self.folder = folder
        self._lock = lock
        self._connection: Cursor | None = connection
        self._cursor = connection.cursor()
        self._rows = Rows(self._cursor)
        self._gate = threading.Condition()
        self._cursors: list[Cursor] = []
        self._reading = 0
        self._writable = True
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="metergate-read")
        self._local = threading.local()
        self._writes = self._commits = self._rolled_back = self._refused = self._reopened = 0
        self._closed = False
        self._holds = 0
        self._writer = threading.Thread(target=self._write_forever, name="metergate-write", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, folder: Path, schema: Iterable[str] = ()) -> Database:
        """Take the folder for this process alone, make it if missing, and bring its tables up to date.

        Raises ConfigurationError when another process holds the folder, when it cannot be written, when a newer
        Metergate made it, and when a restore into it was killed.
        """
        with contextlib.ExitStack() as opened:
            lock = opened.enter_context(lock_folder(folder))
            refuse_half_restored(folder)
            try:
                connection = opened.enter_context(connect(folder))
                migrate(connection, schema)
            except duckdb.Error as exception:
                raise ConfigurationError(
                    f"{folder / FILE} cannot be opened: {_in_one_line(exception)}"
                ) from exception
            opened.pop_all()
        return cls(folder, lock, connection)

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of one query, run on a reading thread. Sees every write that was awaited before."""
        return await self.reading(lambda cursor: cursor.execute(sql, parameters).fetchall())

    async def reading(self, function: Callable[[Cursor], T]) -> T:
        """What ``function`` makes of several queries that see one and the same state, on a reading thread.

        Raises Unavailable.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, function)

    async def write(self, function: Callable[[Cursor], T]) -> T:
        """What ``function`` returned, after its changes are on disk. Raises what it raised, Unavailable, Overloaded."""
        return await asyncio.wrap_future(self.submit(function))

    async def between(self, function: Callable[[], T]) -> T:
        """What ``function`` returned, run on the writer thread after the writes that wait, outside of a transaction."""
        if self._closed:
            raise Overloaded("The server is stopping.")
        future: Future[T] = Future()
        self._jobs.put(_Job(lambda _: function(), future, writes=False))
        return await asyncio.wrap_future(future)

    def submit(self, function: Callable[[Cursor], T]) -> Future[T]:
        """The same for callers without an event loop: the future is done once it is on disk. Raises
        Overloaded.
        """
        if self._closed:
            raise Overloaded("The server is stopping.")
        if self._jobs.qsize() >= MAX_WAITING:
            self._refused += 1
            raise Overloaded(f"{MAX_WAITING} writes wait already.")
        future: Future[T] = Future()
        self._jobs.put(_Job(function, future))
        return future

    def statistics(self) -> DatabaseStatistics:
        """A look at the counters, without a lock."""
        return DatabaseStatistics(
            self._jobs.qsize(),
            MAX_WAITING,
            self._writes,
            self._commits,
            self._rolled_back,
            self._refused,
            self._reopened,
        )

    def close(self) -> None:
        """Write what waits, fold the log into the file, free the folder. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._writer.join()
        self._readers.shutdown()
        if self._connection is not None:
            self._connection.close()
        self._lock.close()

    def append(self, table: str, row: Row) -> None:
        """Put a row into a table, together with others of the group; for use inside ``write``. Later statements see it."""
        self._rows.append(table, row)

    def put(self, table: str, rows: Iterable[Row]) -> None:
        """Put many rows into a table at once; for use inside ``write``."""
        self._rows.put(table, rows)

    async def hold(self) -> dict[str, int]:
        """The files of the database and how many of their first bytes hold all that was acknowledged before.

        Until ``release`` these bytes do not change: what comes later is written behind them.
        """
        return await self.between(self._hold)

    def release(self) -> None:
        """The files may change again."""
        with self._gate:
            self._holds -= 1

    def _hold(self) -> dict[str, int]:
        with self._gate:
            self._holds += 1
        files = [self.folder / name for name in (FILE, LOG)]
        return {file.name: file.stat().st_size for file in files if file.exists()}

    def _read(self, function: Callable[[Cursor], T]) -> T:
        with self._gate:
            if self._connection is None:
                raise Unavailable("The data folder cannot be read.")
            cursor = self._reading_cursor(self._connection)
            self._reading += 1
        try:
            cursor.begin()
            try:
                return function(cursor)
            finally:
                _roll_back(cursor)
        except duckdb.FatalException as exception:
            self._jobs.put(_Job(lambda _: None, Future()))  # the writer will find it broken and open it again
            raise Unavailable("The data folder cannot be read.") from exception
        finally:
            with self._gate:
                self._reading -= 1
                self._gate.notify_all()

    def _reading_cursor(self, connection: Cursor) -> Cursor:
        """This thread's cursor of this connection."""
        known: tuple[Cursor, Cursor] | None = getattr(self._local, "cursor", None)
        if known is not None and known[0] is connection:
            return known[1]
        cursor = connection.cursor()
        self._local.cursor = (connection, cursor)
        self._cursors.append(cursor)
        return cursor

    def _write_forever(self) -> None:
        running = True
        while running:
            group, running = self._next_group()
            if group:
                self._run(group)
            self._fold(FOLD_BYTES if running else 1)
        self._cursor.close()

    def _next_group(self) -> tuple[list[_Job], bool]:
        """All jobs that wait, at least one; False once the end was asked for."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                group.append(job)
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _run(self, group: list[_Job]) -> None:
        writes = [job for job in group if job.writes]
        if writes and not self._transact(writes) and len(writes) > 1:
            for job in writes:
                self._transact([job])
        for job in group:
            if not job.writes:
                self._run_between(job)
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)

    def _run_between(self, job: _Job) -> None:
        try:
            job.result = job.function(self._cursor)
        except Exception as exception:  # noqa: BLE001 - it is handed to whoever awaits it
            job.error = exception

    def _transact(self, group: list[_Job]) -> bool:
        """Run the group in one transaction. False and the error on each of its jobs if one of them raised."""
        error = self._try(group)
        if error is None:
            self._writes += len(group)
            self._commits += 1
        else:
            self._rolled_back += 1
        self._note_writable(error)
        for job in group:
            job.error = error
        return error is None

    def _try(self, group: list[_Job]) -> Exception | None:
        if self._connection is None and not self._reopen():
            return Unavailable("The data folder cannot be opened.")
        committing = False
        try:
            self._cursor.begin()
            self._rows.clear()
            cursor = cast(Cursor, FlushingCursor(self._cursor, self._rows.flush))
            for job in group:
                job.result = job.function(cursor)
            self._rows.flush()
            committing = True
            self._cursor.commit()
        except (duckdb.FatalException, duckdb.InternalException) as exception:
            log.error("DuckDB gave up and is started again: %s", _in_one_line(exception))
            self._reopen()
            return Unavailable(_reason(exception))
        except Exception as exception:  # noqa: BLE001 - it is handed to whoever awaits the write
            _roll_back(self._cursor)
            broken = isinstance(exception, duckdb.IOException)
            broken = broken or (committing and isinstance(exception, duckdb.Error))
            return Unavailable(_reason(exception)) if broken else exception
        return None

    def _note_writable(self, error: Exception | None) -> None:
        """Say once that nothing can be written, and once that it can again."""
        if error is None and not self._writable:
            self._writable = True
            log.info("the data folder can be written again", extra={"folder": str(self.folder)})
        elif isinstance(error, Unavailable) and self._writable:
            self._writable = False
            log.error("nothing can be stored: %s", error, extra={"folder": str(self.folder)})

    def _fold(self, at_least: int) -> None:
        """Fold the log into the file if it has at least so many bytes, there is space for it, and nobody copies it."""
        if self._holds:
            return
        try:
            length = (self.folder / LOG).stat().st_size
            if length < at_least or shutil.disk_usage(self.folder).free < 2 * length:
                return
            self._cursor.execute("CHECKPOINT")
        except duckdb.FatalException as exception:
            log.error("DuckDB gave up and is started again: %s", _in_one_line(exception))
            self._reopen()
        except (duckdb.Error, OSError) as exception:
            log.debug("the log is not folded yet: %s", exception)

    def _reopen(self) -> bool:
        """Start DuckDB again once nobody reads; whether that went well."""
        with self._gate:
            self._gate.wait_for(lambda: not self._reading)
            self._rows = Rows(self._cursor)
            for cursor in (*self._cursors, self._cursor):
                cursor.close()
            self._cursors.clear()
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            try:
                self._connection = connect(self.folder)
                self._cursor = self._connection.cursor()
                self._rows = Rows(self._cursor)
            except duckdb.Error as exception:
                log.error("the data folder cannot be opened: %s", _in_one_line(exception))
                return False
            self._reopened += 1
            return True


def _roll_back(cursor: Cursor) -> None:
    try:
        cursor.rollback()
    except duckdb.Error:
        log.debug("the failed commit had already ended its transaction")


def _in_one_line(exception: Exception) -> str:
    return " ".join(str(exception).split())


def _reason(exception: Exception) -> str:
    """The cause that the system gave, without the folder's path: it is told to clients."""
    return f"The data folder cannot be written: {_in_one_line(exception).rpartition(': ')[2]}."
