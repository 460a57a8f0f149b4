"""Who is let in: the subject first, then the entitlements of a real server, also one that fails."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from metergate.engine import Admission, Metering
from metergate.testing.entitled import EntitledServer, denied, granted, metered
from metergate.testing.faulty import FaultyOpenMeter, answer


@dataclass
class User:
    sub: str
    data: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def openmeter():
    with EntitledServer() as server:
        yield server


def admitted(engine, user, route="GET /"):
    """The admission, and whether OpenMeter had to be waited for."""

    async def asking():
        try:
            admission = engine.admit(user, route)
            if isinstance(admission, Admission):
                return admission, False
            return await asyncio.wait_for(admission, 20), True
        finally:
            await engine.backends.stop()

    return asyncio.run(asking())


def denial(engine, user):
    return admitted(engine, user)[0].denial


# --- the subject


def test_without_required_entitlements_everybody_is_let_in_and_nobody_is_asked(bench, openmeter):
    engine = bench.engine(apiUrl=openmeter.url)
    assert admitted(engine, User("acme")) == (Admission("acme"), False)
    assert admitted(engine, None) == (Admission(None), False)
    assert openmeter.count == 0


@pytest.mark.parametrize(
    ("user", "status", "reason"), [(None, 401, "no_user"), (User(""), 403, "no_subject")]
)
def test_without_a_subject_a_required_entitlement_blocks_and_openmeter_is_not_asked(
    bench, openmeter, user, status, reason
):
    engine = bench.engine(apiUrl=openmeter.url, requiredEntitlements=["api"])
    found = denial(engine, user)
    assert (found.status, found.reason, openmeter.count) == (status, reason, 0)
    assert bench.backends.statistics().decisions == {reason: 1}


def test_the_subject_is_where_the_policy_says(bench):
    engine = bench.engine(subjectPath=".data.account.id")
    assert admitted(engine, User("x", {"account": {"id": 7}}))[0].subject == "7"
    assert admitted(engine, User("x", {"account": {}}))[0].subject is None


# --- the entitlements


def test_who_is_entitled_is_let_in_and_a_second_time_without_a_wait(bench, openmeter):
    openmeter.customer("acme", features={"api": metered(10), "sso": granted()})
    engine = bench.engine(apiUrl=openmeter.url, requiredEntitlements=["api", "sso"])

    async def twice():
        first = await engine.admit(User("acme"))
        second = engine.admit(User("acme"))
        await bench.backends.stop()
        return first, second

    assert asyncio.run(twice()) == (Admission("acme"), Admission("acme"))
    assert bench.backends.statistics().decisions == {"granted": 2}


@pytest.mark.parametrize(
    ("features", "options", "status", "reason", "detail"),
    [
        ({"api": metered(0)}, {}, 403, "exhausted", "Your quota is used up for: api."),
        ({"api": metered(0)}, {"exhaustedStatus": 429}, 429, "exhausted", "Your quota is used up for: api."),
        ({"api": denied()}, {}, 403, "no_access", "You have no access to: api."),
        ({}, {}, 403, "not_found", "You have no access to: api."),
    ],
)
def test_who_is_not_entitled_is_told_which_features(
    bench, openmeter, features, options, status, reason, detail
):
    openmeter.customer("acme", features=features)
    engine = bench.engine(apiUrl=openmeter.url, requiredEntitlements=["api"], entitlementCheck=options)
    found = denial(engine, User("acme"))
    assert (found.status, found.detail, found.retry_after) == (status, detail, None)
    assert found.decision.failures[0].reason == reason


def test_every_missing_feature_is_named(bench, openmeter):
    openmeter.customer("acme", features={"api": denied(), "sso": granted()})
    engine = bench.engine(apiUrl=openmeter.url, requiredEntitlements=["api", "sso", "sla"])
    assert denial(engine, User("acme")).detail == "You have no access to: api, sla."


def test_in_shadow_everybody_is_let_in_and_the_log_says_who_would_not_be(bench, openmeter, caplog):
    engine = bench.engine(
        apiUrl=openmeter.url, requiredEntitlements=["api"], entitlementCheck={"mode": "shadow"}
    )
    assert admitted(engine, User("nobody-knows"))[0] == Admission("nobody-knows")
    assert admitted(engine, None)[0] == Admission(None)
    said = [record.getMessage() for record in caplog.records if record.name == "metergate.engine"]
    assert said == [
        "policy metered would deny (shadow): not_found",
        "policy metered would deny (shadow): no_user",
    ]


@pytest.mark.parametrize("on_error", ["allow", "deny"])
def test_in_an_outage_the_policy_says_what_happens(bench, openmeter, on_error):
    openmeter.fail(503)
    engine = bench.engine(
        apiUrl=openmeter.url,
        requiredEntitlements=["api"],
        entitlementCheck={"onError": on_error, "timeoutSeconds": 0.5},
    )
    found = denial(engine, User("acme"))
    if on_error == "allow":
        assert found is None
    else:
        assert found.status == 503
        assert found.retry_after >= 1
        assert "Try again shortly" in found.detail


def test_policies_of_one_destination_share_what_is_known_of_a_subject(bench, openmeter):
    openmeter.customer("acme", features={"api": granted()})
    engines = [
        bench.engine(name, apiUrl=openmeter.url, requiredEntitlements=["api"]) for name in ("first", "second")
    ]

    async def both():
        await engines[0].admit(User("acme"))
        second = engines[1].admit(User("acme"))
        await bench.backends.stop()
        return second

    assert asyncio.run(both()) == Admission("acme")
    assert openmeter.count <= 2


# --- recording


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_drops_that_event_only(bench, bad, caplog):
    one = Metering("r")
    one.arm(bench.engine(meter=[{"type": "fine"}, {"type": "other"}]), "acme", "GET /")
    one.set_meters([{"type": "bad", "data": {"n": bad}}])
    one.settle(200)
    assert bench.ids() == ["r-fine", "r-other"]
    assert sum(bench.backends.statistics().dropped.values()) == 1
    (record,) = caplog.records
    assert (record.levelname, record.policy, record.meter, record.route) == (
        "ERROR",
        "metered",
        "bad",
        "GET /",
    )


def test_no_subject_is_said_once_a_route_and_counted_each_time(bench, caplog):
    engine = bench.engine()
    for route in ("GET /a", "GET /a", "GET /b"):
        one = Metering("r")
        one.arm(engine, None, route)
        one.settle(200)
    assert bench.backends.statistics().dropped == {"no_subject": 3}
    assert [record.route for record in caplog.records] == ["GET /a", "GET /b"]


def test_what_is_recorded_reaches_openmeter_once_also_where_that_fails_first(bench):
    with FaultyOpenMeter(answer(500)) as openmeter:
        engine = bench.engine(apiUrl=openmeter.url, delivery={"maxDelayMs": 1})
        bench.backends.start()
        for number in range(10):
            one = Metering(str(number))
            one.arm(engine, "acme")
            one.settle(200)
        openmeter.wait_for_events(10)
        bench.backends.drain(5)
        assert sorted(event["id"] for event in openmeter.events) == [f"{number}-call" for number in range(10)]


# --- backends


def test_deliveries_are_shared_by_destination_and_options(bench):
    first, second = bench.engine("first"), bench.engine("second")
    assert first.delivery is second.delivery
    assert bench.engine("third", apiKey="another").delivery is not first.delivery
    assert bench.engine("fourth", delivery={"batchSize": 7}).delivery is not first.delivery


def test_statistics_name_hosts_and_never_keys(bench):
    bench.engine(apiUrl="https://a.test", apiKey="hush-1")
    bench.engine(apiUrl="https://a.test", apiKey="hush-2")
    found = bench.backends.statistics()
    assert sorted(found.deliveries) == ["a.test", "a.test#2"]
    assert sorted(found.entitlements) == ["a.test", "a.test#2"]
    assert "hush" not in repr(found)


@pytest.mark.parametrize(("durability", "needed"), [("memory", False), ("process", True), ("power", True)])
def test_a_spool_is_needed_unless_all_is_kept_in_memory(bench, durability, needed):
    bench.engine(delivery={"durability": durability})
    assert bench.backends.needs_spool is needed


def test_a_delivery_that_is_made_after_the_start_is_started(bench):
    with FaultyOpenMeter() as openmeter:
        bench.backends.start()
        one = Metering("late")
        one.arm(bench.engine(apiUrl=openmeter.url, delivery={"maxDelayMs": 1}), "acme")
        one.settle(200)
        openmeter.wait_for_events(1)
