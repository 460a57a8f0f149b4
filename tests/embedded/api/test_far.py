"""Values and histories at times that many usage periods and recurrences away."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from metergate.embedded.domain import sparse

PATH = "/api/v2/customers/acme/entitlements"
NOW = "2026-03-15T12:00:00Z"
GRANTS = [
    {"amount": 5, "effectiveAt": NOW, "recurrence": {"interval": "PT2H"}, "maxRolloverAmount": 3},
    {"amount": 40, "effectiveAt": NOW, "recurrence": {"interval": "DAY"}, "priority": 3},
    {"amount": 7, "effectiveAt": NOW, "minRolloverAmount": 2, "maxRolloverAmount": 7, "priority": 2},
    {"amount": 90, "effectiveAt": NOW, "expiration": {"duration": "WEEK", "count": 1}, "priority": 9},
]
TIMES = [
    "2026-03-15T12:00:01Z",
    "2026-03-17T05:30:00Z",
    "2026-03-18T12:00:00Z",
    "2026-03-19T17:59:30Z",
    "2026-03-23T00:00:00Z",
    "2026-03-24T11:00:00Z",
]


@pytest.fixture
def entitle(openmeter: Any) -> Any:
    def entitle(aggregation: str, interval: str, **fields: Any) -> None:
        value = {} if aggregation == "COUNT" else {"valueProperty": "$.n"}
        meter = {"slug": "calls", "aggregation": aggregation, "eventType": "request"}
        assert openmeter("POST", "/api/v1/meters", meter | value).status == 200
        openmeter("POST", "/api/v1/features", {"key": "calls", "name": "Calls", "meterSlug": "calls"})
        openmeter("POST", "/api/v1/customers", {"name": "Acme", "key": "acme"})
        body = {"type": "metered", "featureKey": "calls", "usagePeriod": {"interval": interval}}
        answer = openmeter("POST", PATH, body | {"grants": GRANTS} | fields)
        assert answer.status == 201, answer.body

    return entitle


@pytest.fixture
def use(openmeter: Any, event: Any, clock: Any) -> Any:
    def use(hours: int, number: int) -> None:
        chance = random.Random(7)  # noqa: S311
        events = []
        for index in range(number):
            moment = clock() + timedelta(seconds=chance.randrange(hours * 3600))
            time = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
            events.append(event(f"e{index}", time=time, data={"n": chance.randrange(9)}))
        assert openmeter("POST", "/api/v1/events", events).status == 204

    return use


def told(openmeter: Any) -> list[Any]:
    """Values at all these times, and what happened between two of them."""
    values = [openmeter("GET", f"{PATH}/calls/value?time={time}") for time in TIMES]
    history = f"{PATH}/calls/history?windowSize=HOUR&from={TIMES[2]}&to={TIMES[3]}"
    answers = [*values, openmeter("GET", history)]
    assert [answer.status for answer in answers] == [200] * len(answers), answers
    return [answer.json for answer in answers]


@pytest.mark.parametrize(
    ("aggregation", "interval", "preserve"),
    [
        ("SUM", "PT1H", False),
        ("SUM", "PT1H", True),
        ("COUNT", "PT1H0M30S", False),
        ("UNIQUE_COUNT", "DAY", True),
        ("LATEST", "PT1H", False),
    ],
)
def test_they_are_those_of_all_phases_one_by_one(
    openmeter, entitle, use, monkeypatch, aggregation, interval, preserve
):
    entitle(aggregation, interval, preserveOverageAtReset=preserve)
    use(90, 150)
    at_once = told(openmeter)
    monkeypatch.setattr(sparse, "FEW", 10**9)
    openmeter.restart()
    assert told(openmeter) == at_once
    assert len({msgspec.json.encode(each) for each in at_once}) > 3


@pytest.mark.parametrize("year", [2036, 2226, 9990])
def test_a_time_far_away_is_no_matter(openmeter, entitle, use, year):
    entitle("SUM", "PT1H")
    use(3, 20)
    value = openmeter("GET", f"{PATH}/calls/value?time={year}-01-01T00:00:00Z")
    assert (value.status, value.json["balance"], value.json["usage"]) == (200, 5 + 40 + 2, 0)
    span = f"from={year}-01-01T00:00:00Z&to={year}-01-01T02:00:00Z"
    history = openmeter("GET", f"{PATH}/calls/history?windowSize=HOUR&{span}").json
    assert [window["balanceAtStart"] for window in history["windowedHistory"]] == [47, 45]
    past = openmeter("GET", f"{PATH}/calls/value?time=1926-01-01T00:00:00Z")
    assert (past.status, past.json["hasAccess"]) == (200, False)


def test_a_history_of_more_changes_than_windows_may_be_is_refused(openmeter, entitle):
    entitle("SUM", "PT1H")
    span = f"windowSize=DAY&from={NOW}&to"
    assert (
        len(openmeter("GET", f"{PATH}/calls/history?{span}=2026-04-15T12:00:00Z").json["burndownHistory"])
        > 700
    )
    answer = openmeter("GET", f"{PATH}/calls/history?{span}=2036-03-15T12:00:00Z")
    assert (answer.status, "more than 10000" in answer.detail) == (400, True)
