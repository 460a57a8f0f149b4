"""Values of entitlements: balances follow the events at once, and not found differs between the paths."""

import asyncio

import pytest

V1 = "/api/v1/subjects/acme/entitlements"
V1_CUSTOMER = "/api/v1/customers/acme/entitlements"
V2 = "/api/v2/customers/acme/entitlements"
NOW = "2026-03-15T12:00:00Z"


@pytest.fixture
def acme(openmeter):
    """A customer ``acme`` with another subject ``acme-2``, and a feature on a meter of each useful kind."""
    for slug, aggregation in (
        ("sum", "SUM"),
        ("count", "COUNT"),
        ("unique", "UNIQUE_COUNT"),
        ("latest", "LATEST"),
    ):
        meter = {
            "slug": slug,
            "aggregation": aggregation,
            "eventType": "request",
            "groupBy": {"model": "$.model"},
        }
        value = (
            {} if aggregation == "COUNT" else {"valueProperty": "$.user" if slug == "unique" else "$.tokens"}
        )
        assert openmeter("POST", "/api/v1/meters", meter | value).status == 200
        feature = {"key": slug, "name": slug, "meterSlug": slug}
        assert openmeter("POST", "/api/v1/features", feature).status == 201
    for key in ("sso", "models"):
        openmeter("POST", "/api/v1/features", {"key": key, "name": key})
    customer = {"name": "Acme", "key": "acme", "usageAttribution": {"subjectKeys": ["acme", "acme-2"]}}
    return openmeter("POST", "/api/v1/customers", customer).json


@pytest.fixture
def entitle(openmeter, acme):
    def entitle(feature="count", amount=10, **fields):
        body = {
            "type": "metered",
            "featureKey": feature,
            "usagePeriod": {"interval": "MONTH"},
            "issueAfterReset": amount,
        }
        answer = openmeter("POST", V2, body | fields)
        assert answer.status == 201, answer.body
        return answer.json

    return entitle


@pytest.fixture
def use(openmeter, event):
    """Send one event for each of the given data, now unless a time is said; each acknowledged with 204."""
    sent = 0

    def use(*data, time=None, subject="acme"):
        nonlocal sent
        events = []
        for item in data:
            sent += 1
            events.append(event(f"e{sent}", data=item, time=time, subject=subject))
        headers = {"Content-Type": "application/cloudevents-batch+json"}
        assert openmeter("POST", "/api/v1/events", events, headers=headers).status == 204

    return use


def value(openmeter, path=V2, feature="count", time=None):
    answer = openmeter("GET", f"{path}/{feature}/value" + (f"?time={time}" if time else ""))
    assert answer.status == 200
    return answer.json


def figures(openmeter, feature="count", time=None):
    shown = value(openmeter, feature=feature, time=time)
    return [shown[name] for name in ("hasAccess", "balance", "usage", "overage", "totalAvailableGrantAmount")]


def test_a_balance_counts_every_event_that_was_acknowledged(openmeter, entitle, use):
    made = entitle()
    assert figures(openmeter) == [True, 10, 0, 0, 10]
    for number in range(1, 13):
        use({})
        assert figures(openmeter) == [number < 10, max(10 - number, 0), number, max(number - 10, 0), 10]
    for path in (V1, V1_CUSTOMER, V2):
        assert value(openmeter, path)["usage"] == 12
    assert value(openmeter, V1, made["id"]) == value(openmeter, V1)


def test_usage_of_all_subjects_of_the_customer_counts_and_of_nobody_else(openmeter, entitle, use):
    entitle()
    use({}, {}, subject="acme-2")
    use({}, subject="somebody")
    assert figures(openmeter)[2] == 2


def test_only_version_2_tells_the_balance_of_each_grant(openmeter, acme, use):
    grants = [
        {"amount": 5, "effectiveAt": NOW, "priority": 2},
        {"amount": 3, "effectiveAt": NOW, "priority": 1, "expiration": {"duration": "HOUR", "count": 1}},
    ]
    body = {"type": "metered", "featureKey": "count", "usagePeriod": {"interval": "MONTH"}}
    openmeter("POST", V2, body | {"grants": grants})
    use({}, {}, {}, {})
    shown = value(openmeter)
    assert sorted(shown["grantBalances"].values()) == [0, 4]
    assert "grantBalances" not in value(openmeter, V1)
    later = value(openmeter, time="2026-03-15T13:00:00Z")
    assert list(later["grantBalances"].values()) == [4]
    assert (later["balance"], later["totalAvailableGrantAmount"]) == (4, 8)


