"""Questions to an OpenMeter about what it holds, and the project that a test writes for a gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from metergate.testing.events import count_by, events_with, meter_total
from metergate.testing.load import encode_request, replay
from metergate.testing.processes import Server, ServerFailed, openmeter_server
from metergate.testing.projects import create_key, forward, openmeter_policy, route, write_project

METER = {"slug": "calls", "eventType": "call", "aggregation": "COUNT", "groupBy": {"request": "$.request"}}


def _send(server: Server, *requests: str) -> None:
    events = [
        {
            "specversion": "1.0",
            "id": f"{number}-{request}-call",
            "source": "test",
            "type": "call",
            "subject": "acme",
            "data": {"request": request},
        }
        for number, request in enumerate(requests)
    ]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    sent = encode_request(f"{server.url}/api/v1/events", "POST", headers, msgspec.json.encode(events))
    assert asyncio.run(replay(server.url, [sent], connections=1)).statuses == {204: 1}


def test_what_is_counted_by_a_dimension_is_what_was_sent(tmp_path: Path) -> None:
    with openmeter_server(tmp_path / "data", {"meters": [METER]}) as server:
        assert (meter_total(server.url, "calls"), count_by(server.url, "calls", "request")) == (
            0.0,
            Counter(),
        )
        _send(server, "a", "b", "b")
        assert count_by(server.url, "calls", "request") == Counter(a=1, b=2)
        assert meter_total(server.url, "calls") == 3.0
        assert sorted(event["id"] for event in events_with(server.url, "-b-")) == ["1-b-call", "2-b-call"]
        with pytest.raises(ValueError, match="answered 404"):
            meter_total(server.url, "nothing")


def test_a_written_project_passes_the_check_of_an_operator_and_takes_keys(tmp_path: Path) -> None:
    handler = forward("http://127.0.0.1:1")
    routes = {"/(.*)": {"get": route(handler, inbound=["metered"])}}
    project = write_project(tmp_path / "project", routes, [openmeter_policy(meter={"type": "call"})])
    first, second = create_key(project, "acme", {"plan": "gold"}), create_key(project, "acme")
    assert first != second
    assert len(first) > 20


def test_a_key_for_a_folder_that_is_no_project_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"(?s)keys create acme .* ended with 2.*config"):
        create_key(tmp_path, "acme")
