"""The pieces of a request, each on its own: making an event, keeping it, deciding; and sending what is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from benchmarks.machine import MEASURED, on_core
from benchmarks.report import Figure, Section, middle
from benchmarks.servers import granian, start_beside
from metergate.delivery import Delivery
from metergate.entitlements import Entitlements
from metergate.entitlements.counted import Counted
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.errors import ConfigurationError
from metergate.openmeter import catalog
from metergate.openmeter.values import FeatureValue, SubjectAccess
from metergate.policy.events import EventEncoder, RecordedEvent
from metergate.policy.expressions import Facts
from metergate.policy.model import EntitlementCheck, Meter, Policy
from metergate.policy.options import read_options
from metergate.policy.secret import Secret
from metergate.policy.traffic import Seen
from metergate.streams import Usage
from metergate.testing.processes import HOST, free_port

REQUEST_ID = "0d9b1f4e-5a3c-4a55-9d3e-7f1c2b6a8e90"
FEATURES = ("api-request",)

_NOBODY = f"http://{HOST}:{free_port()}"


def per_call_us(
    work: Callable[[], object], calls: int, rounds: int, clock: Callable[[], float] = time.thread_time
) -> float:
    """Microseconds a call by that clock, the median of the rounds.

    CPU time of the thread unless said otherwise: it leaves out what others do on the core meanwhile.
    """
    times: list[float] = []
    for _ in range(rounds):
        started = clock()
        for _ in range(calls):
            work()
        times.append((clock() - started) / calls * 1e6)
    return middle(times)


def pieces(folder: Path, calls: int, rounds: int) -> Section:
    """What one metered request costs in events, spool and decision."""
    with on_core(MEASURED):
        figures = [
            *_encoding(calls, rounds),
            *_recording(folder, calls, rounds),
            *_deciding(folder, calls, rounds),
        ]
    notes = (
        "CPU time, but for power; one meter with two members of data; the loop around each call is counted in",
        "power: one after the other, each until it is on disk; requests at the same time share one sync",
    )
    return Section("pieces of a request", tuple(figures), notes)


def _policy() -> Policy:
    meter = Meter("api-request", {"count": 1, "service": "bench"})
    return Policy("bench", Secret("key"), meters=(meter,), required_entitlements=FEATURES)


def _token_policy() -> Policy:
    policy, findings = read_options(
        {"apiKey": "key", "meter": {"type": "prompt", "from": "openai"}}, name="bench"
    )
    if policy is None:
        raise ConfigurationError(findings)
    return policy


def _encoding(calls: int, rounds: int) -> list[Figure]:
    encoder = EventEncoder(_policy())
    runtime = (Meter("llm-usage", {"model": "gpt", "prompt_tokens": 100, "completion_tokens": 50}),)
    tokens, seen = EventEncoder(_token_policy()), Seen(Facts(), {("openai", False): Usage("gpt", 100, 50)})
    now = time.time_ns() // 1_000_000
    return [
        Figure(
            "event of a configured meter",
            per_call_us(lambda: encoder.record(REQUEST_ID, "acme", now, None, {}), calls, rounds),
            "µs",
            "2 or less",
        ),
        Figure(
            "and one set at run time",
            per_call_us(lambda: encoder.record(REQUEST_ID, "acme", now, runtime, {}), calls, rounds),
            "µs for two",
        ),
        Figure(
            "input and output of a response",
            per_call_us(lambda: tokens.record(REQUEST_ID, "acme", now, None, {}, seen), calls, rounds),
            "µs for two",
        ),
    ]


def _recording(folder: Path, calls: int, rounds: int) -> list[Figure]:
    made = EventEncoder(_policy()).record(REQUEST_ID, "acme", time.time_ns() // 1_000_000, None, {})
    return [
        Figure("record, memory", _record_us(folder, "memory", made.lines, calls, rounds), "µs/event"),
        Figure("record, process", _record_us(folder, "process", made.lines, calls, rounds), "µs/event"),
        Figure(
            "record, power",
            _record_us(folder, "power", made.lines, max(20, calls // 500), rounds),
            "µs/event",
        ),
    ]


def _record_us(
    folder: Path, durability: Literal["memory", "process", "power"], lines: bytes, calls: int, rounds: int
) -> float:
    """Nobody is there to send to, and the sender is not started: recording alone."""
    directory = None if durability == "memory" else folder / f"spool-{durability}"
    delivery = Delivery(_NOBODY, "key", directory=directory, durability=durability)

    def record() -> None:
        durable = delivery.record(lines, 1)
        if durable is not None:
            durable.result()

    try:
        clock = time.perf_counter if durability == "power" else time.thread_time
        return per_call_us(record, calls, rounds, clock)
    finally:
        delivery.close(0.0)


class _Granting:
    """OpenMeter's answer without OpenMeter."""

    visibility_seconds: float | None = None

    async def access(self, subject: str) -> SubjectAccess:
        return SubjectAccess("found", (FeatureValue(FEATURES[0], True, 1e12, 0.0, 0.0),))

    async def close(self) -> None:
        return

    async def query(self, subjects: Sequence[str], features: Sequence[str]) -> None:
        return

    def count_requests(self, on_request: Callable[[], None]) -> None:
        return

    async def catalog(self) -> catalog.Catalog:
        meter = catalog.Meter("calls", "1", FEATURES[0], "COUNT")
        return catalog.Catalog((catalog.Feature(FEATURES[0], "1", meter.slug),), (meter,))

    async def entitlement(self, subject: str, feature: str) -> None:
        return

    async def rises(self, subject: str, feature: str) -> tuple[float, ...]:
        return ()


