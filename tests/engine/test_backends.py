"""What the engines of one process share: their deliveries start, stop and miss nothing together."""

from __future__ import annotations

import json
import logging

import pytest

from metergate.engine import Backends, Engine, Metering
from metergate.policy.options import read_options
from metergate.testing.faulty import FaultyOpenMeter


@pytest.fixture
def openmeter():
    with FaultyOpenMeter() as server:
        yield server


@pytest.fixture
def other_openmeter():
    with FaultyOpenMeter() as server:
        yield server


@pytest.fixture
def backends(tmp_path):
    """Makes the backends of one start; all use one spool and are closed at the end."""
    made = []

    def make():
        made.append(Backends(tmp_path / "spool"))
        return made[-1]

    yield make
    for each in made:
        each.drain(0.0)


@pytest.fixture
def meter():
    """``meter(backends, url, "r1")`` records one event under that request id with a policy of that URL."""

    def record(backends, url, request_id, **options):
        options = {"apiUrl": url, "apiKey": "key", "meter": {"type": "call", "subject": "acme"}} | options
        policy, findings = read_options(options, name="meter")
        assert policy is not None, findings
        metering = Metering(request_id)
        metering.arm(Engine(policy, backends), "acme")
        metering.settle(200)

    return record


def ids(server):
    return sorted(event["id"] for event in server.events)


def test_an_openmeter_that_is_away_takes_no_time_from_the_others_at_the_stop(
    backends, meter, openmeter, other_openmeter
):
    ours = backends()
    openmeter.hold()
    meter(ours, openmeter.url, "r1")
    meter(ours, other_openmeter.url, "r2", delivery={"durability": "memory", "maxDelayMs": 3_600_000})
    ours.start()
    ours.drain(2.0)
    openmeter.let_go()
    assert ids(other_openmeter) == ["r2-call"], "what is in memory only is lost with the process"


@pytest.mark.parametrize(
    "now", [{"delivery": {"durability": "memory"}}, {"apiUrl": "http://elsewhere.test"}, None]
)
def test_events_that_a_change_of_the_configuration_leaves_unsent_are_said_at_the_start(
    backends, meter, openmeter, now, caplog, tmp_path
):
    before = backends()
    meter(before, openmeter.url, "r1")
    before.drain(0.0)
    after = backends()
    if now is not None:
        options = {"apiUrl": openmeter.url, "apiKey": "key"} | now
        policy, _ = read_options(options, name="meter")
        Engine(policy, after)
    with caplog.at_level(logging.ERROR, "metergate.engine"):
        after.start()
    (said,) = caplog.messages
    assert openmeter.url in said
    (folder,) = {path.parent.parent.name for path in tmp_path.glob("spool/*/segments/*.jsonl")}
    assert folder in said


def test_events_that_will_be_sent_are_not_complained_of(backends, meter, openmeter, caplog):
    before = backends()
    meter(before, openmeter.url, "r1")
    before.drain(0.0)
    after = backends()
    meter(after, openmeter.url + "/", "r2")
    after.start()
    backends().start()  # beside a gateway that sends them
    after.drain(10.0)
    assert ids(openmeter) == ["r1-call", "r2-call"]
    assert [message for message in caplog.messages if "nobody sends" in message] == []


def test_two_policies_of_one_destination_with_other_options_send_each_event_once(backends, meter, openmeter):
    ours = backends()
    for number in range(20):
        meter(ours, openmeter.url, f"a{number}", delivery={"maxDelayMs": 1})
        meter(ours, openmeter.url, f"b{number}", delivery={"durability": "power", "batchSize": 7})
        meter(ours, openmeter.url, f"c{number}", delivery={"durability": "memory"})
        if number == 10:
            ours.start()
    ours.drain(10.0)
    assert ids(openmeter) == sorted(f"{name}{number}-call" for name in "abc" for number in range(20))
    assert all(json.loads(request.body) for request in openmeter.requests)


def test_of_the_policies_that_check_at_one_openmeter_the_highest_budget_counts_shared_by_the_workers(
    tmp_path,
):
    backends = Backends(tmp_path, workers=4)

    def checks(required, **check):
        options = {"apiUrl": "http://openmeter.test", "apiKey": "key", "requiredEntitlements": required}
        policy, findings = read_options(options | {"entitlementCheck": check}, name="meter")
        assert policy is not None, findings
        return backends.entitlements(policy)

    assert checks([]).reads_per_second == 25 / 4
    assert checks(["api"], maxReadsPerSecond=8).reads_per_second == 2
    assert checks(["api"], maxReadsPerSecond=80).reads_per_second == 20
    assert checks(["api"], maxReadsPerSecond=40).reads_per_second == 20
    assert checks([], maxReadsPerSecond=400).reads_per_second == 20
