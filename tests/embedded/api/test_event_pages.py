"""All events page by page, and narrowed by a filter."""

from __future__ import annotations

import base64
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metergate.embedded.domain import filters, time_filters
from metergate.embedded.domain.cursors import Cursor, decode_cursor

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
START = datetime(2026, 3, 15, 10, tzinfo=UTC)
UNKNOWN = "01G65Z755AFWAKHE12NY0CQ9FH"


def ingest(openmeter: Any, *events: Any) -> None:
    assert openmeter("POST", "/api/v1/events", list(events), headers=BATCH).status == 204


def page(openmeter: Any, condition: Any = None, **query: Any) -> tuple[list[Any], str | None]:
    if condition is not None:
        query["filter"] = msgspec.json.encode(condition).decode()
    answer = openmeter("GET", "/api/v2/events", query=query)
    assert answer.status == 200, answer.body
    assert answer.json.keys() <= {"items", "nextCursor"}
    return answer.json["items"], answer.json.get("nextCursor")


def pages(openmeter: Any, condition: Any = None, **query: Any) -> list[str]:
    """The ids of the events on all pages."""
    found, cursor = page(openmeter, condition, **query)
    ids = [item["event"]["id"] for item in found]
    return ids if cursor is None else ids + pages(openmeter, condition, **(query | {"cursor": cursor}))


def test_an_event_is_shown_as_in_version_1(openmeter, event):
    ingest(openmeter, event("1"), event("2", data=None, subject="it's", time=None))
    items, cursor = page(openmeter)
    assert items == openmeter("GET", "/api/v1/events").json
    assert cursor is None


def test_the_pages_together_show_every_event_once_and_those_that_come_meanwhile_shift_none(openmeter, event):
    times = ["2026-03-15T10:00:00Z"] * 5 + [
        "1999-01-01T00:00:00Z",
        "2026-03-15T09:00:00Z",
        "2040-01-01T00:00:00Z",
    ]
    ingest(openmeter, *(event(str(number), time=time) for number, time in enumerate(times)))
    items, cursor = page(openmeter, limit=3)
    assert [item["event"]["id"] for item in items] == ["7", "4", "3"]
    ingest(openmeter, event("new", time="2041-01-01T00:00:00Z"), event("same", time=times[0]))
    assert pages(openmeter, limit=3, cursor=cursor) == ["2", "1", "0", "6", "5"]
    openmeter.restart()
    assert pages(openmeter, limit=3, cursor=cursor) == ["2", "1", "0", "6", "5"]


def test_a_full_last_page_is_followed_by_an_empty_one(openmeter, event):
    ingest(openmeter, event("1"), event("2"))
    items, cursor = page(openmeter, limit=2)
    assert (len(items), cursor is None) == (2, False)
    assert page(openmeter, limit=2, cursor=cursor) == ([], None)
    assert len(page(openmeter)[0]) == 2


def test_a_cursor_is_the_time_and_the_number_of_the_last_event(openmeter, event):
    ingest(openmeter, event("1"), event("2"))
    _, cursor = page(openmeter, limit=1)
    assert base64.b64decode(cursor) == b"2026-03-15T10:00:00Z,1"


def test_a_filter_of_the_time_of_ingestion_orders_by_it(openmeter, event, clock):
    for number, time in enumerate(("2026-03-15T10:00:00Z", "2026-03-15T09:00:00Z", "2026-03-15T11:00:00Z")):
        ingest(openmeter, event(str(number), time=time))
        clock.move(microseconds=500_000)
    everything = {"ingestedAt": {"$gte": "2026-03-15T12:00:00Z"}}
    assert pages(openmeter, everything, limit=1) == ["2", "1", "0"]
    assert pages(openmeter, {"ingestedAt": {"$gt": "2026-03-15T12:00:00.4Z"}}, limit=1) == ["2", "1"]
    assert pages(openmeter, limit=1) == ["2", "0", "1"]