def test_sums_are_exact_where_binary_fractions_are_not(openmeter, entitle, use):
    entitle("sum", 1)
    use(*[{"tokens": 0.1}] * 10)
    assert figures(openmeter, "sum") == [False, 0, 1, 0, 1]


def test_a_correction_gives_back_what_was_used(openmeter, entitle, use):
    entitle("sum", 10)
    use({"tokens": 12})
    use({"tokens": -5})
    assert figures(openmeter, "sum") == [True, 3, 7, 0, 10]


def test_a_unique_count_counts_each_value_once_a_period(openmeter, entitle, use, clock):
    entitle("unique", 3)
    use({"user": "a"}, {"user": "b"}, {"user": "a"})
    assert figures(openmeter, "unique") == [True, 1, 2, 0, 3]
    clock.move(days=31)
    use({"user": "a"})
    assert figures(openmeter, "unique") == [True, 2, 1, 0, 3]


def test_the_latest_value_is_held_against_the_whole_grant(openmeter, entitle, use, clock):
    entitle("latest", 1000)
    use({"tokens": 900})
    clock.move(minutes=1)
    use({"tokens": 150})
    assert figures(openmeter, "latest") == [True, 850, 150, 0, 1000]
    clock.move(minutes=1)
    use({"tokens": 1200})
    assert figures(openmeter, "latest") == [False, 0, 1200, 200, 1000]


def test_only_usage_that_the_feature_lets_through_counts(openmeter, acme, use):
    feature = {
        "key": "gpt",
        "name": "g",
        "meterSlug": "sum",
        "advancedMeterGroupByFilters": {"model": {"$in": ["a", "b"]}},
    }
    assert openmeter("POST", "/api/v1/features", feature).status == 201
    body = {
        "type": "metered",
        "featureKey": "gpt",
        "usagePeriod": {"interval": "DAY"},
        "issueAfterReset": 100,
    }
    openmeter("POST", V2, body)
    use({"model": "a", "tokens": 1}, {"model": "b", "tokens": 2}, {"model": "c", "tokens": 4}, {"tokens": 8})
    assert figures(openmeter, "gpt")[2] == 3


def test_usage_before_measuring_does_not_count_and_a_month_later_all_is_new(openmeter, entitle, use, clock):
    use({}, time="2026-03-15T11:59:59Z")
    entitle(amount=5)
    use({}, {}, {}, {}, {}, {}, {})
    assert figures(openmeter) == [False, 0, 7, 2, 5]
    clock.move(days=31)
    assert figures(openmeter) == [True, 5, 0, 0, 5]
    assert figures(openmeter, time="2026-04-14T00:00:00Z") == [False, 0, 7, 2, 5]


def test_late_events_count_by_their_own_time(openmeter, entitle, use, clock):
    entitle(amount=5, preserveOverageAtReset=True)
    clock.move(days=31)
    use({}, {}, {}, {}, {}, {}, time="2026-03-20T00:00:00Z")
    assert figures(openmeter) == [True, 4, 0, 0, 5]


def test_a_long_history_of_periods_is_carried_through(openmeter, acme, use, clock):
    body = {"type": "metered", "featureKey": "count", "usagePeriod": {"interval": "DAY"}}
    grant = {"amount": 100, "effectiveAt": NOW}
    openmeter("POST", V2, body | {"grants": [grant]})
    for _ in range(20):
        use({}, {})
        clock.move(days=1)
    assert figures(openmeter) == [True, 60, 0, 0, 60]


def test_a_soft_limit_never_ends_access(openmeter, entitle, use):
    entitle(amount=1, isSoftLimit=True)
    use({}, {}, {})
    assert figures(openmeter) == [True, 0, 3, 2, 1]


def test_the_time_asked_for_is_rounded_up_to_the_minute(openmeter, entitle, use):
    entitle()
    use({}, time="2026-03-15T12:10:30Z")
    for time, usage in (("12:10:00", 0), ("12:10:01", 1), ("12:11:00", 1)):
        assert figures(openmeter, time=f"2026-03-15T{time}Z")[2] == usage


