"""A small real API to put behind a gateway in tests: ``python -m metergate.testing.upstream --port 8080``.

| path | answer |
|---|---|
| ``/status/N`` | status N, a short JSON body where the status allows one |
| ``/bytes?n=1000`` | n bytes with ``content-length``, in one piece |
| ``/stream?chunks=5&size=100&delay=0`` | chunks, ``delay`` s apart; ``length=1`` announces the total |
| ``/sse?events=5&delay=0`` | server-sent events like a language model's, a ``usage`` event, ``[DONE]`` |
| ``/slow?seconds=1`` | 200 after that time |
| ``/cut?size=100`` | announces twice ``size`` bytes, sends ``size``, breaks off |
| ``/seen`` | the last 1000 requests since ``DELETE /seen``, newest last, but for those to ``/seen`` |
| anything else | the request as JSON: ``method``, ``path``, ``query``, ``headers`` (pairs), ``body`` |

With ``--journal FILE`` it appends a line for every request to that file: method, path with query, ``zp-rid`` (or
``-``), with tabs between. What one request asked for never changes another's answer, but for ``/seen``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from granian._granian import RSGIHTTPProtocol
from granian.rsgi import Scope
from granian.server import Server

_JSON = [("content-type", "application/json")]
_SEEN_LIMIT = 1000
_JOURNAL = "METERGATE_TESTING_JOURNAL"  # the way from `main` to the worker process


class Upstream:
    """The API as an RSGI application; `application` is the one that serves."""

    def __init__(self, journal: Path | None = None) -> None:
        self._journal = None if journal is None else os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._seen: deque[dict[str, Any]] = deque(maxlen=_SEEN_LIMIT)

    async def __rsgi__(self, scope: Scope, protocol: RSGIHTTPProtocol) -> None:
        query = dict(parse_qsl(scope.query_string))
        first, _, rest = scope.path[1:].partition("/")
        if first == "seen":
            self._answer_seen(scope.method, protocol)
        else:
            await self._answer(first, rest, query, scope, protocol)

    async def _answer(
        self, first: str, rest: str, query: Mapping[str, str], scope: Scope, protocol: RSGIHTTPProtocol
    ) -> None:
        body = await protocol()
        self._seen.append(_described(scope, body))
        if self._journal is not None:
            os.write(self._journal, _journal_line(scope))
        match first:
            case "status":
                _answer_status(int(rest), protocol)
            case "bytes":
                protocol.response_bytes(200, _binary(), b"x" * int(query.get("n", "1000")))
            case "stream":
                await _stream(query, protocol)
            case "sse":
                await _stream_events(query, protocol)
            case "slow":
                await asyncio.sleep(float(query.get("seconds", "1")))
                protocol.response_bytes(200, _JSON, b'{"slow":true}')
            case "cut":
                await _cut(int(query.get("size", "100")), protocol)
            case _:
                protocol.response_bytes(200, _JSON, msgspec.json.encode(self._seen[-1]))

    def _answer_seen(self, method: str, protocol: RSGIHTTPProtocol) -> None:
        answer = msgspec.json.encode(list(self._seen))
        if method == "DELETE":
            self._seen.clear()
        protocol.response_bytes(200, _JSON, answer)


def _described(scope: Scope, body: bytes) -> dict[str, Any]:
    return {
        "method": scope.method,
        "path": scope.path,
        "query": scope.query_string,
        "headers": scope.headers.items(),
        "body": body.decode("utf-8", "replace"),
    }


def _journal_line(scope: Scope) -> bytes:
    query = f"?{scope.query_string}" if scope.query_string else ""
    return f"{scope.method}\t{scope.path}{query}\t{scope.headers.get('zp-rid', '-')}\n".encode()


def _binary(length: int | None = None) -> list[tuple[str, str]]:
    headers = [("content-type", "application/octet-stream")]
    return headers if length is None else [*headers, ("content-length", str(length))]


def _answer_status(status: int, protocol: RSGIHTTPProtocol) -> None:
    if status in {204, 205, 304}:
        protocol.response_empty(status, [])
    else:
        protocol.response_bytes(status, _JSON, b'{"status":%d}' % status)


async def _stream(query: Mapping[str, str], protocol: RSGIHTTPProtocol) -> None:
    chunks, size = int(query.get("chunks", "5")), int(query.get("size", "100"))
    announced = chunks * size if query.get("length") == "1" else None
    await _send_all(protocol, _binary(announced), [b"x" * size] * chunks, float(query.get("delay", "0")))


async def _stream_events(query: Mapping[str, str], protocol: RSGIHTTPProtocol) -> None:
    count = int(query.get("events", "5"))
    payloads = [b'{"choices":[{"delta":{"content":"word %d"}}]}' % number for number in range(count)]
    payloads.append(b'{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":%d}}' % count)
    events = [b"data: " + payload + b"\n\n" for payload in (*payloads, b"[DONE]")]
    headers = [("content-type", "text/event-stream"), ("cache-control", "no-store")]
    await _send_all(protocol, headers, events, float(query.get("delay", "0")))


async def _cut(size: int, protocol: RSGIHTTPProtocol) -> None:
    # The announced length is never reached: the server has to break the connection, as a dying one would.
    await _send_all(protocol, _binary(2 * size), [b"x" * size], 0.0)


async def _send_all(
    protocol: RSGIHTTPProtocol, headers: list[tuple[str, str]], pieces: Sequence[bytes], delay: float
) -> None:
    transport = protocol.response_stream(200, headers)
    for number, piece in enumerate(pieces):
        if number and delay:
            await asyncio.sleep(delay)
        await transport.send_bytes(piece)


application = Upstream(Path(os.environ[_JOURNAL]) if os.environ.get(_JOURNAL) else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="metergate.testing.upstream", description="a small API for tests")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--journal", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.journal is not None:
        os.environ[_JOURNAL] = str(chosen.journal)
    server = Server("metergate.testing.upstream:application", address=chosen.host, port=chosen.port)
    server.serve()


if __name__ == "__main__":
    main()
