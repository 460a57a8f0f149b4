"""One request's metering: armed, set, settled once; ids, times and several policies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metergate.engine import Metering
from metergate.errors import UsageError

MOMENT = 1_795_000_000_123
"""2026-11-18T11:06:40.123Z"""


def metering(request_id="r", now_ms=MOMENT):
    return Metering(request_id, lambda: now_ms)


def test_what_is_not_armed_is_not_metered(bench):
    bench.engine()
    one = metering()
    one.set_meters({"type": "x"})
    assert (one.armed, one.settle(200), bench.events()) == (False, (), [])


def test_an_event_is_what_the_policy_says_at_the_time_of_settling(bench):
    one = metering()
    one.arm(bench.engine(eventSource="me", meter={"type": "call", "data": {"n": 1}}), "acme", "GET /")
    assert one.settle(200) == ()
    assert bench.events() == [
        {
            "specversion": "1.0",
            "id": "r-call",
            "time": "2026-11-18T11:06:40.123Z",
            "source": "me",
            "subject": "acme",
            "type": "call",
            "data": {"n": 1},
        }
    ]


@pytest.mark.parametrize(("first", "then"), [(200, 200), (200, 500), (500, 200)])
def test_the_first_status_counts_and_a_second_settling_does_nothing(bench, first, then):
    one = metering()
    one.arm(bench.engine(), "acme")
    one.settle(first)
    one.settle(then)
    assert bench.ids() == (["r-call"] if first == 200 else [])


def test_with_power_durability_there_is_something_to_wait_for(bench):
    one = metering()
    one.arm(bench.engine(delivery={"durability": "power"}), "acme")
    (durable,) = one.settle(200)
    durable.result(10)
    assert bench.ids() == ["r-call"]


def test_the_last_set_counts_and_add_adds(bench):
    one = metering()
    one.arm(bench.engine(), "acme")
    one.set_meters({"type": "a"})
    one.set_meters([{"type": "b"}, {"type": "c"}])
    one.add_meters({"type": "b"})
    assert [meter.type for meter in one.get_meters()] == ["b", "c", "b"]
    one.settle(200)
    assert bench.ids() == ["r-b", "r-b-2", "r-c", "r-call"]


def test_an_empty_list_clears(bench):
    one = metering()
    one.arm(bench.engine(), "acme")
    one.set_meters({"type": "a"})
    one.set_meters([])
    one.settle(200)
    assert bench.ids() == ["r-call"]


def test_data_is_taken_as_it_is_when_it_is_set(bench):
    data = {"n": [1]}
    one = metering()
    one.arm(bench.engine(meter={"type": "x"}), "acme")
    one.set_meters({"type": "call", "data": data})
    data["n"].append(2)
    one.settle(200)
    assert [event["data"] for event in bench.events() if event["type"] == "call"] == [{"n": [1]}]


@pytest.mark.parametrize("bad", [None, 5, {}, {"type": ""}, {"type": "a", "data": []}, [{"type": "a"}, 5]])
@pytest.mark.parametrize("call", ["set_meters", "add_meters"])
def test_a_bad_argument_raises_where_it_is_given_and_changes_nothing(bad, call):
    one = metering()
    one.set_meters({"type": "kept"})
    with pytest.raises(UsageError):
        getattr(one, call)(bad)
    assert [meter.type for meter in one.get_meters()] == ["kept"]


@pytest.mark.parametrize("call", ["set_meters", "add_meters"])
def test_after_settling_it_is_too_late_and_said(bench, call, caplog):
    one = metering()
    one.arm(bench.engine(), "acme")
    one.settle(200)
    getattr(one, call)({"type": "late"})
    assert (one.get_meters(), bench.ids()) == ((), ["r-call"])
    assert caplog.records[0].getMessage() == f"{call} came after the response was settled; request r"


def test_run_time_meters_obey_the_statuses(bench):
    one = metering()
    one.arm(bench.engine(), "acme")
    one.set_meters({"type": "a"})
    one.settle(404)
    assert bench.events() == []


# --- several policies


def test_of_one_destination_ids_count_on_and_run_time_meters_are_sent_once(bench):
    one = metering()
    one.arm(bench.engine("first"), "acme")
    one.arm(bench.engine("second", delivery={"batchSize": 7}), "other")
    one.set_meters([{"type": "a"}, {"type": "a"}])
    one.settle(200)
    assert bench.ids() == ["r-a", "r-a-2", "r-call", "r-call-2"]
    assert {event["id"]: event["subject"] for event in bench.events()} == {
        "r-call": "acme",
        "r-a": "acme",
        "r-a-2": "acme",
        "r-call-2": "other",
    }


def test_of_different_servers_each_gets_ids_and_meters_of_its_own(bench):
    one = metering()
    one.arm(bench.engine("first"), "acme")
    one.arm(bench.engine("second", apiUrl="http://127.0.0.1:10"), "acme")
    one.set_meters({"type": "a"})
    one.settle(200)
    assert bench.ids() == ["r-a", "r-a", "r-call", "r-call"]


def test_the_run_time_meters_go_with_the_first_policy_whose_statuses_fit(bench):
    one = metering()
    one.arm(bench.engine("fine"), "acme")
    one.arm(bench.engine("all", meterOnStatusCodes="200-599", meter={"type": "any"}), "other")
    one.set_meters({"type": "a"})
    one.settle(500)
    assert {event["id"]: event["subject"] for event in bench.events()} == {"r-any": "other", "r-a": "other"}


def test_a_run_time_meter_replaces_its_type_in_every_policy_of_the_destination(bench):
    one = metering()
    one.arm(bench.engine("first"), "acme")
    one.arm(bench.engine("second", meter=[{"type": "call"}, {"type": "other"}]), "acme")
    one.set_meters({"type": "call", "data": {"by": "code"}})
    one.settle(200)
    assert bench.ids() == ["r-call", "r-other"]


TYPES = st.sampled_from(["a", "b", "c"])


@settings(max_examples=50, deadline=None)
@given(
    policies=st.lists(st.lists(TYPES, min_size=1, max_size=3), min_size=1, max_size=3),
    runtime=st.lists(TYPES, max_size=4),
)
def test_however_policies_and_meters_are_mixed_no_id_comes_twice(new_bench, policies, runtime):
    bench = new_bench()
    try:
        one = metering()
        for number, types in enumerate(policies):
            one.arm(bench.engine(f"p{number}", meter=[{"type": name} for name in types]), "acme")
        one.set_meters([{"type": name} for name in runtime])
        one.settle(200)
        ids = bench.ids()
        configured = [name for types in policies for name in types if name not in runtime]
        assert len(ids) == len(set(ids)) == len(configured) + len(runtime)
    finally:
        bench.backends.drain(0)
