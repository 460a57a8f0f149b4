"""One request that several policies meter: each event once, under an id that no other has."""

from __future__ import annotations

import json

import pytest

from metergate.engine import Backends, Engine, Metering
from metergate.policy.options import read_options

URL = "http://openmeter.test"


@pytest.fixture
def backends(tmp_path):
    made = Backends(tmp_path)
    yield made
    made.drain(0.0)


@pytest.fixture
def engine(backends):
    """``engine("call", api_key="a")``: of a policy with that meter."""

    def make(meter, *, api_key="key", url=URL):
        options = {"apiUrl": url, "apiKey": api_key, "meter": {"type": meter}}
        policy, findings = read_options(options, name=f"{meter} {api_key}")
        assert policy is not None, findings
        return Engine(policy, backends)

    return make


@pytest.fixture
def recorded(tmp_path):
    """Id, type and subject of all that was recorded."""

    def read():
        lines = [
            line for path in tmp_path.glob("*/segments/*.jsonl") for line in path.read_text().splitlines()
        ]
        return sorted((event["id"], event["subject"]) for event in map(json.loads, lines))

    return read


def test_two_keys_of_one_url_get_different_ids_since_they_may_be_of_one_organisation(engine, recorded):
    metering = Metering("r")
    for key in ("a", "b", "a"):
        metering.arm(engine("call", api_key=key), f"of-{key}")
    metering.settle(200)
    assert recorded() == [("r-call", "of-a"), ("r-call-2", "of-b"), ("r-call-3", "of-a")]


def test_run_time_meters_go_to_every_key_once_under_the_same_ids(engine, recorded):
    metering = Metering("r")
    metering.set_meters([{"type": "tokens"}, {"type": "tokens"}])
    for key in ("a", "b", "a"):
        metering.arm(engine("call", api_key=key), f"of-{key}")
    metering.settle(200)
    assert [one for one in recorded() if "tokens" in one[0]] == [
        ("r-tokens", "of-a"),
        ("r-tokens", "of-b"),
        ("r-tokens-2", "of-a"),
        ("r-tokens-2", "of-b"),
    ]
    assert [name for name, _ in recorded() if "call" in name] == ["r-call", "r-call-2", "r-call-3"]


def test_a_policy_that_is_armed_twice_sends_run_time_meters_once(engine, recorded):
    metering = Metering("r")
    metering.set_meters({"type": "call"})
    once = engine("call")
    metering.arm(once, "acme")
    metering.arm(once, "acme")
    metering.settle(200)
    assert recorded() == [("r-call", "acme")]


def test_a_policy_without_a_subject_does_not_keep_run_time_meters_from_one_that_has(
    engine, recorded, backends
):
    metering = Metering("r")
    metering.set_meters({"type": "tokens"})
    metering.arm(engine("one"), None)
    metering.arm(engine("two"), "acme")
    metering.settle(200)
    assert recorded() == [("r-tokens", "acme"), ("r-two", "acme")]
    assert backends.dropped == {"no_subject": 1}


def test_where_nobody_pays_a_run_time_meter_is_dropped_and_counted_once(engine, recorded, backends):
    metering = Metering("r")
    metering.set_meters({"type": "one"})
    metering.arm(engine("one"), None)
    metering.arm(engine("one"), None)
    metering.settle(200)
    assert recorded() == []
    assert backends.dropped == {"no_subject": 1}


def test_two_urls_share_no_numbers(engine, recorded):
    metering = Metering("r")
    metering.arm(engine("call"), "acme")
    metering.arm(engine("call", url="http://other.test"), "acme")
    metering.settle(200)
    assert recorded() == [("r-call", "acme"), ("r-call", "acme")]
