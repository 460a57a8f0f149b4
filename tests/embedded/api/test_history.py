"""The history of a balance: every window of the time asked for, and which grant covered what."""

import pytest

V1 = "/api/v1/subjects/acme/entitlements"
V2 = "/api/v2/customers/acme/entitlements"
NOW = "2026-03-15T12:00:00Z"


@pytest.fixture
def entitle(openmeter):
    """Make an entitlement of ``acme`` to a feature on a meter of this aggregation, with these grants."""

    def entitle(aggregation="COUNT", grants=(), **fields):
        value = {} if aggregation == "COUNT" else {"valueProperty": "$.tokens"}
        meter = {"slug": "calls", "aggregation": aggregation, "eventType": "request"}
        assert openmeter("POST", "/api/v1/meters", meter | value).status == 200
        openmeter("POST", "/api/v1/features", {"key": "calls", "name": "Calls", "meterSlug": "calls"})
        openmeter("POST", "/api/v1/features", {"key": "sso", "name": "SSO"})
        customer = {"name": "Acme", "key": "acme", "usageAttribution": {"subjectKeys": ["acme"]}}
        openmeter("POST", "/api/v1/customers", customer)
        body = {"type": "metered", "featureKey": "calls", "usagePeriod": {"interval": "MONTH"}}
        body |= {"grants": [{"effectiveAt": NOW} | grant for grant in grants]}
        answer = openmeter("POST", V2, body | fields)
        assert answer.status == 201, answer.body
        return answer.json

    return entitle


@pytest.fixture
def use(openmeter, event):
    sent = 0

    def use(time, *values):
        nonlocal sent
        events = []
        for value in values:
            sent += 1
            events.append(event(f"e{sent}", time=time, data={"tokens": value}))
        assert openmeter("POST", "/api/v1/events", events).status == 204

    return use


def history(openmeter, **query):
    answer = openmeter("GET", f"{V2}/calls/history", query={"windowSize": "HOUR"} | query)
    assert answer.status == 200, answer.body
    return answer.json


def windows(openmeter, **query):
    """Start (hour and minute), usage and balance at the start of each window."""
    shown = history(openmeter, **query)["windowedHistory"]
    return [(each["period"]["from"][11:16], each["usage"], each["balanceAtStart"]) for each in shown]


def test_every_window_since_the_last_reset_is_there_with_its_usage_and_its_opening_balance(
    openmeter, entitle, use, clock
):
    made = entitle(grants=[{"amount": 10}])
    use("2026-03-15T12:20:00Z", 1, 1, 1)
    use("2026-03-15T14:00:00Z", 1)
    use("2026-03-15T14:59:59Z", 1)
    clock.move(hours=3, minutes=30)
    expected = [("12:00", 3, 10), ("13:00", 0, 7), ("14:00", 2, 7), ("15:00", 0, 5)]
    assert windows(openmeter) == expected
    v1 = openmeter("GET", f"{V1}/{made['id']}/history?windowSize=HOUR")
    assert v1.json == history(openmeter)


def test_usage_outside_of_the_time_asked_for_does_not_count_but_windows_are_whole(
    openmeter, entitle, use, clock
):
    entitle(grants=[{"amount": 10}])
    use("2026-03-15T13:10:00Z", 1)
    use("2026-03-15T13:40:00Z", 1, 1)
    use("2026-03-15T14:40:00Z", 1)
    clock.move(hours=5)
    shown = history(openmeter, **{"from": "2026-03-15T13:30:00Z", "to": "2026-03-15T14:30:00Z"})
    periods = [(each["period"]["from"], each["period"]["to"]) for each in shown["windowedHistory"]]
    assert periods == [
        ("2026-03-15T13:00:00Z", "2026-03-15T14:00:00Z"),
        ("2026-03-15T14:00:00Z", "2026-03-15T15:00:00Z"),
    ]
    assert [each["balanceAtStart"] for each in shown["windowedHistory"]] == [10, 7]
    assert [each["usage"] for each in shown["windowedHistory"]] == [2, 0]
    assert shown["burndownHistory"][0]["period"] == {
        "from": "2026-03-15T13:00:00Z",
        "to": "2026-03-15T14:30:00Z",
    }


