"""A small OpenMeter for tests: customers and their entitlements from a table, and faults on demand.

A real HTTP server on a real port, in a thread, on the standard library alone. It answers the reads that an
entitlement check makes as OpenMeter does, and counts them::

    with EntitledServer() as server:
        server.customer("acme", subjects=["acme-eu"], features={"api": metered(100), "sso": granted()})
        ...  # apiUrl is server.url
        server.fail(503)            # every request from here on
        server.recover()
        assert server.count == 1    # requests so far

What OpenMeter does and is done here too: path parameters are an id or a key, ids are ULIDs, the list's
filters are partial matches without case, a deleted customer is 412 by id and 404 by key, a customer without
an entitlement gives ``{"hasAccess": false}`` on the customer's value endpoint and 404 on the subject's,
errors are problems. ``has_customers=False`` makes it a server from before customers.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

Value = dict[str, Any]
_Answer = tuple[int, Any]
_Fault = Literal["status", "hang", "cut", "garbage"]


def metered(balance: float, usage: float = 0, overage: float = 0, *, soft: bool = False) -> Value:
    """A metered entitlement; with ``soft`` it grants beyond its balance."""
    return {
        "hasAccess": soft or balance > 0,
        "balance": balance,
        "usage": usage,
        "overage": overage,
        "totalAvailableGrantAmount": balance + usage,
    }


def granted() -> Value:
    """A boolean entitlement."""
    return {"hasAccess": True}


def denied() -> Value:
    """An entitlement that denies, and has no balance."""
    return {"hasAccess": False}


@dataclass(slots=True)
class Customer:
    """A customer of the table. Change it at any time; the next request sees it."""

    id: str
    key: str | None
    subjects: list[str]
    features: dict[str, Value]
    deleted: bool = False


@dataclass(slots=True)
class _Script:
    """What goes wrong now, and for how many requests more (None: until ``recover``)."""

    fault: _Fault
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    left: int | None = None


class EntitledServer:
    """The server. Start it with ``with``, or with ``start`` and ``stop``. ``url`` is its ``apiUrl``."""

    def __init__(self, *, api_key: str | None = None, has_customers: bool = True) -> None:
        """
        Args:
            api_key: requests with another one, or none, get 401; None takes all.
            has_customers: whether it knows ``/api/v1/customers``.
        """
        self.customers: list[Customer] = []
        self.paths: list[str] = []
        self._api_key = api_key
        self._has_customers = has_customers
        self._numbers = itertools.count(1)
        self._subject_ids: dict[str, str] = {}
        self._script: _Script | None = None
        self._changed = threading.Condition()
        self._recovered = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def count(self) -> int:
        """Requests so far, those that failed included. ``paths`` says which, in order."""
        return len(self.paths)

    def start(self) -> None:
        """Answer from now on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and cut what is still open."""
        self._recovered.set()
        self._server.shutdown()
        self._cut_all()
        self._server.server_close()
        self._thread.join()

    # --- the table

    def customer(
        self,
        key: str | None = None,
        *,
        subjects: Sequence[str] = (),
        features: Mapping[str, Value] | None = None,
        identity: str | None = None,
    ) -> Customer:
        """Add a customer. ``identity`` is its ULID, made up if not given."""
        customer = Customer(identity or self._ulid(), key, list(subjects), dict(features or {}))
        self.customers.append(customer)
        return customer

    def subject_id(self, subject: str) -> str:
        """The ULID of a subject, which its endpoint takes in place of its key."""
        return self._subject_ids.setdefault(subject, self._ulid())

    def _ulid(self) -> str:
        return f"01HZZZZZZZZZZZZZZZZZ{next(self._numbers):06d}"

    # --- faults

    def fail(
        self,
        status: int,
        *,
        retry_after: str | None = None,
        times: int | None = None,
        body: bytes | None = None,
    ) -> None:
        """Answer with this status. ``body`` None is OpenMeter's problem for it."""
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        problem = json.dumps(_problem(status)).encode() if body is None else body
        self._set(_Script("status", status, headers, problem, times))

    def garbage(self, body: bytes = b"<html>hello</html>", *, times: int | None = None) -> None:
        """Answer 200 with a body that is not OpenMeter's."""
        self._set(_Script("garbage", 200, {}, body, times))

    def hang(self, *, times: int | None = None) -> None:
        """Take requests and give no answer before ``recover`` or ``stop``; then the right one."""
        self._recovered.clear()
        self._set(_Script("hang", left=times))

    def cut(self, *, times: int | None = None) -> None:
        """Close the connection instead of answering."""
        self._set(_Script("cut", left=times))

    def recover(self) -> None:
        """Answer from the table again, the hanging requests too."""
        self._set(None)
        self._recovered.set()

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Wait until this many requests have come in.

        Raises:
            TimeoutError: they have not, after ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.count >= count, timeout):
                raise TimeoutError(f"{self.count} requests came in, not {count}")

    def _set(self, script: _Script | None) -> None:
        with self._changed:
            self._script = script

    # --- what the handler asks for

    def begin(self, path: str) -> _Script | None:
        """Count a request, and say what goes wrong with it."""
        with self._changed:
            self.paths.append(path)
            self._changed.notify_all()
            script = self._script
            if script is None or script.left is None:
                return script
            script.left -= 1
            if script.left <= 0:
                self._script = None
            return script

    def wait_until_recovered(self) -> None:
        """Hold a request back."""
        self._recovered.wait()

    def opened(self, connection: socket.socket) -> None:
        """A client has connected."""
        with self._changed:
            self._sockets.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """A client is gone."""
        with self._changed:
            self._sockets.discard(connection)

    def answer(self, target: str, authorization: str | None) -> _Answer:
        """Status and document for the target of a GET."""
        if self._api_key is not None and authorization != f"Bearer {self._api_key}":
            return _error(401)
        url = urlsplit(target)
        match [unquote(segment) for segment in url.path.split("/")[1:]]:
            case ["api", "v1", "customers", *rest] if self._has_customers:
                return self._of_customers(rest, parse_qs(url.query, keep_blank_values=True))
            case ["api", "v1", "subjects", subject, *rest]:
                return self._of_subject(subject, rest)
        return _error(404)

    def _of_customers(self, rest: list[str], query: dict[str, list[str]]) -> _Answer:
        if not rest:
            return 200, self._list(query)
        customer = next(self._by_id_or_key(rest[0]), None)
        if customer is None:
            return _error(404)
        if customer.deleted:
            return _error(412)
        match rest[1:]:
            case ["access"]:
                return 200, {"entitlements": customer.features}
            case ["entitlements", feature, "value"]:
                return 200, customer.features.get(feature, {"hasAccess": False})
        return _error(404)

    def _of_subject(self, subject: str, rest: list[str]) -> _Answer:
        subject = next((key for key, ulid in self._subject_ids.items() if ulid == subject), subject)
        owner = next(self._by_subject(subject), None)
        if owner is None:
            return _error(404)
        match rest:
            case []:
                return 200, {"id": self.subject_id(subject), "key": subject}
            case ["entitlements"]:
                return 200, [{"featureKey": feature, "subjectKey": subject} for feature in owner.features]
            case ["entitlements", feature, "value"] if feature in owner.features:
                return 200, owner.features[feature]
        return _error(404)

    def _by_id_or_key(self, name: str) -> Iterator[Customer]:
        for customer in self.customers:
            if customer.id == name or (customer.key == name and not customer.deleted):
                yield customer

    def _by_subject(self, name: str) -> Iterator[Customer]:
        for customer in self.customers:
            if not customer.deleted and (customer.key == name or name in customer.subjects):
                yield customer

    def _list(self, query: dict[str, list[str]]) -> dict[str, Any]:
        found = [customer for customer in self.customers if not customer.deleted]
        for name, values in query.items():
            names = _NAMES.get(name)
            if names is not None:
                part = values[0].lower()
                found = [each for each in found if any(part in other.lower() for other in names(each))]
        size, page = int(query.get("pageSize", ["100"])[0]), int(query.get("page", ["1"])[0])
        items = [_document(customer) for customer in found[(page - 1) * size : page * size]]
        return {"totalCount": len(found), "page": page, "pageSize": size, "items": items}

    def _cut_all(self) -> None:
        with self._changed:
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


