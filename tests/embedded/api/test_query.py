"""Asking meters."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec
import pytest

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
DAY = {"from": "2026-03-15T00:00:00Z", "to": "2026-03-16T00:00:00Z"}


@pytest.fixture
def measured(openmeter, event):
    """Meters of all aggregations over five events; the meters are made after their events."""
    sent = [
        event("1", subject="a", time="2026-03-15T08:10:10Z", data={"n": 1, "model": "x", "user": "u1"}),
        event("2", subject="a", time="2026-03-15T08:59:59Z", data={"n": "2.5", "model": "y", "user": "u2"}),
        event("3", subject="b", time="2026-03-15T09:00:00Z", data={"n": 4, "model": "x", "user": "u1"}),
        event("4", subject="b", time="2026-03-15T09:00:00Z", data={"n": "many", "user": None}),
        event("5", subject="c", time="2026-03-15T09:30:00Z", data=None),
        event("6", subject="a", time="2026-03-15T09:30:00Z", type="other"),
    ]
    assert openmeter("POST", "/api/v1/events", sent, headers=BATCH).status == 204
    for aggregation in ("SUM", "AVG", "MIN", "MAX", "LATEST", "COUNT", "UNIQUE_COUNT"):
        meter = {
            "slug": aggregation.lower(),
            "aggregation": aggregation,
            "eventType": "request",
            "groupBy": {"model": "$.model"},
        }
        if aggregation != "COUNT":
            meter["valueProperty"] = "$.user" if aggregation == "UNIQUE_COUNT" else "$.n"
        assert openmeter("POST", "/api/v1/meters", meter).status == 200
    return openmeter


def query(openmeter: Any, slug: str, **parameters: Any) -> Any:
    answer = openmeter("GET", f"/api/v1/meters/{slug}/query", query=parameters)
    assert answer.status == 200, answer.body
    return answer.json


def values(openmeter: Any, slug: str, **parameters: Any) -> list[float]:
    return [row["value"] for row in query(openmeter, slug, **parameters)["data"]]


@pytest.mark.parametrize(
    ("slug", "value"),
    # the event without data has no user: the empty string is a value of its own, null is none
    [("sum", 7.5), ("avg", 2.5), ("min", 1), ("max", 4), ("latest", 4), ("count", 5), ("unique_count", 3)],
)
def test_each_aggregation_counts_events_that_were_there_before_the_meter(measured, slug, value):
    assert values(measured, slug) == [value]


def test_without_window_a_row_spans_its_events_by_the_minute_or_what_was_asked(measured):
    (row,) = query(measured, "sum")["data"]
    assert row == {
        "value": 7.5,
        "windowStart": "2026-03-15T08:10:00Z",
        "windowEnd": "2026-03-15T09:31:00Z",
        "subject": None,
        "groupBy": {},
    }
    answer = query(measured, "sum", **DAY)
    assert (answer["from"], answer["to"]) == (DAY["from"], DAY["to"])
    assert (answer["data"][0]["windowStart"], answer["data"][0]["windowEnd"]) == (DAY["from"], DAY["to"])
    assert "windowSize" not in answer


def test_windows_are_those_with_events_and_are_not_clipped_to_the_range(measured):
    answer = query(measured, "count", windowSize="HOUR", **{"from": "2026-03-15T08:30:00Z"})
    assert answer["windowSize"] == "HOUR"
    assert [(row["windowStart"], row["windowEnd"], row["value"]) for row in answer["data"]] == [
        ("2026-03-15T08:00:00Z", "2026-03-15T09:00:00Z", 1),
        ("2026-03-15T09:00:00Z", "2026-03-15T10:00:00Z", 3),
    ]
    assert len(query(measured, "count", windowSize="MINUTE")["data"]) == 4


def test_the_range_is_compared_by_the_second_to_exclusive(measured):
    assert values(measured, "count", **{"from": "2026-03-15T08:10:10.9Z", "to": "2026-03-15T09:00:00Z"}) == [
        2
    ]
    assert values(measured, "count", to="2026-03-15T09:00:01Z") == [4]


def test_a_filtered_subject_is_grouped_by_too_and_rows_come_last_subject_first(measured):
    rows = query(measured, "sum", subject=["a", "b", "nobody"])["data"]
    assert [(row["subject"], row["value"]) for row in rows] == [("b", 4), ("a", 3.5)]
    rows = query(measured, "count", groupBy="subject")["data"]
    assert [(row["subject"], row["value"]) for row in rows] == [("c", 1), ("b", 2), ("a", 2)]


def test_a_missing_dimension_is_the_empty_string(measured):
    rows = query(measured, "count", groupBy=["model", "subject"])["data"]
    found = {(row["subject"], row["groupBy"]["model"]): row["value"] for row in rows}
    assert found == {("a", "x"): 1, ("a", "y"): 1, ("b", "x"): 1, ("b", ""): 1, ("c", ""): 1}


def test_dimensions_are_filtered_by_value_or_by_a_condition(measured):
    assert values(measured, "count", **{"filterGroupBy[model]": "x"}) == [2]
    condition = msgspec.json.encode({"model": {"$or": [{"$like": "y%"}, {"$eq": "x"}]}}).decode()
    assert values(measured, "count", advancedMeterGroupByFilters=condition) == [3]
    body = {"filterGroupBy": {"model": ["x", "y"]}, "groupBy": ["model"], "windowSize": "DAY"}
    rows = measured("POST", "/api/v1/meters/count/query", body).json["data"]
    assert [(row["groupBy"], row["value"]) for row in rows] == [({"model": "x"}, 2), ({"model": "y"}, 1)]


def test_without_events_counts_are_0_and_other_values_are_missing(measured):
    empty = {"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"}
    for slug in ("count", "unique_count"):
        (row,) = query(measured, slug, **empty)["data"]
        assert (row["value"], row["windowStart"], row["windowEnd"]) == (0, empty["from"], empty["to"])
        assert query(measured, slug, groupBy="model", **empty)["data"] == []
        assert query(measured, slug, windowSize="DAY", **empty)["data"] == []
    assert query(measured, "sum", **empty)["data"] == []
    assert values(measured, "count", to="2020-01-01T00:00:00Z") == [0]


def test_a_group_without_a_valid_value_is_left_out(measured):
    assert [row["subject"] for row in query(measured, "sum", groupBy="subject")["data"]] == ["b", "a"]


def test_latest_is_the_last_stored_of_one_second(measured, event):
    late = [event(f"l{n}", time="2026-03-15T11:00:00Z", data={"n": n}) for n in (7, 3)]
    measured("POST", "/api/v1/events", late, headers=BATCH)
    assert values(measured, "latest") == [3]


def test_a_meter_counts_from_its_event_from_on(measured):
    meter = {
        "slug": "young",
        "aggregation": "COUNT",
        "eventType": "request",
        "eventFrom": "2026-03-15T09:00:00Z",
    }
    measured("POST", "/api/v1/meters", meter)
    assert values(measured, "young") == [3]
    assert values(measured, "young", **DAY) == [3]
    assert values(measured, "young", **{"from": "2026-03-15T09:15:00Z"}) == [1]


def test_days_and_months_follow_the_clocks_of_the_time_zone(openmeter, event):
    openmeter("POST", "/api/v1/meters", {"slug": "count", "aggregation": "COUNT", "eventType": "request"})
    # in Berlin summer time begins at 2026-03-29 02:00 and ends at 2026-10-25 03:00
    for index, time in enumerate(
        [
            "2026-03-28T22:59:59Z",
            "2026-03-28T23:00:00Z",
            "2026-03-29T21:59:59Z",
            "2026-03-29T22:00:00Z",
            "2026-10-24T22:00:00Z",
            "2026-10-25T22:59:59Z",
            "2026-10-31T23:00:00Z",
        ]
    ):
        openmeter("POST", "/api/v1/events", event(str(index), time=time))
    rows = query(openmeter, "count", windowSize="DAY", windowTimeZone="Europe/Berlin")["data"]
    assert [(row["windowStart"], row["windowEnd"], row["value"]) for row in rows] == [
        ("2026-03-27T23:00:00Z", "2026-03-28T23:00:00Z", 1),
        ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 2),
        ("2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z", 1),
        ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 2),
        ("2026-10-31T23:00:00Z", "2026-11-01T23:00:00Z", 1),
    ]
    rows = query(openmeter, "count", windowSize="MONTH", windowTimeZone="Europe/Berlin")["data"]
    assert [(row["windowStart"], row["windowEnd"], row["value"]) for row in rows] == [
        ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", 4),
        ("2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z", 2),
        ("2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", 1),
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"groupBy": "region"}, "validation error: invalid group by: region"),
        ({"groupBy": "customer_id"}, "customer filter is required with customer_id group by"),
        ({"filterGroupBy[region]": "x"}, "invalid group by filter: region"),
        ({"filterGroupBy[]x": "x"}, 'parameter "filterGroupBy" in query has an error: malformed'),
        ({"filterGroupBy[": "x"}, "write filterGroupBy[key]=value"),
        ({"filterGroupBy[]": "x"}, "malformed: filterGroupBy[]"),
        ({"filterGroupBy[model": "x"}, "malformed: filterGroupBy[model;"),
        ({"filterGroupBy[model][$eq]": "x"}, "malformed"),
        ({"filterGroupBy[model]": ["x", "y"]}, "multiple values for filterGroupBy[model]"),
        ({"from": [DAY["from"], DAY["to"]]}, "multiple values for single value parameter 'from'"),
        ({"windowSize": ["DAY", "HOUR"]}, "multiple values"),
        ({"windowTimeZone": "Mars/Base"}, "invalid time zone: unknown time zone Mars/Base"),
        ({"windowTimeZone": "../etc/passwd"}, "invalid time zone"),
        ({"windowSize": "SECOND"}, "value is not one of the allowed values"),
        ({"from": DAY["to"], "to": DAY["from"]}, "from must be before to"),
        ({"from": DAY["to"], "to": DAY["to"]}, "from and to cannot be equal"),
        ({"advancedMeterGroupByFilters": "["}, "must be a JSON object"),
        ({"advancedMeterGroupByFilters": '{"model": {"$eq": ""}}'}, "needs a string that is not empty"),
        (
            {"advancedMeterGroupByFilters": '{"model": {"$eq": "x", "$ne": "y"}}'},
            "multiple operators are set",
        ),
        (
            {"advancedMeterGroupByFilters": '{"model": {"$eq": "x"}}', "filterGroupBy[model]": "x"},
            "cannot be used together",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_is_a_400_that_says_why(measured, parameters, message):
    answer = measured("GET", "/api/v1/meters/sum/query", query=parameters)
    assert answer.status == 400
    assert message in answer.detail


def test_the_same_is_asked_by_post(measured):
    body = {
        **DAY,
        "subject": ["a"],
        "groupBy": ["model"],
        "windowSize": "DAY",
        "windowTimeZone": "UTC",
        "advancedMeterGroupByFilters": {"model": {"$in": ["x", "y"]}},
    }
    answer = measured("POST", "/api/v1/meters/sum/query", body)
    assert answer.status == 200
    assert [(row["groupBy"], row["subject"], row["value"]) for row in answer.json["data"]] == [
        ({"model": "x"}, "a", 1),
        ({"model": "y"}, "a", 2.5),
    ]
    assert measured("POST", "/api/v1/meters/sum/query", {"windowSize": "YEAR"}).status == 400


def test_customers_filter_and_group_by_all_that_is_theirs(measured):
    ids = {}
    for key, subjects in (("acme", ["a", "c"]), ("b", [])):
        customer = {"name": key, "key": key, "usageAttribution": {"subjectKeys": subjects}}
        answer = measured("POST", "/api/v1/customers", customer)
        assert answer.status == 201, answer.body
        ids[key] = answer.json["id"]
    rows = query(measured, "count", filterCustomerId=list(ids.values()))["data"]
    assert {row["customerId"]: row["value"] for row in rows} == {ids["acme"]: 3, ids["b"]: 2}
    answer = measured(
        "GET", "/api/v1/meters/count/query", query={"filterCustomerId": "01G65Z755AFWAKHE12NY0CQ9FH"}
    )
    assert answer.status == 404
    listed = measured("GET", "/api/v1/events", query={"customerId": ids["acme"]}).json
    assert sorted(item["event"]["id"] for item in listed) == ["1", "2", "5", "6"]
    assert {item["customerId"] for item in listed} == {ids["acme"]}


def test_csv_is_given_to_who_asks_for_it(measured):
    answer = measured(
        "GET", "/api/v1/meters/sum/query?groupBy=subject&groupBy=model", headers={"Accept": "text/csv"}
    )
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["content-disposition"] == "attachment; filename=sum.csv"
    assert answer.body.decode() == (
        "window_start,window_end,subject,model,value\n"
        "2026-03-15T09:00:00Z,2026-03-15T09:01:00Z,b,x,4.000000\n"
        "2026-03-15T08:10:00Z,2026-03-15T08:11:00Z,a,x,1.000000\n"
        "2026-03-15T08:59:00Z,2026-03-15T09:00:00Z,a,y,2.500000\n"
    )
    plain = measured("GET", "/api/v1/meters/sum/query", headers={"Accept": "text/csv"}).body.decode()
    assert plain.splitlines()[0] == "window_start,window_end,value"
    measured("POST", "/api/v1/subjects", [{"key": "a", "displayName": "Able, Inc."}])
    named = measured(
        "GET", "/api/v1/meters/sum/query?subject=a", headers={"Accept": "text/csv"}
    ).body.decode()
    assert named == (
        "window_start,window_end,subject,subject_display_name,value\n"
        '2026-03-15T08:10:00Z,2026-03-15T09:00:00Z,a,"Able, Inc.",3.500000\n'
    )


def test_csv_quotes_what_would_break_a_row_or_lose_a_space(openmeter, event):
    openmeter("POST", "/api/v1/meters", {"slug": "count", "aggregation": "COUNT", "eventType": "request"})
    subjects = [" led by a space", 'a "b", c', "lines\r\nand\rmore", "plain one", "\\."]
    sent = [event(str(number), subject=subject) for number, subject in enumerate(subjects)]
    openmeter("POST", "/api/v1/events", sent, headers=BATCH)
    answer = openmeter("GET", "/api/v1/meters/count/query?groupBy=subject", headers={"Accept": "text/csv"})
    rows = list(csv.reader(io.StringIO(answer.body.decode(), newline="")))
    assert sorted(row[2] for row in rows[1:]) == sorted(subjects)
    for written in (
        '," led by a space",',
        ',"a ""b"", c",',
        ',"lines\r\nand\rmore",',
        ",plain one,",
        ',"\\.",',
    ):
        assert written in answer.body.decode()


def test_the_subjects_and_the_values_of_a_dimension_are_listed(measured):
    assert measured("GET", "/api/v1/meters/count/subjects").json == ["a", "b", "c"]
    assert measured("GET", "/api/v1/meters/count/subjects", query={"from": "2026-03-15T09:00:00Z"}).json == [
        "b",
        "c",
    ]
    assert measured("GET", "/api/v1/meters/count/group-by/model/values").json == ["x", "y"]


@pytest.mark.parametrize(
    ("dimension", "parameters"),
    [
        ("region", {}),
        ("model", {"from": "2025-12-01T00:00:00Z"}),
        ("model", {"from": "2026-01-15T00:00:00Z"}),
        ("model", {"from": "2026-03-15T00:00:00Z", "to": "2026-03-14T00:00:00Z"}),
        ("model", {"to": "0001-01-01T00:00:00Z"}),
    ],
)
def test_values_are_listed_of_known_dimensions_over_a_bounded_range(measured, dimension, parameters):
    target = f"/api/v1/meters/count/group-by/{dimension}/values"
    assert measured("GET", target, query=parameters).status == 400


@pytest.mark.parametrize("window", ["HOUR", "DAY", "MONTH"])
def test_a_question_over_the_whole_calendar_is_answered_like_one_without_bounds(measured, window):
    calendar = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}
    local = {"windowSize": window, "windowTimeZone": "Europe/Berlin"}
    assert query(measured, "count", **local, **calendar)["data"] == query(measured, "count", **local)["data"]


def test_a_moment_beyond_the_calendar_is_a_400(measured):
    beyond = "0001-01-01T00:00:00+14:00"
    for method, body, parameters in (("POST", {"from": beyond}, {}), ("GET", None, {"from": beyond})):
        answer = measured(method, "/api/v1/meters/count/query", body, query=parameters)
        assert answer.status == 400
        assert "outside of the years 1 to 9999" in answer.detail
    meter = {"slug": "young", "aggregation": "COUNT", "eventType": "request", "eventFrom": beyond}
    assert measured("POST", "/api/v1/meters", meter).status == 400


def test_an_answer_of_many_rows_is_answered_in_both_versions(measured, event):
    sent = [event(f"m{number}", subject=f"s{number:04}", data={"n": number}) for number in range(1_100)]
    assert measured("POST", "/api/v1/events", sent, headers=BATCH).status == 204
    first = [(row["subject"], row["value"]) for row in query(measured, "max", groupBy="subject")["data"]]
    path = f"/api/v3/openmeter/meters/{measured('GET', '/api/v1/meters/max').json['id']}/query"
    answer = measured("POST", path, {"group_by_dimensions": ["subject"]})
    assert sorted(first)[-1_100:] == [(f"s{number:04}", number) for number in range(1_100)]
    assert len(answer.json["data"]) == len(first) == 1_102