def test_a_window_that_begins_before_usage_was_measured_is_left_out(openmeter, entitle, use, clock):
    clock.move(minutes=20)
    entitle(grants=[{"amount": 10, "effectiveAt": "2026-03-15T12:20:00Z"}])
    use("2026-03-15T12:30:00Z", 1)
    clock.move(hours=1)
    assert windows(openmeter) == [("13:00", 0, 9)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            {"windowTimeZone": "Asia/Kolkata"},  # half an hour off: measuring began in the midst of an hour
            [
                ("2026-03-15T17:00:00+05:30", 2, 20),
                ("2026-03-15T18:00:00+05:30", 3, 18),
                ("2026-03-15T19:00:00+05:30", 0, 15),
            ],
        ),
        (
            {"windowTimeZone": "Asia/Kathmandu"},
            [
                ("2026-03-15T17:00:00+05:45", 2, 20),
                ("2026-03-15T18:00:00+05:45", 3, 18),
                ("2026-03-15T19:00:00+05:45", 0, 15),
            ],
        ),
        ({"windowSize": "DAY", "windowTimeZone": "America/New_York"}, [("2026-03-15T00:00:00-04:00", 5, 20)]),
        ({"windowSize": "DAY", "windowTimeZone": "Europe/London"}, [("2026-03-15T00:00:00Z", 5, 20)]),
        ({"windowSize": "DAY"}, []),
    ],
)
def test_in_a_time_zone_the_window_in_which_measuring_began_is_told_from_there_on(
    openmeter, entitle, use, clock, query, expected
):
    entitle(grants=[{"amount": 20}])
    use("2026-03-15T11:59:59Z", 1)  # before it
    use("2026-03-15T12:00:00Z", 1)
    use("2026-03-15T12:10:00Z", 1)
    use("2026-03-15T12:40:00Z", 1, 1, 1)
    clock.move(hours=1, minutes=40)
    shown = history(openmeter, **query)["windowedHistory"]
    assert [(each["period"]["from"], each["usage"], each["balanceAtStart"]) for each in shown] == expected


@pytest.mark.parametrize("month", [4, 10])
def test_no_hour_is_left_out_where_clocks_change_by_half_an_hour(openmeter, entitle, use, clock, month):
    clock.now = clock.now.replace(month=month, day=4 if month == 4 else 3, hour=12)
    began = clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    entitle(grants=[{"amount": 100, "effectiveAt": began}])
    for hour in range(12, 19):
        for minute in (5, 35):
            use(began.replace("T12:00", f"T{hour}:{minute:02}"), 1)
    clock.move(hours=8)
    shown = history(openmeter, windowTimeZone="Australia/Lord_Howe")["windowedHistory"]
    assert sum(each["usage"] for each in shown) == 14
    assert len({each["period"]["from"] for each in shown}) == len(shown)


def test_segments_end_where_a_grant_changes_and_say_who_covered_what(openmeter, entitle, use, clock):
    entitle(
        grants=[
            {"amount": 4, "priority": 1, "expiration": {"duration": "HOUR", "count": 1}},
            {"amount": 10, "priority": 2},
        ]
    )
    short, long = (each["id"] for each in openmeter("GET", f"{V2}/calls/grants").json["items"])
    use("2026-03-15T12:10:00Z", 1, 1, 1, 1, 1, 1)
    use("2026-03-15T13:10:00Z", *[1] * 10)
    clock.move(hours=2)
    first, second = history(openmeter)["burndownHistory"]
    assert first == {
        "period": {"from": NOW, "to": "2026-03-15T13:00:00Z"},
        "usage": 6,
        "overage": 0,
        "balanceAtStart": 14,
        "grantBalancesAtStart": {short: 4, long: 10},
        "balanceAtEnd": 8,
        "grantBalancesAtEnd": {short: 0, long: 8},
        "grantUsages": [{"grantId": short, "usage": 4}, {"grantId": long, "usage": 2}],
    }
    assert (second["usage"], second["overage"], second["balanceAtEnd"]) == (10, 2, 0)
    assert second["grantUsages"] == [{"grantId": long, "usage": 8}]


def test_the_cuts_of_windows_are_not_seen_in_the_segments(openmeter, entitle, use, clock):
    entitle(grants=[{"amount": 100}])
    for hour in range(12, 18):
        use(f"2026-03-15T{hour}:30:00Z", 1, 1)
    clock.move(hours=6)
    (segment,) = history(openmeter)["burndownHistory"]
    assert (segment["usage"], segment["balanceAtStart"], segment["balanceAtEnd"]) == (12, 100, 88)