_NAMES: dict[str, Callable[[Customer], list[str]]] = {
    "key": lambda customer: [customer.key or ""],
    "subject": lambda customer: customer.subjects,
}


class _Server(ThreadingHTTPServer):
    """The listening socket. Threads of connections end with it, since their sockets are cut."""

    daemon_threads = False
    request_queue_size = 1024

    def __init__(self, entitled: EntitledServer) -> None:
        self.entitled = entitled
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = (
        -1
    )  # head and body in one packet: in two they would wait for the client's delayed acknowledgement
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.entitled.opened(self.connection)

    def finish(self) -> None:
        self.server.entitled.closed(self.connection)
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        entitled = self.server.entitled
        script = entitled.begin(self.path)
        if script is not None and script.fault == "cut":
            self.close_connection = True
            return
        if script is not None and script.fault != "hang":
            media_type = "application/json" if script.fault == "garbage" else "application/problem+json"
            self._send(script.status, script.body, media_type, script.headers)
            return
        if script is not None:
            entitled.wait_until_recovered()
        status, document = entitled.answer(self.path, self.headers.get("authorization"))
        media_type = "application/json" if status == HTTPStatus.OK else "application/problem+json"
        self._send(status, json.dumps(document).encode(), media_type, {})

    def _send(self, status: int, body: bytes, media_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing: tests read ``paths``."""


def _error(status: int) -> _Answer:
    return status, _problem(status)


def _problem(status: int) -> dict[str, Any]:
    titles = {each.value: each.phrase for each in HTTPStatus}
    return {
        "type": "about:blank",
        "title": titles.get(status, "Error"),
        "status": status,
        "detail": "by the test server",
    }


def _document(customer: Customer) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": customer.id,
        "name": customer.key or customer.id,
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    if customer.key is not None:
        document["key"] = customer.key
    if customer.subjects:
        document["usageAttribution"] = {"subjectKeys": list(customer.subjects)}
    return document