def test_a_filter_of_customers_shows_the_events_of_all_their_subjects(openmeter, event):
    ingest(openmeter, *(event(subject, subject=subject) for subject in ("acme", "s1", "other", "stranger")))
    ids = {}
    for key, subjects in (("acme", ["s1"]), ("other", [])):
        customer = {"name": key, "key": key, "usageAttribution": {"subjectKeys": subjects}}
        ids[key] = openmeter("POST", "/api/v1/customers", customer).json["id"]
    assert sorted(pages(openmeter, {"customerId": {"$in": [ids["acme"]]}})) == ["acme", "s1"]
    assert sorted(pages(openmeter, {"customerId": {"$in": list(ids.values())}})) == ["acme", "other", "s1"]
    assert pages(openmeter, {"customerId": {"$in": [ids["acme"]]}, "subject": {"$ne": "acme"}}) == ["s1"]
    assert pages(openmeter, {"customerId": {"$in": []}}) == []
    assert len(pages(openmeter, {"customerId": {}})) == 4


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": 0}, "number must be at least 1"),
        ({"limit": 101}, "number must be at most 100"),
        ({"clientId": ""}, "minimum string length is 1"),
        ({"filter": "{"}, 'parameter "filter" in query has an error'),
        ({"filter": "[]"}, 'parameter "filter" in query has an error'),
        ({"filter": '{"id": {"$eq": "a", "$ne": "b"}}'}, "id: filter is invalid: multiple operators are set"),
        ({"filter": '{"id": {"$eq": ""}}'}, "id: filter is invalid"),
        ({"filter": '{"id": 5, "type": {"$x": 1}}'}, "type: filter is invalid: unknown operator $x"),
        ({"filter": '{"type": {"$and": [{"$or": [{"$eq": "a"}]}]}}'}, "type: filter complexity exceeds"),
        ({"filter": '{"time": {"$gt": "now"}}'}, "time: 'now' is no RFC 3339 date-time"),
        ({"filter": '{"time": {"$gt": 5}}'}, "time: filter is invalid: $gt needs an RFC 3339 date-time"),
        ({"filter": '{"time": {"$like": "x"}}'}, "time: filter is invalid: unknown operator $like"),
        ({"filter": '{"time": {"$and": []}}'}, "time: filter is invalid: $and needs a list"),
        ({"filter": '{"time": {"$and": [{"$or": [{}]}]}}'}, "time: filter complexity exceeds"),
        (
            {
                "filter": '{"time": {"$gt": "2026-01-01T00:00:00Z"}, "ingestedAt": {"$gt": "2026-01-01T00:00:00Z"}}'
            },
            "time and ingested_at cannot both be set",
        ),
        ({"filter": '{"customerId": {"$in": ["acme"]}}'}, "customerId: filter is invalid: format mismatch"),
        ({"filter": '{"customerId": {"$ne": "acme"}}'}, "customer id filter supports only eq or in"),
        (
            {"filter": f'{{"customerId": {{"$eq": "{UNKNOWN}"}}}}'},
            f"customers not found in namespace default: {UNKNOWN}",
        ),
        ({"cursor": ""}, "text is empty"),
        ({"cursor": "*"}, "decode cursor"),
        ({"cursor": "YQ=="}, "no delimiter found"),
        ({"cursor": "YSxi"}, "parse cursor timestamp"),
        (
            {"cursor": base64.b64encode(b"2026-01-01T00:00:00Z,x").decode()},
            "its id is not one of this server",
        ),
    ],
)
def test_what_does_not_fit_is_a_400_that_says_why(openmeter, query, message):
    answer = openmeter("GET", "/api/v2/events", query=query)
    assert answer.status == 400
    assert message in answer.detail


@given(st.datetimes(timezones=st.just(UTC)), st.integers(0, 10**18 - 1))
def test_a_cursor_is_read_as_it_was_written(time, number):
    assert decode_cursor(Cursor(time, number).encode()) == Cursor(time, number)


words = st.sampled_from(["a", "b", "ab", "B"])
comparisons = st.sampled_from(["$eq", "$ne", "$gt", "$lte", "$contains", "$nlike"])
leaves = st.builds(lambda operator, word: {operator: word}, comparisons, words) | st.builds(
    lambda chosen: {"$in": chosen}, st.lists(words, max_size=2)
)
moments = st.integers(0, 3).map(
    lambda hours: (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z")
)
time_leaves = st.builds(
    lambda operator, moment: {operator: moment}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), moments
)


def grouped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.builds(
        lambda operator, conditions: {operator: conditions},
        st.sampled_from(["$and", "$or"]),
        st.lists(inner, min_size=1, max_size=3),
    )
    return inner | several


conditions = st.fixed_dictionaries(
    {},
    optional={
        "id": grouped(leaves),
        "subject": grouped(leaves),
        "type": leaves,
        "time": grouped(time_leaves),
    },
)
examples = itertools.count()
"""Each example has a source of its own, so that those before it do not matter."""
stored = st.lists(st.tuples(words, words, moments), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=stored, condition=conditions, limit=st.integers(1, 5))
def test_the_pages_show_what_passes_the_filter_newest_first(openmeter, event, rows, condition, limit):
    source = f"source-{next(examples)}"
    sent = [
        event(f"{subject}{number}", source=source, subject=subject, type=type_, time=time)
        for number, (subject, type_, time) in enumerate(rows)
    ]
    ingest(openmeter, *sent)
    texts = {name: filters.parse_filter(each) for name, each in condition.items() if name != "time"}
    time = time_filters.parse_time_filter(condition.get("time", {}), depth=1)
    wanted = [
        (each["time"], number, each["id"])
        for number, each in enumerate(sent)
        if all(
            each_filter is None or filters.matches(each_filter, each[name])
            for name, each_filter in texts.items()
        )
        and (time is None or time_filters.matches(time, datetime.fromisoformat(each["time"])))
    ]
    found = pages(openmeter, condition | {"source": {"$eq": source}}, limit=limit)
    assert found == [row[-1] for row in sorted(wanted, reverse=True)]
