"""Where events are read from or put: the folder of a stopped server, or a running one over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from metergate.embedded.api.administration import LAST, UPTO
from metergate.embedded.domain.cloudevents import BATCH, read_events
from metergate.embedded.domain.moments import system_clock
from metergate.embedded.server import TABLES
from metergate.embedded.store.backup import archive, archive_size
from metergate.embedded.store.database import Database
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.transfer import Page, read_page
from metergate.errors import MetergateError

TRIES = 8
FIRST_WAIT_SECONDS = 0.25
_PIECE = 1 << 20
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class StoreError(MetergateError):
    """A server did not do what it was asked for, or is not there."""


class Refused(StoreError):
    """A server says that the events are wrong; sending them again changes nothing."""


class Store(Protocol):
    """Opened; ``close`` it in the end."""

    def page(self, after: int) -> Page:
        """The events behind this number."""
        ...

    def append(self, lines: Sequence[bytes]) -> None:
        """Have all these events (JSON each) on disk, those known already left out, or none of them."""
        ...

    def backup(self) -> tuple[int, Iterator[bytes]]:
        """The size of a tar archive of all, and its pieces."""
        ...

    def close(self) -> None: ...


@contextlib.contextmanager
def open_store(data: Path | None, url: str, token: str | None) -> Iterator[Store]:
    """The folder where one is named, else the server."""
    store: Store = ServerStore(url, token) if data is None else FolderStore(data)
    try:
        yield store
    finally:
        store.close()


class FolderStore:
    """The folder of a server that is not running; nobody else can open it meanwhile."""

    def __init__(self, data: Path) -> None:
        if not data.is_dir():
            raise StoreError(f"{data} is not a folder: name that of an embedded OpenMeter.")
        self._database = Database.open(data, [statement for module in TABLES for statement in module.SCHEMA])
        self._events = EventStore(self._database, system_clock)
        self._runner = asyncio.Runner()
        self._loaded = False

    def page(self, after: int) -> Page:
        return self._runner.run(self._database.reading(lambda cursor: read_page(cursor, after)))

    def append(self, lines: Sequence[bytes]) -> None:
        if not self._loaded:
            self._runner.run(self._events.load_keys())
            self._loaded = True
        events = read_events(_batch(lines), BATCH)
        self._runner.run(self._events.append(events, system_clock()))

    def backup(self) -> tuple[int, Iterator[bytes]]:
        files = self._runner.run(self._database.hold())
        return archive_size(files), archive(self._database.folder, files)

    def close(self) -> None:
        self._runner.close()
        self._database.close()


class ServerStore:
    """A running server, embedded or any other OpenMeter. What fails in passing is tried again."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreError(f"{url} is no URL of a server: write one such as http://127.0.0.1:8888.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        self._connection = kind(parts.hostname, parts.port, timeout=120)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def page(self, after: int) -> Page:
        answer, body = self._ask("GET", f"/api/metergate/events?after={after}")
        return Page(body.splitlines(), int(answer.headers[UPTO]), int(answer.headers[LAST]))

    def append(self, lines: Sequence[bytes]) -> None:
        self._ask("POST", "/api/v1/events", _batch(lines), {"Content-Type": BATCH})

    def backup(self) -> tuple[int, Iterator[bytes]]:
        with self._reached():
            answer = self._send("GET", "/api/metergate/backup", None, {})
            if answer.status != 200:
                raise self._error(answer.status, answer.read())
        return int(answer.headers["Content-Length"]), self._pieces(answer)

    def close(self) -> None:
        self._connection.close()

    def _pieces(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        with self._reached():
            while piece := answer.read(_PIECE):
                yield piece

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as exception:
            self._connection.close()
            raise StoreError(f"{self._url} does not answer: {exception}") from exception

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        for attempt in range(TRIES):
            try:
                with self._reached():
                    answer = self._send(method, path, body, headers or {})
                    content = answer.read()
            except StoreError as exception:
                error = exception
            else:
                if answer.status < 300:
                    return answer, content
                error = self._error(answer.status, content)
                if answer.status not in _AGAIN:
                    raise error
            if attempt == TRIES - 1:
                raise error
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        self._connection.request(method, self._path + path, body, {**self._headers, **headers})
        return self._connection.getresponse()

    def _error(self, status: int, body: bytes) -> StoreError:
        said = " ".join(body.decode("utf-8", "replace").split())[:300]
        kind = Refused if status in (400, 413, 422) else StoreError
        return kind(f"{self._url} answered {status}: {said}")


def _batch(lines: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(lines) + b"]"
