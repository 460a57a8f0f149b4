"""Ingest and event list of version 3: 202, unknown attributes refused, pages in either direction of time."""

from datetime import timedelta

import pytest

PATH = "/api/v3/openmeter/events"


def send(openmeter, body, content_type="application/cloudevents-batch+json"):
    return openmeter("POST", PATH, body, headers={"Content-Type": content_type})


def listed(openmeter, **query):
    answer = openmeter("GET", PATH, query={name.replace("__", "["): value for name, value in query.items()})
    assert answer.status == 200, answer.body
    return answer.json


def names(openmeter, query=""):
    answer = openmeter("GET", f"{PATH}?{query}")
    assert answer.status == 200, answer.body
    return [each["event"]["id"] for each in answer.json["data"]]


@pytest.mark.parametrize(
    ("content_type", "several"),
    [
        ("application/cloudevents+json", False),
        ("application/cloudevents-batch+json; charset=utf-8", True),
        ("application/json", False),
        ("Application/JSON; charset=utf-8", True),
    ],
)
def test_events_are_accepted_with_202_also_with_parameters_of_the_media_type(
    openmeter, event, content_type, several
):
    answer = send(openmeter, [event("1")] if several else event("1"), content_type)
    assert (answer.status, answer.body) == (202, b"")
    assert names(openmeter) == ["1"]


def test_what_version_1_took_is_the_same_event_here(openmeter, event):
    openmeter("POST", "/api/v1/events", event("1", data={"tokens": 1}))
    assert send(openmeter, [event("1", data={"tokens": 2})]).status == 202
    (shown,) = listed(openmeter)["data"]
    assert shown["event"]["data"] == {"tokens": 1}


@pytest.mark.parametrize(
    ("body", "content_type", "field", "words"),
    [
        ([{"id": "1"}], "application/json", "0.source", "missing"),
        ({"extension": "x"}, "application/json", "extension", "unsupported"),
        ([{}, {"extension": "x"}], "application/cloudevents-batch+json", "1.extension", "unsupported"),
        ({"data": "text"}, "application/cloudevents+json", "data", "object"),
        ([], "application/json", "body", "no events found"),
        (b"{", "application/json", "body", "decode"),
        ({}, "text/plain", "Content-Type", "invalid content type"),
    ],
)
def test_what_is_wrong_with_events_is_said_field_by_field(openmeter, event, body, content_type, field, words):
    if isinstance(body, list) and body != [{"id": "1"}]:
        body = [event(str(number)) | each for number, each in enumerate(body)]
    elif isinstance(body, dict):
        body = event("1") | body
    answer = send(openmeter, body, content_type)
    assert answer.status == 400
    (parameter,) = answer.json["invalid_parameters"]
    assert (parameter["field"], words in parameter["reason"], parameter["source"]) == (field, True, "body")
    assert answer.json["title"] == "Bad Request"
    assert answer.json["instance"].startswith("urn:request:")
    assert names(openmeter) == []


def test_an_event_is_shown_with_its_customer_and_why_nothing_counts_it(openmeter, event, clock):
    customer = {"name": "Acme", "key": "acme"}
    identifier = openmeter("POST", "/api/v1/customers", customer).json["id"]
    send(openmeter, [event("1", time="2026-03-15T10:00:00Z"), event("2", subject="x", time=None, data=None)])
    second, first = listed(openmeter)["data"]
    assert first == {
        "event": {
            "specversion": "1.0",
            "id": "1",
            "source": "tests",
            "type": "request",
            "subject": "acme",
            "time": "2026-03-15T10:00:00Z",
            "datacontenttype": "application/json",
            "data": {"tokens": 1},
        },
        "customer": {"id": identifier},
        "validation_errors": [
            {"code": "validation_error", "message": "no meter found for event type: request"}
        ],
        "ingested_at": "2026-03-15T12:00:00Z",
        "stored_at": "2026-03-15T12:00:00Z",
    }
    assert not {"data", "datacontenttype"} & second["event"].keys()
    assert "customer" not in second
    assert len(second["validation_errors"]) == 2


@pytest.fixture
def ten(openmeter, event, clock):
    """Events 0 to 9, one an hour, stored in the opposite order, one a minute."""
    for number in reversed(range(10)):
        time = f"2026-03-15T{number:02}:00:00Z"
        body = event(str(number), time=time, subject=f"s{number % 3}", type="a" if number < 5 else "b")
        assert send(openmeter, [body]).status == 202
        clock.move(minutes=1)