def _deciding(folder: Path, calls: int, rounds: int) -> list[Figure]:
    check = EntitlementCheck(ttl_seconds=3600.0)

    async def measure() -> list[Figure]:
        plain = {"acme": True}
        figures = [
            Figure(
                "cached decision, nothing counted",
                await _decision_us(Entitlements(_Granting()), check, calls, rounds),
                "µs",
                "3 or less",
            )
        ]
        for columns in (1, 2, 4):
            with _counting(folder / f"count-{columns}", columns) as counted:
                entitlements = Entitlements(_Granting())
                entitlements.count_by(counted)
                took = await _decision_us(entitlements, check, calls, rounds)
                figures.append(
                    Figure(f"  with the local count of {_processes(columns)}", took, "µs", "3 or less")
                )
                if columns == 1:
                    figures.append(Figure("counting an event", _spend_us(counted, calls, rounds), "µs"))
        looked_up = per_call_us(lambda: plain.get("acme"), calls, rounds)
        return [*figures, Figure("a dict look-up in its place", looked_up, "µs")]

    return asyncio.run(measure())


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


async def _decision_us(entitlements: Entitlements, check: EntitlementCheck, calls: int, rounds: int) -> float:
    """A decision, and giving back what it held."""
    first = await entitlements.ask("acme", FEATURES, check)
    if first.hold is not None:
        first.hold.release()

    def decide() -> None:
        decision = entitlements.decide("acme", FEATURES, check)
        if decision is not None and decision.hold is not None:
            decision.hold.release()

    took = per_call_us(decide, calls, rounds)
    await entitlements.close()
    return took


@contextmanager
def _counting(folder: Path, columns: int) -> Iterator[Counted]:
    """The local count of the first of so many processes."""
    with ExitStack() as stack:
        opened = [Folder(folder, most_places=1024) for _ in range(columns)]
        for one in opened:
            stack.callback(one.close)
        watermark = Watermark(lambda: [(0, 0)])
        local = LocalUsage(Ledger(opened[0], watermark, time.monotonic, visibility=5.0))
        local.watch(FEATURES)
        yield Counted(_Granting(), local)


def _spend_us(counted: Counted, calls: int, rounds: int) -> float:
    event = (RecordedEvent(FEATURES[0], "acme", None),)
    return per_call_us(lambda: counted.local.spend(event), calls, rounds)


def sending(folder: Path, events: int, rounds: int) -> Section:
    """From the spool to a local sink that takes everything: events a second, CPU an event."""
    sink = granian("benchmarks.sink:application", folder)
    start_beside(sink)
    try:
        with on_core(MEASURED):
            runs = [_send(folder / f"sending-{number}", sink.url, events) for number in range(rounds)]
    finally:
        sink.kill()
    figures = (
        Figure("sender, spool to sink", middle([rate for rate, _ in runs]), "events/s", "50,000 or more"),
        Figure("  CPU of the sending process", middle([cpu for _, cpu in runs]), "µs/event", "15 or less"),
    )
    return Section(
        "sending", figures, (f"{events:,} events of 200 bytes, batches of 500, durability process",)
    )


def _send(directory: Path, url: str, events: int) -> tuple[float, float]:
    delivery = Delivery(url, "key", directory=directory, durability="process")
    encoder = EventEncoder(_policy())
    now = time.time_ns() // 1_000_000
    for number in range(events):
        made = encoder.record(f"{REQUEST_ID}-{number}", "acme", now, None, {})
        delivery.record(made.lines, made.count)
    started, cpu = time.perf_counter(), time.process_time()
    delivery.start()
    delivered = delivery.flush(120.0)
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    delivery.close(5.0)
    if not delivered:
        raise RuntimeError(f"the sink did not take {events} events in 120 s: {delivery.statistics()}")
    return events / seconds, used / events * 1e6
