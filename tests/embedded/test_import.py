"""Imported events count at once where the server runs, and from its next start on where they came into its folder."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from metergate.cli.application import application
from metergate.testing.processes import Server, openmeter_server

CONFIG = {
    "meters": [{"slug": "calls", "aggregation": "COUNT", "eventType": "call"}],
    "features": [{"key": "calls", "name": "Calls", "meterSlug": "calls"}],
    "customers": [{"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["s1"]}}],
    "entitlements": [
        {
            "customer": "acme",
            "featureKey": "calls",
            "type": "metered",
            "usagePeriod": {"interval": "MONTH"},
            "measureUsageFrom": "CURRENT_PERIOD_START",
            "issueAfterReset": 10,
        }
    ],
}
PATIENCE = 30.0


def call(server: Server, method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(  # noqa: S310 - of the server of this test
        server.url + path,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.load(answer)


def write_events(file: Path, first: int, count: int) -> Path:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = {"specversion": "1.0", "source": "tests", "type": "call", "subject": "s1", "time": now}
    lines = (json.dumps(event | {"id": str(number)}) for number in range(first, first + count))
    file.write_text("\n".join(lines), "utf-8")
    return file


def take_in(file: Path, *where: object) -> None:
    result = CliRunner().invoke(application, ["openmeter", "import", str(file), *map(str, where)])
    assert result.exit_code == 0, result.output


def told(server: Server, count: int) -> list[float]:
    """The thresholds that were told of, once they are so many."""
    end = time.monotonic() + PATIENCE
    while True:
        events = call(server, "GET", "/api/v1/notification/events?order=ASC")["items"]
        if len(events) >= count:
            return [event["payload"]["data"]["threshold"]["value"] for event in events]
        assert time.monotonic() < end, f"only {len(events)} of {count} were told"
        threading.Event().wait(0.02)


def make_rule(server: Server, *values: float) -> None:
    hook = {"type": "WEBHOOK", "name": "Hook", "url": "http://127.0.0.1:9/"}
    channel = call(server, "POST", "/api/v1/notification/channels", hook)
    rule = {
        "type": "entitlements.balance.threshold",
        "name": "Rule",
        "channels": [channel["id"]],
        "thresholds": [{"type": "usage_value", "value": value} for value in values],
    }
    call(server, "POST", "/api/v1/notification/rules", rule)


def test_thresholds_are_told_of_events_that_are_seen_late(tmp_path):
    with openmeter_server(tmp_path / "data", CONFIG, visibility_delay=0.5) as server:
        make_rule(server, 5)
        take_in(write_events(tmp_path / "events.jsonl", 0, 6), "--url", server.url)
        assert told(server, 1) == [5]


def test_thresholds_are_told_of_imported_events_into_a_running_server_and_into_a_stopped_ones_folder(
    tmp_path,
):
    data = tmp_path / "data"
    with openmeter_server(data, CONFIG) as server:
        make_rule(server, 5, 9)
        take_in(write_events(tmp_path / "first.jsonl", 0, 6), "--url", server.url)
        assert told(server, 1) == [5]
        server.stop()
        take_in(write_events(tmp_path / "second.jsonl", 6, 4), "--data", data)
        server.start()
        assert sorted(told(server, 2)) == [5, 9]
        value = call(server, "GET", "/api/v2/customers/acme/entitlements/calls/value")
        assert (value["usage"], value["hasAccess"]) == (10, False)
