"""What producers of usage remember of an OpenMeter that they sent to."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from metergate.testing.events import every_event, meter_total
from metergate.testing.processes import openmeter_server
from metergate.testing.producers import Producers, Shipments, Usage

USAGE = Usage("source", "1", "call", "acme", 3, None)
METER = {"slug": "units", "eventType": "call", "aggregation": "SUM", "valueProperty": "$.units"}


def test_an_event_sent_twice_and_acknowledged_twice_counts_once_as_it_was_sent_first() -> None:
    shipments = Shipments()
    other = replace(USAGE, source="other")
    for usages in ([USAGE, other], [replace(USAGE, units=9), USAGE]):
        shipments.send(usages)
        shipments.acknowledge(usages[:1])
    assert shipments.sent == {("source", "1"): USAGE, ("other", "1"): other}
    assert shipments.acknowledged == {("source", "1")}
    assert shipments.sent_units == Counter({("call", "acme"): 6})
    assert shipments.acknowledged_units == Counter({("call", "acme"): 3})
    assert (shipments.requests, shipments.repeats) == (2, 2)


def test_what_producers_remember_is_what_an_openmeter_holds(tmp_path: Path) -> None:
    async def produce(url: str) -> Shipments:
        over = asyncio.Event()
        producers = Producers(url, types=["call"], subjects=["acme"], pause=0.0, seed=1)
        asyncio.get_running_loop().call_later(0.5, over.set)
        return await producers.run(over)

    with openmeter_server(tmp_path / "data", {"meters": [METER]}) as server:
        shipments = asyncio.run(produce(server.url))
        listed = [(event["source"], event["id"]) for event in every_event(server.url, "2000-01-01T00:00:00Z")]
        assert meter_total(server.url, "units") == shipments.sent_units["call", "acme"]
    assert sorted(listed) == sorted(shipments.acknowledged) == sorted(shipments.sent)
    assert not shipments.failures
    assert shipments.statuses.keys() <= {202, 204}