@pytest.mark.parametrize("sort", ["", "time", "time asc", "ingested_at", "stored_at asc"])
def test_pages_follow_each_other_whatever_the_order(openmeter, ten, sort):
    seen, query = [], f"page[size]=4&sort={sort.replace(' ', '+')}"
    after = ""
    while True:
        page = openmeter("GET", f"{PATH}?{query}{after}").json
        seen += [each["event"]["id"] for each in page["data"]]
        meta = page["meta"]["page"]
        assert (meta["size"], meta["previous"]) == (4, None)
        if meta["next"] is None:
            break
        assert meta["next"] == meta["last"]
        after = f"&page[after]={meta['next'].replace('=', '%3D')}"
    ascending = [str(number) for number in range(10)]
    assert seen == (ascending if sort in ("time asc", "ingested_at") else ascending[::-1])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("filter[subject]=s1", "741"),
        ("filter[subject][eq]=s1", "741"),
        ("filter[subject][neq]=s1", "9865320"),
        ("filter[subject][oeq]=s1,%20s2", "875421"),
        ("filter[id][gte]=7&filter[id][lt]=9", "87"),
        ("filter[type][contains]=B", "98765"),
        ("filter[type][ocontains]=x,B", "98765"),
        ("filter[source][exists]=", "9876543210"),
        ("filter[source][nexists]=", ""),
        ("filter[time][gt]=2026-03-15T07:00:00Z", "98"),
        ("filter[time][gte]=2026-03-15T02:00:00Z&filter[time][lte]=2026-03-15T03:00:00Z", "32"),
        ("filter[time]=2026-03-15T04:00:00Z", "4"),
        ("filter[ingested_at][lt]=2026-03-15T12:02:00Z", "98"),
        ("filter[time][lt]=2026-03-15T09:00:00Z&filter[stored_at][lt]=2026-03-15T12:02:00Z", "8"),
        ("filter[subject]=s1&filter[type]=a&sort=time+asc", "14"),
    ],
)
def test_the_list_is_narrowed(openmeter, ten, query, expected):
    assert "".join(names(openmeter, query)) == expected


def test_the_list_of_a_customer_has_the_events_of_its_subjects(openmeter, ten):
    customer = {"name": "A", "usageAttribution": {"subjectKeys": ["s1"]}}
    one = openmeter("POST", "/api/v1/customers", customer).json["id"]
    other = openmeter("POST", "/api/v1/customers", {"name": "B", "key": "s2"}).json["id"]
    assert names(openmeter, f"filter[customer_id][eq]={one}") == ["7", "4", "1"]
    assert names(openmeter, f"filter[customer_id][oeq]={one},{other}") == ["8", "7", "5", "4", "2", "1"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page[size]=0", "page[size]"),
        ("page[size]=101", "page[size]"),
        ("page[before]=x", "page[before]"),
        ("page[after]=x", "page[after]"),
        ("filter[colour]=red", "filter"),
        ("filter[id][like]=x", "filter[id][like]"),
        ("filter[id][eq]=", "filter[id][eq]"),
        ("filter[id][eq]=1&filter[id][eq]=2", "filter[id][eq]"),
        ("filter[time][eq]=today", "filter[time][eq]"),
        ("filter[time][neq]=2026-03-15T04:00:00Z", "filter[time][neq]"),
        ("filter[customer_id][neq]=01G65Z755AFWAKHE12NY0CQ9FH", "filter[customer_id]"),
        ("filter[customer_id]=acme", "filter[customer_id]"),
        ("filter[id", "filter[id"),
        ("filter=x", "filter"),
        ("page=2", "page"),
        ("page[size", "page"),
        ("page[sise]=2", "page"),
        ("page[size]=2&page[size]=3", "page"),
        ("sort=time&sort=id", "sort"),
        ("sort=colour", "sort"),
        ("sort=time+up", "sort"),
        ("filter[id][oeq]=" + ",".join(map(str, range(51))), "filter[id][oeq]"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(openmeter, query, field):
    answer = openmeter("GET", f"{PATH}?{query}")
    assert answer.status == 400
    (parameter,) = answer.json["invalid_parameters"]
    assert (parameter["field"], parameter["source"]) == (field, "query")
    assert field in answer.detail


def test_the_list_reaches_back_to_the_first_event(openmeter, event, clock):
    time = (clock.now - timedelta(days=400)).strftime("%Y-%m-%dT%H:%M:%SZ")
    send(openmeter, [event("old", time=time)])
    assert names(openmeter) == ["old"]
