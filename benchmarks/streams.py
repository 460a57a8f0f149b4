"""Time to the first byte of a stream, straight and through proxies, and whether its events arrive apart; and what it costs
to look along at a body that passes."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.machine import MEASURED, OTHERS, on_core
from benchmarks.report import Figure, Section, middle
from benchmarks.servers import granian, start_beside, start_measured
from metergate.streams import Members, Tokens, Watch
from metergate.testing.load import encode_request
from metergate.testing.processes import HOST, Server, gateway_server, upstream_server
from metergate.testing.projects import (
    api_key_policy,
    create_key,
    forward,
    openmeter_policy,
    route,
    write_project,
)

GAP = 0.01
EVENTS = 5
PATH = f"/sse?events={EVENTS}&delay={GAP}"
SSE, JSON = "text/event-stream", "application/json"


@dataclass(slots=True)
class _Way:
    """One way to the stream. Times in milliseconds."""

    name: str
    server: Server
    headers: Mapping[str, str] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Ask once; note when the first byte of the body came, and how long after it the last."""
        headers = {"Connection": "close", **self.headers}
        started = time.perf_counter()
        with socket.create_connection((HOST, self.server.port), timeout=10) as connection:
            connection.sendall(encode_request(self.server.url + PATH, headers=headers))
            first = last = 0.0
            received = b""
            while data := connection.recv(65_536):
                last = time.perf_counter()
                received += data
                if not first and b"data:" in received:
                    first = last
        if b"[DONE]" not in received:
            raise RuntimeError(f"{self.name} did not stream to the end: {received[:300]!r}")
        self.first.append((first - started) * 1e3)
        self.spread.append((last - first) * 1e3)


def first_bytes(folder: Path, looks: int) -> Section:
    """Medians over ``looks`` streams for each way, one after the other in turn."""
    with ExitStack() as stack:
        behind = upstream_server(folder / "upstream.log")
        stack.callback(behind.kill)
        start_beside(behind)
        sink = granian("benchmarks.sink:application", folder)
        stack.callback(sink.kill)
        start_beside(sink)
        bare = granian("benchmarks.bare:rsgi", folder, env={"BENCH_UPSTREAM": behind.url})
        gateway, key = _metered_gateway(folder / "stream", behind, sink)
        for server in (bare, gateway):
            stack.callback(server.kill)
            start_measured(server)
        ways = [
            _Way("straight from the upstream", behind),
            _Way("through bare Granian + pyreqwest", bare),
            _Way("through the metering gateway", gateway, {"Authorization": f"Bearer {key}"}),
        ]
        with on_core(OTHERS):
            for _ in range(looks):
                for way in ways:
                    way.look()
    figures: list[Figure] = []
    for way in ways:
        figures.append(Figure(way.name, middle(way.first), "ms to the first event"))
        figures.append(Figure("  from first to last event", middle(way.spread), "ms"))
    figures.append(
        Figure("gateway - bare", middle(ways[2].first) - middle(ways[1].first), "ms", "none to measure")
    )
    note = f"new connection each; {EVENTS + 2} events {GAP * 1e3:g} ms apart; medians of {looks}"
    return Section("streams, time to first byte", tuple(figures), (note,))


def _metered_gateway(project: Path, behind: Server, openmeter: Server) -> tuple[Server, str]:
    metered = openmeter_policy(apiUrl=openmeter.url, meter={"type": "api-request"})
    routes = {"/(.*)": {"get": route(forward(behind.url), inbound=["keys", "metered"])}}
    write_project(project, routes, [api_key_policy(), metered])
    return gateway_server(project), create_key(project, "acme")


@dataclass(frozen=True, slots=True)
class _Look:
    """One way to look at a body. ``size`` in bytes, as it is read; without a ``watch`` its chunks only pass."""

    name: str
    chunks: Sequence[bytes]
    size: int
    watch: Callable[[], Watch] | None

    def pass_on(self) -> None:
        watch = self.watch() if self.watch is not None else None
        for chunk in self.chunks:
            if watch is not None:
                watch.feed(chunk)
        if watch is not None:
            reading = watch.finish()
            if reading.not_read or not (reading.usage or reading.members):
                raise RuntimeError(f"{self.name}: the body was not read: {reading}")

    def figures(self, rounds: int) -> tuple[Figure, Figure]:
        took = _seconds(self.pass_on, rounds)
        return (
            Figure(self.name, took * 1e6 / len(self.chunks), "µs/chunk"),
            Figure("", took * 1e9 / self.size, "ms/MB"),
        )


def looking_along(rounds: int) -> Section:
    """CPU of reading tokens and members from bodies that pass, beside a loop that only passes their chunks."""
    events = _chat_events(2_000)
    stream, document = b"".join(events), _chat_document(200_000)
    array, size = b"[" + b",".join([document] * 20) + b"]", len(stream)
    total = Members([("usage", "total_tokens")])
    looks = (
        _Look("passing alone, an event a chunk", events, size, None),
        _Look("tokens, an event a chunk", events, size, partial(_watch, SSE)),
        _Look("  with an estimate too", events, size, partial(_watch, SSE, estimate=True)),
        _Look("a member, an event a chunk", events, size, partial(Watch, SSE, members=total)),
        _Look("tokens, 64 KiB a chunk", _cut(stream), size, partial(_watch, SSE)),
        _Look("tokens, gzip", _cut(gzip.compress(stream)), size, partial(_watch, SSE, "gzip")),
        _Look("tokens, a JSON document", _cut(document), len(document), partial(_watch, JSON)),
        _Look("tokens, an array of such", _cut(array), len(array), partial(_watch, JSON)),
    )
    with on_core(MEASURED):
        figures = [figure for look in looks for figure in look.figures(rounds)]
    note = "CPU time, medians; events of a chat completion, 230 bytes each; a document of 200 KB, mostly text; MB as read"
    return Section("looking along at bodies", tuple(figures), (note,))


def _watch(kind: str, encoding: str = "", *, estimate: bool = False) -> Watch:
    return Watch(kind, encoding, tokens=Tokens("openai", estimate=estimate))


def _cut(body: bytes) -> list[bytes]:
    return [body[at : at + 65_536] for at in range(0, len(body), 65_536)]


def _seconds(work: Callable[[], object], rounds: int) -> float:
    times: list[float] = []
    for _ in range(4 * rounds):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return middle(times)


def _chat_events(count: int) -> list[bytes]:
    """A stream of a chat completion, an event each, as a server flushes them."""
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "gpt-large",
    }
    choice = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
    usage = {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": count + 9}
    pieces = [{**head, "choices": [choice], "usage": None, "obfuscation": "x" * 9}] * count
    last = [{**head, "choices": [], "usage": usage}]
    return [b"data: " + msgspec.json.encode(piece) + b"\n\n" for piece in pieces + last] + [
        b"data: [DONE]\n\n"
    ]


def _chat_document(size: int) -> bytes:
    text = 'A line that says "something".\n' * (size // 31)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 50_000, "total_tokens": 50_009}
    return msgspec.json.encode({"model": "gpt-large", "choices": [choice], "usage": usage})
