"""Taking events in and listing them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
SINGLE = {"Content-Type": "application/cloudevents+json"}


def ingest(openmeter: Any, *events: Any) -> None:
    answer = openmeter("POST", "/api/v1/events", list(events), headers=BATCH)
    assert answer.status == 204, answer.body
    assert answer.body == b""


def ids(openmeter: Any, **query: Any) -> list[str]:
    answer = openmeter("GET", "/api/v1/events", query=query)
    assert answer.status == 200, answer.body
    return [item["event"]["id"] for item in answer.json]


def test_all_three_media_types_take_events_in(openmeter, event):
    assert openmeter("POST", "/api/v1/events", event("1"), headers=SINGLE).status == 204
    assert openmeter("POST", "/api/v1/events", [event("2")], headers=BATCH).status == 204
    assert openmeter("POST", "/api/v1/events", event("3")).status == 204
    assert openmeter("POST", "/api/v1/events", [event("4"), event("5")]).status == 204
    assert sorted(ids(openmeter)) == ["1", "2", "3", "4", "5"]


def test_a_listed_event_is_what_was_sent_with_its_time_in_whole_seconds_of_utc(openmeter, event, clock):
    sent = event(time="2026-03-15T11:30:00.999+01:00", data={"n": 1.5, "s": "é\u0000'"}, comexample="dropped")
    ingest(openmeter, sent)
    (item,) = openmeter("GET", "/api/v1/events").json
    assert item["event"] == {
        "specversion": "1.0",
        "id": "1",
        "source": "tests",
        "type": "request",
        "subject": "acme",
        "time": "2026-03-15T10:30:00Z",
        "datacontenttype": "application/json",
        "data": {"n": 1.5, "s": "é\u0000'"},
    }
    assert item["ingestedAt"] == item["storedAt"] == "2026-03-15T12:00:00Z"


def test_numbers_are_listed_as_they_were_sent_and_measured_as_what_they_mean(openmeter, event):
    meter = {"slug": "tokens", "aggregation": "SUM", "eventType": "request", "valueProperty": "$.n"}
    assert openmeter("POST", "/api/v1/meters", meter).status == 200
    numbers = ["1e2", "-0", "1.10", "100.0", "12345678901234567890123", "0.30000000000000004"]
    for number in numbers:
        body = msgspec.json.encode(event(number, data={"n": msgspec.Raw(number.encode())}))
        spaced = body.replace(b'"data":{"n":', b'"data": {\n"n" : ')
        assert openmeter("POST", "/api/v1/events", spaced, headers=SINGLE).status == 204
    for path in ("/api/v1/events", "/api/v2/events", "/api/v3/openmeter/events"):
        listed = openmeter("GET", path).body
        assert all(b'"data":{"n":%s}' % number.encode() in listed for number in numbers), listed
    (row,) = openmeter("GET", "/api/v1/meters/tokens/query").json["data"]
    assert row["value"] == 1.2345678901234567e22


def test_an_event_without_time_gets_the_time_of_receipt_and_one_without_data_shows_none(openmeter, event):
    ingest(openmeter, event("a", time=None, data=None), {**event("b"), "time": None, "data": None})
    for item in openmeter("GET", "/api/v1/events").json:
        assert item["event"]["time"] == "2026-03-15T12:00:00Z"
        assert "data" not in item["event"]
        assert "datacontenttype" not in item["event"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, 'Error at "/1/id": property "id" is missing'),
        ({"subject": ""}, 'Error at "/1/subject": minimum string length is 1'),
        ({"type": 7}, 'Error at "/1/type": value must be a string'),
        ({"data": "text"}, 'Error at "/1/data": value must be an object'),
        ({"data": [1]}, 'Error at "/1/data": value must be an object'),
        ({"datacontenttype": "application/xml"}, 'Error at "/1/datacontenttype": value is not one of'),
        ({"time": "yesterday"}, 'Error at "/1/time": string doesn\'t match the format "date-time"'),
        ({"time": "2026-02-30T00:00:00Z"}, 'Error at "/1/time": string doesn\'t match the format'),
        ({"source": "1:2"}, "source is not a URI reference"),
        ({"specversion": "9"}, 'unknown spec version "9"'),
    ],
)
def test_one_wrong_event_turns_the_whole_batch_down_and_is_named(openmeter, event, change, message):
    bad = {name: value for name, value in (event("bad") | change).items() if value is not None}
    answer = openmeter("POST", "/api/v1/events", [event("good"), bad], headers=BATCH)
    assert answer.status == 400
    assert message in answer.detail
    assert ids(openmeter) == []


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b"[" * 5000, b'{"id": NaN}', b"\xff", b'"text"', b"7"])
def test_a_body_that_holds_no_events_is_a_400(openmeter, body):
    for media_type in (SINGLE, BATCH, {"Content-Type": "application/json"}):
        assert openmeter("POST", "/api/v1/events", body, headers=media_type).status == 400


def test_an_empty_list_is_no_events_found_but_an_empty_batch_is_fine(openmeter):
    answer = openmeter("POST", "/api/v1/events", [])
    assert (answer.status, answer.detail) == (400, "invalid event: no events found")
    assert openmeter("POST", "/api/v1/events", [], headers=BATCH).status == 204


def test_the_content_type_is_compared_as_it_stands(openmeter, event):
    for given in (
        "application/json; charset=utf-8",
        "application/cloudevents+json;charset=utf-8",
        "text/plain",
        "",
    ):
        answer = openmeter("POST", "/api/v1/events", event(), headers={"Content-Type": given})
        assert answer.status == 400
        assert "invalid content type" in answer.detail
    assert ids(openmeter) == []


def test_a_lone_surrogate_becomes_a_replacement_character_as_in_go(openmeter, event):
    body = msgspec.json.encode(event(subject="SUBJECT")).replace(b"SUBJECT", rb"a\ud800b")
    assert openmeter("POST", "/api/v1/events", body, headers=SINGLE).status == 204
    assert openmeter("GET", "/api/v1/events").json[0]["event"]["subject"] == "a\ufffdb"


def test_a_body_beyond_the_bound_is_413(openmeter, monkeypatch):
    monkeypatch.setattr("metergate.embedded.api.events.MAX_BODY", 1000)
    for length in (1001, 9000):
        answer = openmeter("POST", "/api/v1/events", b" " * length, headers=BATCH)
        assert (answer.status, answer.detail) == (413, "request body is longer than 1000 bytes")


def test_a_batch_of_20_megabytes_is_taken(openmeter, event):
    sent = [event(str(number), data={"text": "x" * 20_000}) for number in range(1000)]
    ingest(openmeter, *sent)
    assert len(ids(openmeter, limit=100)) == 100


def test_an_event_of_many_megabytes_is_kept(openmeter, event):
    ingest(openmeter, event(data={"text": "x" * 6_000_000}), event("2", data={"text": '"' * 4_000_000}))
    assert len(ids(openmeter)) == 2


def test_the_same_source_and_id_counts_once_whatever_else_differs(openmeter, event):
    ingest(openmeter, event("1", subject="first"), event("1", subject="second"))
    ingest(openmeter, event("1", subject="third", type="other"), event("1", source="elsewhere"))
    openmeter.restart()
    ingest(openmeter, event("1", subject="fourth"))
    found = openmeter("GET", "/api/v1/events").json
    assert sorted((item["event"]["source"], item["event"]["subject"]) for item in found) == [
        ("elsewhere", "acme"),
        ("tests", "first"),
    ]


def test_a_duplicate_is_known_for_32_days_from_first_sight(openmeter, event, clock):
    ingest(openmeter, event("1", time=None))
    clock.move(days=31, hours=23)
    ingest(openmeter, event("1", time=None))
    assert ids(openmeter) == ["1"]
    clock.move(hours=2)
    ingest(openmeter, event("1", time=None))
    openmeter.restart()
    ingest(openmeter, event("1", time=None))
    assert ids(openmeter, **{"from": "2026-03-16T00:00:00Z"}) == ["1"]


def test_requests_at_the_same_time_are_each_answered_after_their_events_are_there(openmeter, event):
    async def one(client: int) -> None:
        events = [event(f"{client}-{index}", time=None) for index in range(20)] + [event("shared", time=None)]
        answer = await openmeter.request("POST", "/api/v1/events", events, BATCH)
        assert answer.status == 204
        listed = await openmeter.request("GET", f"/api/v1/events?id={client}-19&limit=100")
        assert f"{client}-19" in [item["event"]["id"] for item in listed.json]

    async def all_clients() -> None:
        await asyncio.gather(*(one(client) for client in range(30)))

    openmeter.runner.run(all_clients())
    openmeter("POST", "/api/v1/meters", {"slug": "all", "aggregation": "COUNT", "eventType": "request"})
    assert openmeter("GET", "/api/v1/meters/all/query").json["data"][0]["value"] == 30 * 20 + 1


def test_the_list_is_newest_first_and_of_one_second_the_last_stored_first(openmeter, event):
    ingest(openmeter, event("b", time="2026-03-15T09:00:00Z"), event("a", time="2026-03-15T10:00:00Z"))
    ingest(openmeter, event("c", time="2026-03-15T10:00:00Z"))
    assert ids(openmeter) == ["c", "a", "b"]
    assert ids(openmeter, limit=1) == ["c"]


def test_the_list_takes_from_inclusively_and_to_exclusively(openmeter, event, clock):
    for hour in (8, 9, 10):
        ingest(openmeter, event(str(hour), time=f"2026-03-15T{hour:02}:00:00Z"))
    assert ids(openmeter, **{"from": "2026-03-15T09:00:00Z"}) == ["10", "9"]
    assert ids(openmeter, to="2026-03-15T10:00:00Z") == ["9", "8"]
    clock.move(hours=1)
    ingest(openmeter, event("later"))
    assert ids(openmeter, ingestedAtFrom="2026-03-15T13:00:00Z") == ["later"]
    assert ids(openmeter, ingestedAtTo="2026-03-15T13:00:00Z") == ["10", "9", "8"]


def test_the_list_reaches_32_days_back_and_not_further(openmeter, event):
    ingest(openmeter, event("old", time="2026-02-11T12:00:00Z"), event("young", time="2026-02-11T12:00:01Z"))
    assert ids(openmeter) == ["young"]
    answer = openmeter("GET", "/api/v1/events", query={"from": "2026-02-11T11:59:59Z"})
    assert answer.status == 400
    assert "from date is too old" in answer.detail


def test_the_list_finds_a_part_of_the_id_and_the_whole_subject(openmeter, event):
    ingest(
        openmeter, event("abc", subject="it's"), event("xbcy", subject="it"), event("%", subject='a "b" c')
    )
    assert sorted(ids(openmeter, id="bc")) == ["abc", "xbcy"]
    assert ids(openmeter, id="%") == ["%"]
    assert ids(openmeter, subject="it's") == ["abc"]
    assert ids(openmeter, subject='a "b" c') == ["%"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": 0}, "number must be at least 1"),
        ({"limit": 101}, "number must be at most 100"),
        ({"limit": "x"}, "an invalid integer"),
        ({"limit": "1_0"}, "an invalid integer"),
        ({"limit": "٣"}, "an invalid integer"),
        ({"limit": "9" * 5000}, "an invalid integer"),
        ({"from": "today"}, 'format "date-time"'),
        ({"clientId": "x" * 37}, "maximum string length is 36"),
        ({"customerId": "acme"}, "regular expression"),
        ({"customerId": "01G65Z755AFWAKHE12NY0CQ9FH"}, "customers not found"),
        ({"from": "2026-03-15T10:00:00Z", "to": "2026-03-15T09:00:00Z"}, "to date is before from date"),
    ],
)
def test_a_parameter_that_does_not_fit_is_a_400_that_says_why(openmeter, query, message):
    answer = openmeter("GET", "/api/v1/events", query=query)
    assert answer.status == 400
    assert message in answer.detail


def test_the_list_says_why_a_meter_finds_nothing_in_an_event(openmeter, event):
    meter = {"slug": "tokens", "aggregation": "SUM", "eventType": "request", "valueProperty": "$.tokens"}
    assert openmeter("POST", "/api/v1/meters", meter).status == 200
    cases = {
        "none": (None, "invalid event: null and missing value property"),
        "missing": ({"other": 1}, 'invalid event: missing value property: "$.tokens"'),
        "null": ({"tokens": None}, "invalid event: value cannot be null"),
        "word": ({"tokens": "many"}, "invalid event: value cannot be parsed as float64: many"),
        "nan": ({"tokens": "NaN"}, "invalid event: value cannot be NaN"),
        "infinite": ({"tokens": "-Inf"}, "invalid event: value cannot be infinity"),
        "bool": ({"tokens": True}, "invalid event: unsupported value property type: bool"),
        "fine": ({"tokens": "12.5"}, ""),
    }
    ingest(openmeter, *(event(name, data=data) for name, (data, _) in cases.items()))
    ingest(openmeter, event("foreign", type="other"))
    shown = {item["event"]["id"]: item["validationError"] for item in openmeter("GET", "/api/v1/events").json}
    nobody = "no customer found for event subject: acme"
    for name, (_, message) in cases.items():
        assert shown[name] == (f"{message}\n{nobody}" if message else nobody)
    assert shown["foreign"] == f"no meter found for event type: other\n{nobody}"


def test_times_that_openmeter_cannot_store_are_acknowledged_and_not_counted(openmeter, event, caplog):
    openmeter("POST", "/api/v1/meters", {"slug": "all", "aggregation": "COUNT", "eventType": "request"})
    outside = [
        "9999-12-31T23:59:59.999999Z",
        "2106-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
    ]
    inside = ["2105-12-31T23:59:59Z", "1970-01-01T00:00:01Z"]
    ingest(openmeter, *(event(time, time=time) for time in [*outside, *inside]))
    ingest(openmeter, event("9999", time=outside[0]))
    for query in ({}, {"windowSize": "MONTH", "windowTimeZone": "Asia/Tokyo"}):
        rows = openmeter("GET", "/api/v1/meters/all/query", query=query).json["data"]
        assert sum(row["value"] for row in rows) == 2
    assert "years 1970 to 2105: 4" in caplog.text
