"""Metergate around a WSGI application: Flask, Django, any; on any threads.

What may happen to a response here:

1. its body is a list or a tuple, or has a known length: the events are recorded before its last chunk leaves;
2. it is an iterator: they are recorded when that ends, before the server says to the client that it has;
3. the application fails before its head: it is metered with 500, which the server answers;
4. it fails, or the client leaves, while it iterates: it is metered with the status that was sent.

Chunks go on as they come. The middleware stands *behind* what authenticates, or is told by ``user=`` how to find out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextvars import Token
from typing import Any, Final

from metergate.engine import Admission, Engine, Metering
from metergate.engine.requestids import new_request_id
from metergate.middleware import denied
from metergate.middleware.current import current
from metergate.middleware.host import Metergate

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_log = logging.getLogger("metergate.middleware")

KEY: Final = "metergate"
"""Where in the environ a request's `Metering` is."""

_FAILED = 500


class MetergateMiddleware:
    """A WSGI application that meters another one, and lets in whom its entitlements allow.

    ``admits`` False: it meters only what is let in further inside, by `admit`, where it is known who is calling.
    """

    def __init__(self, app: Application, metergate: Metergate, *, admits: bool = True) -> None:
        self._app = app
        self._metergate = metergate
        self._admits = admits

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if KEY in environ or self._metergate.is_excluded(path):
            return self._app(environ, start_response)
        metering = environ[KEY] = Metering(new_request_id())
        self._metergate.start()
        response = _Response(metering, start_response)
        remembered = current.set(metering)
        try:
            if self._admits:
                caller = self._metergate.caller(
                    environ, _found_user(environ), lambda name: read_header(environ, name)
                )
                admit(self._metergate, self._metergate.engine, caller, path, metering, response.add_header)
            body = self._app(environ, response.start)
            return response.with_body(body, environ.get("wsgi.file_wrapper"))
        except denied.Denied as refusal:
            return response.refuse(refusal, path)
        except BaseException:
            response.settle(_FAILED)
            raise
        finally:
            current.reset(remembered)


def admit(
    metergate: Metergate,
    engine: Engine,
    caller: Any,
    route: str,
    metering: Metering,
    add_header: Callable[[str, str], object] | None = None,
) -> None:
    """Let this request in by a policy, and meter it by that; waits where OpenMeter has to be asked.

    Raises:
        denied.Denied: it is not let in.
    """
    admission = engine.admit_at_once(caller, route, metering.holds)
    if admission is None:
        admission = metergate.loop.run(_admit(engine, caller, route, metering))
    if admission.explanation is not None and engine.explain_header is not None and add_header is not None:
        add_header(engine.explain_header, admission.explanation)
    if admission.denial is not None:
        raise denied.Denied(admission.denial)
    metering.arm(engine, admission.subject, route, admission.hold)


async def _admit(engine: Engine, caller: Any, route: str, metering: Metering) -> Admission:
    admission = engine.admit(caller, route, metering.holds)
    return admission if isinstance(admission, Admission) else await admission


def settle(metering: Metering, status: int) -> None:
    """Record the events, once; with ``power`` durability wait until they are on disk. A fault of ours harms no response."""
    try:
        for durable in metering.settle(status):
            durable.result()
    except Exception:  # noqa: BLE001  # said, with all there is to say
        _log.exception("the request could not be metered")


def _found_user(environ: Environ) -> Any:
    """What an authentication has left: as the server's, or a middleware before this one has it."""
    return environ.get("REMOTE_USER") or None


def read_header(environ: Environ, name: bytes) -> str | None:
    """A request header. Servers join one that comes twice with a comma, which no name of a user has in it here."""
    value = environ.get("HTTP_" + name.decode("latin-1").upper().replace("-", "_"))
    return None if value is None or "," in value else str(value)


class _Response:
    """One response on its way: its status, and when its metering is settled."""

    __slots__ = ("_length", "_metering", "_more_headers", "_start", "_status")

    def __init__(self, metering: Metering, start_response: StartResponse) -> None:
        self._metering = metering
        self._start = start_response
        self._status = 0
        self._length = -1
        self._more_headers: list[tuple[str, str]] = []

    def add_header(self, name: str, value: str) -> None:
        """A header field of the response, whatever it is."""
        self._more_headers.append((name, value))

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """As a server's ``start_response``."""
        self._status = int(status[:3])
        length = next((value for name, value in headers if name.lower() == "content-length"), "")
        self._length = int(length) if length.isdecimal() else -1
        return self._start(status, [*headers, *self._more_headers], exc_info)

    def settle(self, status: int) -> None:
        """By the status that was sent, else by this one."""
        settle(self._metering, self._status or status)
        self._metering.release()

    def with_body(self, body: Iterable[bytes], file_wrapper: Any) -> Iterable[bytes]:
        """The body, which settles the request as it ends. What the server sends in its own way stays what it is."""
        is_whole = isinstance(body, list | tuple)
        if self._status and (is_whole or (isinstance(file_wrapper, type) and isinstance(body, file_wrapper))):
            self.settle(self._status)
            return body
        return _Body(body, self, self._metering)

    def refuse(self, refusal: denied.Denied, path: str) -> Iterable[bytes]:
        """The answer to a denial, unless one has begun already."""
        if self._status:
            raise refusal
        denial = refusal.denial
        body = denied.problem(denial, path, self._metering.request_id)
        self.start(f"{denial.status} {denied.title(denial.status)}", denied.headers(denial, len(body)))
        self.settle(denial.status)
        return [body]

    def completes(self, sent: int) -> bool:
        """Whether so many bytes are all that was announced."""
        return 0 <= self._length <= sent


class _Body:
    """An application's body, chunk by chunk."""

    __slots__ = ("_body", "_chunks", "_metering", "_response", "_sent")

    def __init__(self, body: Iterable[bytes], response: _Response, metering: Metering) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._response = response
        self._metering = metering
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        remembered: Token[Metering | None] = current.set(self._metering)
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
        except BaseException:  # also its end
            self._response.settle(_FAILED)
            raise
        finally:
            current.reset(remembered)
        self._sent += len(chunk)
        if self._response.completes(self._sent):
            self._response.settle(_FAILED)
        return chunk

    def close(self) -> None:
        """The server is done with it, or its client has left."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._response.settle(_FAILED)
