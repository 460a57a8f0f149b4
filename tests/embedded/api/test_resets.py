"""Resetting usage by hand and overriding an entitlement: what begins anew, what is carried over, what is refused."""

import asyncio

import pytest

V1 = "/api/v1/subjects/acme/entitlements"
V2 = "/api/v2/customers/acme/entitlements"
METERED = {"type": "metered", "featureKey": "calls", "usagePeriod": {"interval": "MONTH"}}


@pytest.fixture
def acme(openmeter):
    openmeter("POST", "/api/v1/meters", {"slug": "calls", "aggregation": "COUNT", "eventType": "request"})
    for key, meter in (("calls", {"meterSlug": "calls"}), ("sso", {})):
        openmeter("POST", "/api/v1/features", {"key": key, "name": key} | meter)
    customer = {"name": "Acme", "key": "acme", "usageAttribution": {"subjectKeys": ["acme"]}}
    return openmeter("POST", "/api/v1/customers", customer).json


@pytest.fixture
def entitle(openmeter, acme):
    def entitle(**fields):
        answer = openmeter("POST", V2, METERED | {"issueAfterReset": 10} | fields)
        assert answer.status == 201, answer.body
        return answer.json

    return entitle


@pytest.fixture
def use(openmeter, event):
    sent = 0

    def use(count, time=None):
        nonlocal sent
        events = [event(f"e{sent + number}", time=time) for number in range(count)]
        sent += count
        assert openmeter("POST", "/api/v1/events", events).status == 204

    return use


def figures(openmeter, time=None):
    shown = openmeter("GET", f"{V2}/calls/value", query={"time": time} if time else None).json
    return [shown[name] for name in ("balance", "usage", "overage")]


def reset(openmeter, path=f"{V2}/calls", **body):
    return openmeter("POST", f"{path}/reset", body)


def test_a_reset_begins_a_usage_period_and_moves_the_anchor(openmeter, entitle, use, clock):
    made = entitle()
    use(12)
    clock.move(days=3, minutes=5)
    assert figures(openmeter) == [0, 12, 2]
    assert reset(openmeter).status == 204
    assert figures(openmeter) == [10, 0, 0]
    use(1)
    assert figures(openmeter) == [9, 1, 0]
    assert figures(openmeter, "2026-03-18T12:04:00Z") == [0, 12, 2]
    shown = openmeter("GET", f"{V2}/calls").json
    assert shown["lastReset"] == "2026-03-18T12:05:00Z"
    assert shown["currentUsagePeriod"] == {"from": "2026-03-18T12:05:00Z", "to": "2026-04-18T12:05:00Z"}
    assert shown["usagePeriod"] == made["usagePeriod"]
    assert shown["measureUsageFrom"] == made["measureUsageFrom"]


def test_a_retained_anchor_keeps_the_calendar(openmeter, entitle, clock):
    entitle()
    clock.move(days=3)
    assert reset(openmeter, retainAnchor=True).status == 204
    period = openmeter("GET", f"{V2}/calls").json["currentUsagePeriod"]
    assert period == {"from": "2026-03-18T12:00:00Z", "to": "2026-04-15T12:00:00Z"}
    clock.move(days=1)
    assert reset(openmeter).status == 204
    clock.move(days=1)
    assert reset(openmeter, retainAnchor=True).status == 204
    period = openmeter("GET", f"{V2}/calls").json["currentUsagePeriod"]
    assert period == {"from": "2026-03-20T12:00:00Z", "to": "2026-04-19T12:00:00Z"}


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize(("asked", "kept"), [(None, None), (True, True), (False, False)])
def test_overage_is_preserved_as_asked_else_as_the_entitlement_has_it(
    openmeter, entitle, use, clock, default, asked, kept
):
    entitle(preserveOverageAtReset=default)
    use(13)
    clock.move(hours=1)
    body = {} if asked is None else {"preserveOverage": asked}
    assert reset(openmeter, **body).status == 204
    preserved = default if kept is None else kept
    assert figures(openmeter) == [7 if preserved else 10, 0, 0]


def test_a_reset_in_the_past_counts_usage_from_there(openmeter, entitle, use, clock):
    entitle()
    use(3)
    clock.move(hours=2)
    use(4)
    assert reset(openmeter, effectiveAt="2026-03-15T15:00:30+02:00").status == 204
    assert openmeter("GET", f"{V2}/calls").json["lastReset"] == "2026-03-15T13:00:00Z"
    assert figures(openmeter) == [6, 4, 0]