def test_days_are_those_of_the_time_zone_also_when_its_clocks_change(openmeter, entitle, use, clock):
    clock.now = clock.now.replace(month=3, day=27, hour=23)
    entitle(grants=[{"amount": 100, "effectiveAt": "2026-03-27T23:00:00Z"}])
    use("2026-03-28T22:59:59Z", 1)
    use("2026-03-28T23:00:00Z", 1, 1)
    use("2026-03-29T21:59:59Z", 1)
    use("2026-03-29T22:00:00Z", 1, 1, 1, 1)
    clock.move(days=3)
    shown = history(openmeter, windowSize="DAY", windowTimeZone="Europe/Berlin")["windowedHistory"]
    starts = [each["period"]["from"] for each in shown]
    assert starts == [
        "2026-03-28T00:00:00+01:00",
        "2026-03-29T00:00:00+01:00",
        "2026-03-30T00:00:00+02:00",
        "2026-03-31T00:00:00+02:00",
    ]
    assert [each["usage"] for each in shown] == [1, 3, 4, 0]
    assert [each["balanceAtStart"] for each in shown] == [100, 99, 96, 92]


def test_a_reset_fills_the_balance_in_the_midst_of_a_window(openmeter, entitle, use, clock):
    entitle(grants=[{"amount": 10, "minRolloverAmount": 10}])
    use("2026-03-15T12:10:00Z", 1, 1, 1)
    clock.move(minutes=30)
    openmeter("POST", f"{V2}/calls/reset", {})
    use("2026-03-15T12:40:00Z", 1)
    clock.move(hours=1)
    assert windows(openmeter, **{"from": NOW}) == [("12:00", 4, 10), ("13:00", 0, 9)]
    usages = [each["usage"] for each in history(openmeter, **{"from": NOW})["burndownHistory"]]
    assert usages == [3, 1]
    assert windows(openmeter) == [("12:00", 1, 10), ("13:00", 0, 9)]


@pytest.mark.parametrize(
    ("aggregation", "values", "usages", "balances"),
    [
        ("SUM", [(1, 2), (3,), (4,)], [3, 3, 4], [10, 7, 4]),
        ("UNIQUE_COUNT", [(1, 2), (2, 3), (1,)], [2, 2, 1], [10, 8, 7]),
        ("LATEST", [(9, 4), (6,), (2,)], [4, 6, 2], [10, 6, 4]),
    ],
)
def test_meters_that_sum_count_values_or_measure_a_level(
    openmeter, entitle, use, clock, aggregation, values, usages, balances
):
    entitle(aggregation, grants=[{"amount": 10}])
    for hour, each in enumerate(values, 12):
        use(f"2026-03-15T{hour}:30:00Z", *each)
    clock.move(hours=2, minutes=59)
    shown = windows(openmeter)
    assert [each[1] for each in shown] == usages
    assert [each[2] for each in shown] == balances


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({}, '"windowSize" in query'),
        ({"windowSize": "MINUTE"}, "HOUR or DAY"),
        ({"windowSize": "MONTH"}, "HOUR or DAY"),
        ({"windowSize": "WEEK"}, "windowSize"),
        ({"windowSize": "HOUR", "windowTimeZone": "Mars/Base"}, "time zone"),
        ({"windowSize": "HOUR", "from": "2026-03-15T11:59:00Z"}, "cannot be before"),
        ({"windowSize": "HOUR", "to": "2026-03-15T11:00:00Z"}, "cannot be before"),
        ({"windowSize": "HOUR", "to": "2036-03-15T11:00:00Z"}, "10000"),
        ({"windowSize": "HOUR", "from": "9999-12-31T23:00:00Z", "to": "9999-12-31T23:59:00Z"}, ""),
        ({"windowSize": "HOUR", "from": "today"}, "date-time"),
    ],
)
def test_a_history_that_cannot_be_told_is_refused(openmeter, entitle, query, words):
    entitle(grants=[{"amount": 1}])
    answer = openmeter("GET", f"{V2}/calls/history", query=query)
    assert (answer.status, words in answer.detail) == (400, True), answer.detail


def test_only_a_metered_entitlement_of_this_owner_has_a_history(openmeter, entitle):
    identifier = entitle(grants=[{"amount": 1}])["id"]
    openmeter("POST", V2, {"type": "boolean", "featureKey": "sso"})
    openmeter("POST", "/api/v1/customers", {"name": "Other", "key": "other"})
    assert openmeter("GET", f"{V2}/sso/history?windowSize=DAY").status == 400
    assert openmeter("GET", f"{V2}/nothing/history?windowSize=DAY").status == 404
    for path in (
        f"/api/v1/subjects/other/entitlements/{identifier}",
        f"/api/v2/customers/other/entitlements/{identifier}",
        f"{V1}/calls",
    ):
        assert openmeter("GET", f"{path}/history?windowSize=DAY").status == 404
