"""Sending events: one blocking POST of a batch, for the sender's thread. The only place that knows the ingest URL.

What an answer *means* is not decided here but in ``metergate.delivery.response``; this module turns whatever happened,
a broken connection too, into one plain ``IngestAnswer``.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPException
from typing import Any, Protocol

from pyreqwest.client import SyncClient, SyncClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError, PyreqwestError
from pyreqwest.response import SyncResponse

from metergate.openmeter.problems import is_openmeters, read_problem, read_retry_after

EVENTS_PATH = "/api/v1/events"

BATCH_TYPE = "application/cloudevents-batch+json"
"""Without parameters: OpenMeter compares the raw header and refuses ``; charset=utf-8``."""

CONNECT_SECONDS = 5.0
_TAKEN = frozenset({202, 204})
_LARGEST_ANSWER = 16 * 1024
_LONGEST_DETAIL = 500


@dataclass(frozen=True, slots=True)
class IngestAnswer:
    """What came back for a batch.

    ``status`` is 0 where no answer came at all. ``by_openmeter`` says whether an error answer is in OpenMeter's own form (a
    problem body): only then does a 400 speak about the events and not about the way to OpenMeter. ``detail`` is one line
    for people, without secrets. ``retry_after`` is in seconds.
    """

    status: int
    detail: str = ""
    retry_after: float | None = None
    by_openmeter: bool = False


class IngestClient:
    """POSTs batches to one OpenMeter. Made and used in one thread; keeps its connection open between batches.

    pyreqwest cannot be used in a process that was forked after some client of it was begun (Tokio's threads do not
    survive a fork). There, batches go by the standard library instead: slower, a new connection each, and no less sure.

    Args:
        url: base URL of OpenMeter, without ``/api/v1``.
        api_key: sent as ``Authorization: Bearer``; in no error, log or repr.
        timeout: seconds for a whole request.
        wall_clock: seconds since 1970, for a ``Retry-After`` that is a date.
    """

    def __init__(
        self, url: str, api_key: str, *, timeout: float = 30.0, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._url = url.rstrip("/") + EVENTS_PATH
        self._key = api_key
        self._timeout = timeout
        self._wall_clock = wall_clock
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": BATCH_TYPE,
            "User-Agent": "metergate",
        }
        self._transport = _open_transport(self._url, headers)

    def send(self, body: bytes, timeout: float | None = None) -> IngestAnswer:
        """POSTs ``body``, a JSON array of CloudEvents. Never raises for what the network or the server does."""
        seconds = self._timeout if timeout is None else min(timeout, self._timeout)
        try:
            reply = self._transport.post(body, seconds)
        except (PyreqwestError, OSError, HTTPException, ValueError) as error:
            return IngestAnswer(0, self._for_people(_innermost(error)))
        return self._read(reply)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def _read(self, reply: _Reply) -> IngestAnswer:
        if reply.status in _TAKEN:
            return IngestAnswer(reply.status)
        problem = read_problem(reply.status, reply.content_type, reply.body)
        return IngestAnswer(
            reply.status,
            self._for_people(_detail(problem, reply)),
            read_retry_after(reply.retry_after, self._wall_clock()),
            problem is not None and is_openmeters(problem, reply.status),
        )

    def _for_people(self, text: str) -> str:
        """One line of bounded length. An answer may echo what it was sent, so the key is taken out."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:_LONGEST_DETAIL]

    def __repr__(self) -> str:
        return f"<IngestClient {type(self._transport).__name__.strip('_')}>"


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content_type: str
    retry_after: str | None
    body: bytes


class _Transport(Protocol):
    def post(self, body: bytes, seconds: float) -> _Reply: ...

    def close(self) -> None: ...


_first_process = 0


def _open_transport(url: str, headers: Mapping[str, str]) -> _Transport:
    global _first_process
    # Noted before pyreqwest is called: in a child of a fork amid its first call, it would wait for ever for that
    # call to end, in a thread that only the parent has.
    _first_process = _first_process or os.getpid()
    if _first_process != os.getpid():
        return _StandardLibrary(url, headers)
    try:
        return _Pyreqwest(url, headers)
    except RuntimeError:  # how pyreqwest says that the fork came after somebody else's client had been made
        return _StandardLibrary(url, headers)


class _Pyreqwest:
    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._client: SyncClient = (
            SyncClientBuilder()
            .default_headers(dict(headers))
            .follow_redirects(False)
            .connect_timeout(timedelta(seconds=CONNECT_SECONDS))
            .build()
        )

    def post(self, body: bytes, seconds: float) -> _Reply:
        request = self._client.post(self._url).body_bytes(body).timeout(timedelta(seconds=seconds))
        request = request.streamed_read_buffer_limit(
            0
        )  # the answer is here with its head, whatever its body does
        with request.build_streamed() as response:
            return _Reply(
                response.status,
                _field(response, "content-type") or "",
                _field(response, "retry-after"),
                b"" if response.status in _TAKEN else _body(response.body_reader.read),
            )

    def close(self) -> None:
        self._client.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None lets the redirect be an error answer: a POST that turns into a GET delivers nothing."""


class _StandardLibrary:
    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = dict(headers)
        # Proxies from the environment only: asking macOS for its settings crashes in a forked process.
        proxies = urllib.request.ProxyHandler(urllib.request.getproxies_environment())
        self._opener = urllib.request.build_opener(proxies, _NoRedirect)

    def post(self, body: bytes, seconds: float) -> _Reply:
        request = urllib.request.Request(self._url, body, self._headers, method="POST")  # noqa: S310  # apiUrl is http(s)
        try:
            with self._opener.open(request, timeout=seconds) as response:
                return self._reply(response.status, response)
        except urllib.error.HTTPError as error:
            with error:
                return self._reply(error.code, error)

    @staticmethod
    def _reply(status: int, response: Any) -> _Reply:
        headers = response.headers
        body = b"" if status in _TAKEN else _body(response.read)
        return _Reply(status, headers.get("content-type", ""), headers.get("retry-after"), body)

    def close(self) -> None:
        self._opener.close()


def _body(read: Callable[[int], Any]) -> bytes:
    """What can be read of a body. The status has been said, and holds, whatever becomes of the rest of the answer."""
    try:
        return bytes(read(_LARGEST_ANSWER) or b"")
    except (PyreqwestError, OSError, HTTPException):
        return b""


def _field(response: SyncResponse, name: str) -> str | None:
    try:
        return response.get_header(name)
    except ValueError:  # bytes that are no text
        return None


def _detail(problem: Mapping[str, Any] | None, reply: _Reply) -> str:
    if problem is None:
        return reply.body[: 2 * _LONGEST_DETAIL].decode("utf-8", "replace")
    said = problem.get("detail") or problem.get("title") or ""
    return said if isinstance(said, str) else ""


def _innermost(error: Exception) -> str:
    """The cause at the bottom, because the outer messages hold the URL and say nothing else."""
    if isinstance(error, DetailedPyreqwestError) and error.details.get("causes"):
        causes = error.details["causes"] or []
        return f"{type(error).__name__}: {causes[-1]['message']}"
    reason = getattr(error, "reason", error)
    return f"{type(error).__name__}: {reason}"