def test_a_reset_that_cannot_be_is_refused(openmeter, entitle, clock):
    identifier = entitle()["id"]
    clock.move(hours=2)
    assert reset(openmeter, effectiveAt="2026-03-15T13:00:00Z").status == 204
    for time, words in (
        ("2026-03-15T14:00:01Z", "in the future"),
        ("2026-03-15T12:59:59Z", "before current usage period"),
        ("2026-03-15T13:00:59Z", "not after last reset"),
        ("13:00", "effectiveAt"),
    ):
        for path in (f"{V1}/{identifier}", f"{V2}/calls"):
            answer = reset(openmeter, path, effectiveAt=time)
            assert (answer.status, words in answer.detail) == (400, True), answer.detail
    openmeter("POST", V2, {"type": "boolean", "featureKey": "sso"})
    assert reset(openmeter, f"{V2}/sso").status == 400
    assert reset(openmeter, f"{V2}/nothing").status == 404
    assert reset(openmeter, f"{V1}/calls").status == 404
    assert reset(openmeter, f"{V1}/{identifier}").status == 204


def test_of_resets_at_the_same_moment_one_counts_and_it_survives_a_restart(openmeter, entitle, use, clock):
    entitle()
    use(5)
    clock.move(minutes=1)

    async def together():
        return await asyncio.gather(*(openmeter.request("POST", f"{V2}/calls/reset", {}) for _ in range(5)))

    assert sorted(answer.status for answer in openmeter.runner.run(together())) == [204, 400, 400, 400, 400]
    openmeter.restart()
    assert figures(openmeter) == [10, 0, 0]
    assert reset(openmeter).status == 400


def test_in_the_minute_of_the_last_reset_there_is_no_other(openmeter, entitle, use, clock):
    identifier = entitle()["id"]
    use(3, "2026-03-15T12:00:10Z")
    clock.move(seconds=30)
    for path in (f"{V1}/{identifier}", f"{V2}/calls"):
        answer = reset(openmeter, path)  # measuring began in this very minute
        assert (answer.status, "not after last reset at 2026-03-15T12:00:00Z" in answer.detail) == (400, True)
    assert figures(openmeter) == [7, 3, 0]
    clock.move(seconds=30)
    assert reset(openmeter).status == 204
    clock.move(seconds=59)
    assert reset(openmeter).status == 400
    clock.now = clock.now.replace(
        month=4, day=15, minute=1, second=30
    )  # the calendar's own reset was at 12:01
    answer = reset(openmeter)
    assert (answer.status, "2026-04-15T12:01:00Z" in answer.detail) == (400, True)


@pytest.mark.parametrize("path", [f"{V1}/calls", f"{V2}/calls"])
def test_an_override_ends_the_old_entitlement_and_begins_the_new_one_afresh(
    openmeter, entitle, use, clock, path
):
    old = entitle()
    use(8)
    clock.move(hours=1)
    answer = openmeter("PUT", f"{path}/override", METERED | {"issueAfterReset": 100})
    assert answer.status == 201
    assert answer.json["id"] != old["id"]
    assert figures(openmeter) == [100, 0, 0]
    ended = openmeter("GET", f"/api/v2/entitlements/{old['id']}").json
    assert ended["activeTo"] == answer.json["activeFrom"] == "2026-03-15T13:00:00Z"
    active = openmeter("GET", V1).json
    assert [each["id"] for each in active] == [answer.json["id"]]
    assert figures(openmeter, "2026-03-15T12:59:00Z") == [2, 8, 0]
    assert openmeter("GET", f"{V2}/{old['id']}/value").json == {"hasAccess": False}


def test_an_override_may_change_the_kind_but_not_the_feature(openmeter, entitle):
    entitle()
    for path in (f"{V1}/calls", f"{V2}/calls"):
        answer = openmeter("PUT", f"{path}/override", {"type": "boolean", "featureKey": "sso"})
        assert (answer.status, "different features" in answer.detail) == (400, True)
        assert openmeter("PUT", f"{path}/override", METERED | {"issueAfterReset": -1}).status == 400
    assert openmeter("PUT", f"{V2}/sso/override", {"type": "boolean", "featureKey": "sso"}).status == 404
    changed = openmeter("PUT", f"{V2}/calls/override", {"type": "boolean", "featureKey": "calls"})
    assert (changed.status, changed.json["type"]) == (201, "boolean")
    assert openmeter("GET", f"{V2}/calls/value").json == {"hasAccess": True}


def test_what_was_overridden_cannot_be_overridden_again(openmeter, entitle):
    old = entitle()["id"]
    assert openmeter("PUT", f"{V2}/{old}/override", METERED).status == 201
    answer = openmeter("PUT", f"{V2}/{old}/override", METERED)
    assert (answer.status, "not active" in answer.detail) == (400, True)