def test_static_and_boolean_values(openmeter, acme):
    openmeter("POST", V2, {"type": "boolean", "featureKey": "sso"})
    openmeter("POST", V2, {"type": "static", "featureKey": "models", "config": '{"a":1}'})
    for path in (V1, V1_CUSTOMER, V2):
        assert value(openmeter, path, "sso") == {"hasAccess": True}
        assert value(openmeter, path, "models") == {"hasAccess": True, "config": '{"a":1}'}


def test_not_found_differs_between_the_paths(openmeter, entitle):
    entitle()
    assert openmeter("GET", f"{V1}/sso/value").status == 404
    for path in (V1_CUSTOMER, V2):
        assert value(openmeter, path, "sso") == {"hasAccess": False}
        assert value(openmeter, path, "no-such-feature") == {"hasAccess": False}
    assert openmeter("GET", "/api/v1/subjects/nobody/entitlements/count/value").status == 404
    assert openmeter("GET", "/api/v1/customers/nobody/entitlements/count/value").status == 404
    assert openmeter("GET", "/api/v2/customers/nobody/entitlements/count/value").status == 404
    assert openmeter("GET", "/api/v1/customers/nobody/access").status == 404


def test_before_it_begins_and_after_it_is_deleted_an_entitlement_gives_no_access(openmeter, entitle, clock):
    entitle()
    assert value(openmeter, V1, time="2026-03-15T11:00:00Z") == {"hasAccess": False}
    clock.move(hours=1)
    openmeter("DELETE", f"{V2}/count")
    assert openmeter("GET", f"{V1}/count/value").status == 404
    assert value(openmeter, V2) == {"hasAccess": False}
    assert value(openmeter, V1, time="2026-03-15T12:30:00Z")["hasAccess"] is True


def test_a_time_that_is_none_is_refused_and_none_is_too_far_away(openmeter, acme):
    body = {"type": "metered", "featureKey": "count", "usagePeriod": {"interval": "PT1H"}}
    openmeter("POST", V2, body | {"preserveOverageAtReset": True, "issueAfterReset": 1})
    for time in ("yesterday", "2026-03-15", "10000-01-01T00:00:00Z"):
        assert openmeter("GET", f"{V2}/count/value?time={time}").status == 400
    for year in ("0001", "9999"):
        answer = openmeter("GET", f"{V2}/count/value?time={year}-12-31T22:59:59Z")
        assert (answer.status, answer.json["hasAccess"]) == (200, year == "9999")


def test_access_tells_all_values_at_once(openmeter, entitle, use):
    assert openmeter("GET", "/api/v1/customers/acme/access").json == {"entitlements": {}}
    entitle()
    entitle("sum", 7)
    openmeter("POST", V2, {"type": "boolean", "featureKey": "sso"})
    use({"tokens": 2})
    assert openmeter("GET", "/api/v1/customers/acme/access").json == {
        "entitlements": {
            "count": {
                "hasAccess": True,
                "balance": 9,
                "usage": 1,
                "overage": 0,
                "totalAvailableGrantAmount": 10,
            },
            "sum": {
                "hasAccess": True,
                "balance": 5,
                "usage": 2,
                "overage": 0,
                "totalAvailableGrantAmount": 7,
            },
            "sso": {"hasAccess": True},
        }
    }


def test_of_many_who_send_and_ask_at_once_each_sees_what_was_acknowledged_before(openmeter, entitle, event):
    for feature in ("count", "sum", "unique", "latest"):
        entitle(feature, 10_000)
    acknowledged = 0

    async def client(name):
        nonlocal acknowledged
        for number in range(12):
            identifier = f"{name}-{number}"
            sent = event(identifier, time=NOW, data={"tokens": 1, "user": identifier})
            assert (await openmeter.request("POST", "/api/v1/events", sent)).status == 204
            acknowledged += 1
            least = acknowledged
            shown = (await openmeter.request("GET", "/api/v1/customers/acme/access")).json["entitlements"]
            assert all(shown[feature]["usage"] >= least for feature in ("count", "sum", "unique"))
            assert shown["latest"]["usage"] == 1

    async def everybody():
        await asyncio.gather(*(client(name) for name in range(8)))

    openmeter.runner.run(everybody())
    assert [figures(openmeter, feature)[2] for feature in ("count", "sum", "unique", "latest")] == [
        96,
        96,
        96,
        1,
    ]
