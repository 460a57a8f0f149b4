"""The gateway's own page about its state: ``/__metergate/health``.

Always 200 while it can serve: a gateway whose OpenMeter is away keeps what it records and goes on, and an orchestrator
that took it out of service for that would make an outage of a delay. ``degraded`` is for people and alerts. The figures
are those of all workers. No credential and no URL is in it, hosts only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from metergate.gateway.http import Request, Response
from metergate.gateway.metrics import Metrics
from metergate.gateway.metrics.folder import Figures
from metergate.gateway.metrics.samples import Sample
from metergate.gateway.problems import BUILD_ID

if TYPE_CHECKING:
    from metergate.gateway.context import Context

PAGE_PATH = "/__metergate/health"

LATE_SECONDS = 300.0
"""An event that waits longer than this is worth a look, whatever the cause."""


class DeliveryHealth(msgspec.Struct, frozen=True, rename="camel"):
    """Delivery to one host. ``state`` is the worst that a worker reports; see `DeliveryStatistics`."""

    state: str = "ok"
    pending: int = 0
    oldest_pending_seconds: float = 0.0
    delivered: int = 0
    dead_letters: int = 0
    dropped: dict[str, int] = {}


class EntitlementHealth(msgspec.Struct, frozen=True, rename="camel"):
    """Entitlement reads from one host."""

    state: Literal["ok", "failing"] = "ok"
    snapshots: int = 0


class Health(msgspec.Struct, frozen=True, rename="camel"):
    """The whole page. ``problems`` says in words why it is ``degraded``."""

    status: Literal["ok", "degraded"]
    version: str
    uptime_seconds: int
    workers: int
    delivery: dict[str, DeliveryHealth]
    entitlements: dict[str, EntitlementHealth]
    problems: list[str]


def examine(figures: Figures, uptime: float) -> Health:
    """What the figures of all workers say about the state of the gateway."""
    by_host: dict[str, list[Sample]] = {}
    workers = 0
    for sample in figures.samples:
        if sample.name == "metergate_workers":
            workers = int(sample.value)
        if host := dict(sample.labels).get("destination"):
            by_host.setdefault(host, []).append(sample)
    delivery = {host: found for host, own in by_host.items() if (found := _delivery(own)) is not None}
    entitlements = {host: one for host, own in by_host.items() if (one := _entitlements(own)) is not None}
    wrong = [
        *(text for host, deliveries in delivery.items() for text in _late(host, deliveries)),
        *(f"{host}: entitlements cannot be read" for host, e in entitlements.items() if e.state != "ok"),
    ]
    status: Literal["ok", "degraded"] = "degraded" if wrong else "ok"
    return Health(status, BUILD_ID, int(uptime), workers, delivery, entitlements, wrong)


def _values(samples: list[Sample]) -> dict[str, float]:
    return {sample.name: sample.value for sample in samples}


def _delivery(samples: list[Sample]) -> DeliveryHealth | None:
    values = _values(samples)
    states = [
        dict(one.labels)["state"] for one in samples if one.name == "metergate_delivery_state" and one.value
    ]
    if not states:
        return None
    return DeliveryHealth(
        state=next((state for state in sorted(states) if state != "ok"), "ok"),
        pending=int(values.get("metergate_events_pending", 0)),
        oldest_pending_seconds=round(values.get("metergate_oldest_pending_event_seconds", 0.0), 1),
        delivered=int(values.get("metergate_events_delivered", 0)),
        dead_letters=int(values.get("metergate_dead_letters", 0)),
        dropped={
            dict(one.labels)["reason"]: int(one.value)
            for one in samples
            if one.name == "metergate_events_dropped" and one.value
        },
    )


def _entitlements(samples: list[Sample]) -> EntitlementHealth | None:
    values = _values(samples)
    if "metergate_entitlement_snapshots" not in values:
        return None
    failing = bool(values.get("metergate_entitlement_failing"))
    return EntitlementHealth("failing" if failing else "ok", int(values["metergate_entitlement_snapshots"]))


def _late(host: str, one: DeliveryHealth) -> list[str]:
    """What is wrong with the delivery to one host."""
    found: list[str] = []
    if one.state != "ok":
        found.append(f"{host}: delivery is {one.state}, {one.pending} events wait")
    if one.oldest_pending_seconds > LATE_SECONDS:
        found.append(f"{host}: the oldest event waits for {one.oldest_pending_seconds:.0f} s")
    if one.dead_letters:
        found.append(f"{host}: {one.dead_letters} events are in the dead letters")
    return found


def page(
    metrics: Metrics, *, began: float | None = None, now: Callable[[], float] = time.monotonic
) -> Callable[[Request, Context], Response]:
    """The page that `metrics` feeds, to be served at `PAGE_PATH`.

    ``began`` is when the gateway started, by ``now``, whose clock all its processes share; None: with this call.
    """
    start = now() if began is None else began

    def answer(request: Request, context: Context) -> Response:
        health: Any = examine(metrics.everybody(), now() - start)
        headers = [("content-type", "application/json"), ("cache-control", "no-store")]
        return Response.trusted(200, headers, msgspec.json.encode(health))

    return answer
