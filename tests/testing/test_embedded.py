"""The embedded OpenMeter for users' tests: real HTTP, a clock of its own, nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from metergate.errors import ConfigurationError
from metergate.testing import VirtualClock, embedded_openmeter
from metergate.testing.embedded import Refused

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CONFIG = {
    "meters": [{"slug": "calls", "aggregation": "COUNT", "eventType": "call"}],
    "features": [{"key": "calls", "name": "Calls", "meterSlug": "calls"}],
    "customers": [{"key": "acme", "name": "Acme"}],
    "entitlements": [
        {
            "customer": "acme",
            "featureKey": "calls",
            "type": "metered",
            "usagePeriod": {"interval": "MONTH"},
            "issueAfterReset": 2,
        }
    ],
}
VALUE = "/api/v2/customers/acme/entitlements/calls/value"
DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"


def balance(openmeter):
    return openmeter.call("GET", VALUE)["balance"]


def test_it_is_a_real_openmeter_over_http_whose_month_passes_when_the_test_says_so():
    with embedded_openmeter(start=START, config=CONFIG) as openmeter:
        openmeter.ingest({"type": "call", "subject": "acme"}, {"type": "call", "subject": "acme"})
        assert balance(openmeter) == 0
        assert openmeter.clock.move(days=31) == datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
        assert balance(openmeter) == 2
        with urllib.request.urlopen(f"{openmeter.url}/api/v1/events?limit=1") as answer:  # noqa: S310
            assert answer.headers["X-Powered-By"] == "OpenMeter by Kong, Inc."


def test_what_was_acknowledged_survives_a_restart_and_nothing_is_left_behind():
    with embedded_openmeter(start=START, config=CONFIG) as openmeter:
        openmeter.ingest({"type": "call", "subject": "acme", "id": "1", "source": "s"})
        openmeter.restart()
        openmeter.ingest({"type": "call", "subject": "acme", "id": "1", "source": "s"})
        assert balance(openmeter) == 1
        assert openmeter.folder.exists()
    assert not openmeter.folder.exists()
    with pytest.raises(ConnectionRefusedError):
        openmeter.call("GET", "/api/v1/meters")


def test_a_folder_that_was_named_stays(tmp_path):
    for expected in (1, 0):
        with embedded_openmeter(start=START, config=CONFIG, folder=tmp_path / "data") as openmeter:
            openmeter.ingest({"type": "call", "subject": "acme"})
            assert balance(openmeter) == expected


def test_a_refused_call_says_why():
    with embedded_openmeter() as openmeter, pytest.raises(Refused, match="meter not found: calls") as refused:
        openmeter.call("GET", "/api/v1/meters/calls/query", windowSize="DAY", groupBy=["subject"])
    assert refused.value.status == 404
    assert refused.value.problem["title"] == "Not Found"


def test_with_a_token_it_is_asked_for():
    with embedded_openmeter(token="secret") as openmeter:
        assert openmeter.call("GET", "/api/v1/meters") == []
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{openmeter.url}/api/v1/meters")  # noqa: S310


def test_what_is_wrong_with_the_configuration_is_said_before_anything_starts():
    with (
        pytest.raises(ConfigurationError, match=re.escape("$.meters[0]")),
        embedded_openmeter(config={"meters": [{"slug": "calls"}]}),
    ):
        pass


def test_what_keeps_it_from_starting_is_raised(tmp_path):
    with (
        embedded_openmeter(folder=tmp_path / "data"),
        pytest.raises(ConfigurationError, match="is in use by process"),
        embedded_openmeter(folder=tmp_path / "data"),
    ):
        pass


def test_a_clock_with_a_start_stands_still_and_one_without_goes_with_the_machines():
    still = VirtualClock(START.astimezone(timezone(timedelta(hours=5))))
    assert still() == still.now == START
    assert still.move(hours=-1) == START - timedelta(hours=1)
    going = VirtualClock()
    assert abs(going.now - datetime.now(UTC)) < timedelta(minutes=1)
    assert going.move(days=2) - datetime.now(UTC) > timedelta(days=1)
    with pytest.raises(ValueError, match="no time zone"):
        VirtualClock(datetime(2026, 1, 1))  # noqa: DTZ001


OWN_TEST = """
@pytest.mark.parametrize("number", [1, 2])
def test_each_has_an_openmeter_of_its_own(embedded_openmeter, number):
    assert embedded_openmeter.call("GET", "/api/v1/events") == []
    embedded_openmeter.ingest({"type": "call", "subject": "acme"})
"""


def test_the_documented_examples_hold_in_a_users_own_test_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    content = "\n\n".join([*blocks, OWN_TEST])
    (tmp_path / "test_mine.py").write_text(content, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    expected = len(re.findall("^def test_", content, re.MULTILINE)) + 1
    assert expected == 4
    assert f"{expected} passed" in done.stdout, done.stdout + done.stderr
