"""Meters and their query in version 3: other names, ids only, decimal strings, days by local clocks."""

import pytest

METERS = "/api/v3/openmeter/meters"
TOKENS = {
    "key": "tokens",
    "name": "Tokens",
    "aggregation": "sum",
    "event_type": "request",
    "value_property": "$.tokens",
    "dimensions": {"model": "$.model", "region": "$.region"},
}


@pytest.fixture
def tokens(openmeter):
    answer = openmeter("POST", METERS, TOKENS)
    assert answer.status == 201, answer.body
    return answer.json


@pytest.fixture
def use(openmeter, event):
    sent = 0

    def use(*usages):
        """Each usage is a time (or None for now), a number of tokens and more data or a subject."""
        nonlocal sent
        events = []
        for time, tokens, data in usages:
            sent += 1
            subject = data.pop("subject", "acme")
            events.append(event(f"e{sent}", time=time, subject=subject, data=data | {"tokens": tokens}))
        assert openmeter("POST", "/api/v1/events", events).status == 204

    return use


def rows(openmeter, meter, **body):
    body = {name.rstrip("_"): value for name, value in body.items()}
    answer = openmeter("POST", f"{METERS}/{meter['id']}/query", body)
    assert answer.status == 200, answer.body
    return answer.json["data"]


def test_a_meter_is_made_shown_changed_and_deleted(openmeter, tokens):
    assert tokens == TOKENS | {
        "id": tokens["id"],
        "labels": {},
        "created_at": "2026-03-15T12:00:00Z",
        "updated_at": "2026-03-15T12:00:00Z",
    }
    one = f"{METERS}/{tokens['id']}"
    assert openmeter("GET", one).json == tokens
    assert openmeter("GET", "/api/v1/meters/tokens").json["aggregation"] == "SUM"
    change = {"name": "All tokens", "labels": {"env": "test"}, "dimensions": {"model": "$.model"}}
    changed = openmeter("PUT", one, change)
    assert (changed.status, changed.json) == (200, tokens | change)
    assert openmeter("DELETE", one).status == 204
    assert openmeter("GET", one).status == 404


def test_a_meter_counts_from_a_time(openmeter, use):
    body = TOKENS | {"aggregation": "count", "value_property": None, "events_from": "2026-03-15T11:00:00Z"}
    meter = openmeter("POST", METERS, {name: value for name, value in body.items() if value}).json
    assert meter["events_from"] == "2026-03-15T11:00:00Z"
    use(("2026-03-15T10:59:59Z", 1, {}), ("2026-03-15T11:00:00Z", 1, {}))
    assert rows(openmeter, meter)[0]["value"] == "1"


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"aggregation": "SUM"}, "aggregation", "Invalid enum value"),
        ({"key": "Tokens"}, "key", "matching regex"),
        ({"colour": "red"}, "body", "colour"),
        ({"labels": {"kong_x": "y"}}, "labels", "matching regex"),
        ({"labels": {"x": "y z"}}, "labels", "matching regex"),
        ({"name": ""}, "name", "length"),
    ],
)
def test_what_does_not_fit_the_description_is_named(openmeter, change, field, words):
    answer = openmeter("POST", METERS, TOKENS | change)
    assert answer.status == 400
    (parameter,) = answer.json["invalid_parameters"]
    assert (parameter["source"], words in parameter["reason"]) == ("body", True), parameter
    assert field in parameter["field"]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"value_property": "tokens"}, 400, "meter value property"),
        ({"dimensions": {"subject": "$.x"}}, 400, "dimension subject is reserved"),
        ({"dimensions": {"customer_id": "$.x"}}, 400, "dimension customer_id is reserved"),
    ],
)
def test_what_contradicts_a_rule_is_a_validation_error(openmeter, change, status, words):
    answer = openmeter("POST", METERS, TOKENS | change)
    assert (answer.status, words in answer.detail) == (status, True), answer.detail


def test_a_second_meter_of_one_key_conflicts(openmeter, tokens):
    assert openmeter("POST", METERS, TOKENS).status == 409


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_paths_take_ids_only(openmeter, tokens, method):
    body = {} if method == "PUT" else None
    answer = openmeter(method, f"{METERS}/tokens", body)
    assert (answer.status, answer.json["invalid_parameters"][0]["field"]) == (400, "meterId")
    assert openmeter(method, f"{METERS}/01G65Z755AFWAKHE12NY0CQ9FH", body).status == 404


def test_meters_are_listed_by_page_order_and_filter(openmeter, clock):
    for key in ("b", "c", "a"):
        openmeter("POST", METERS, TOKENS | {"key": key, "name": key.upper() * 2})
        clock.move(seconds=1)

    def keys(query=""):
        page = openmeter("GET", f"{METERS}?{query}").json
        return [each["key"] for each in page["data"]]

    assert keys() == ["b", "c", "a"]
    assert keys("sort=key") == ["a", "b", "c"]
    assert keys("sort=name+desc") == ["c", "b", "a"]
    assert keys("filter[key]=c") == keys("filter[name][contains]=cc") == ["c"]
    assert keys("filter[key][oeq]=a,b&sort=key") == ["a", "b"]
    page = openmeter("GET", f"{METERS}?page[size]=2&page[number]=2").json
    assert page["meta"] == {"page": {"size": 2, "number": 2, "total": 3}}
    assert [each["key"] for each in page["data"]] == ["a"]
    for query in ("page[size]=0", "page[number]=x", "sort=colour", "filter[id]=x"):
        assert openmeter("GET", f"{METERS}?{query}").status == 400


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2], "0.30000000000000004"),
        ([2000], "2000"),
        ([1e21, 1], "1000000000000000000000"),
        ([1.5e-7], "0.00000015"),
        ([-0.25], "-0.25"),
        ([1e300], "1" + "0" * 300),
    ],
)
def test_values_are_decimal_strings_without_an_exponent(openmeter, tokens, use, values, expected):
    use(*[("2026-03-15T10:00:00Z", value, {}) for value in values])
    (row,) = rows(openmeter, tokens)
    assert len(row["value"]) == len(expected)
    assert float(row["value"]) == float(expected)
    assert row["dimensions"] == {}


def test_dimensions_subject_and_customer_stand_together(openmeter, tokens, use):
    customer = openmeter("POST", "/api/v1/customers", {"name": "Acme", "key": "acme"}).json
    use((None, 1, {"model": "a"}), (None, 2, {"model": "b"}), (None, 4, {"model": "a", "subject": "x"}))
    shown = rows(openmeter, tokens, group_by_dimensions=["model", "subject"])
    found = {tuple(sorted(row["dimensions"].items())): row["value"] for row in shown}
    assert found == {
        (("model", "a"), ("subject", "acme")): "1",
        (("model", "b"), ("subject", "acme")): "2",
        (("model", "a"), ("subject", "x")): "4",
    }
    filters = {"dimensions": {"customer_id": {"eq": customer["id"]}}}
    (row,) = rows(openmeter, tokens, filters=filters)
    assert (row["value"], row["dimensions"]) == ("3", {"customer_id": customer["id"]})


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"eq": "a"}, 1),
        ({"neq": "a"}, 30),
        ({"in": ["a", "b"]}, 3),
        ({"nin": ["a", "b"]}, 28),
        ({"contains": "X"}, 12),
        ({"ncontains": "x"}, 19),
        ({"exists": True}, 31),
        ({"or": [{"eq": "a"}, {"contains": "y"}]}, 9),
        ({"and": [{"contains": "x"}, {"contains": "y"}]}, 8),
        ({}, 31),
    ],
)
def test_dimensions_are_filtered_by_every_operator(openmeter, tokens, use, condition, expected):
    use(
        *[(None, 2**number, {"model": model}) for number, model in enumerate(["a", "b", "xx", "xy"])],
        (None, 16, {}),
    )
    (row,) = rows(openmeter, tokens, filters={"dimensions": {"model": condition}})
    assert row["value"] == str(expected)


def test_subjects_are_filtered_and_grouped(openmeter, tokens, use):
    use(*[(None, 2**number, {"subject": subject}) for number, subject in enumerate("abc")])
    shown = rows(openmeter, tokens, filters={"dimensions": {"subject": {"in": ["a", "c"]}}})
    assert {row["dimensions"]["subject"]: row["value"] for row in shown} == {"a": "1", "c": "4"}


@pytest.mark.parametrize(
    ("zone", "before", "after", "starts"),
    [
        (
            "Europe/Berlin",
            "2026-03-28T22:59:59Z",
            "2026-03-29T21:59:59Z",
            ["2026-03-27T23:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"],
        ),
        (
            "Europe/Berlin",
            "2026-10-24T21:59:59Z",
            "2026-10-25T22:59:59Z",
            ["2026-10-23T22:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"],
        ),
        (
            "America/Santiago",  # its days begin with the hour that is skipped
            "2026-09-06T03:59:59Z",
            "2026-09-07T02:59:59Z",
            ["2026-09-05T04:00:00Z", "2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
        ),
    ],
)
def test_days_have_23_or_25_hours_where_clocks_change(openmeter, tokens, use, zone, before, after, starts):
    use((starts[0], 1, {}), (before, 2, {}), (starts[1], 4, {}), (after, 8, {}), (starts[2], 16, {}))
    shown = rows(openmeter, tokens, granularity="P1D", time_zone=zone)
    assert [(row["from"], row["value"]) for row in shown] == list(zip(starts, ["3", "12", "16"], strict=True))
    assert [row["to"] for row in shown[:2]] == starts[1:]


def test_hours_and_months_follow_the_local_clock_too(openmeter, tokens, use):
    use(
        ("2026-10-25T00:30:00Z", 1, {}),  # 02:30, and an hour later 02:30 again
        ("2026-10-25T01:30:00Z", 2, {}),
        ("2026-10-31T22:59:59Z", 4, {}),
        ("2026-10-31T23:00:00Z", 8, {}),
    )
    query = {"granularity": "PT1H", "time_zone": "Europe/Berlin", "to": "2026-10-26T00:00:00Z"}
    hours = rows(openmeter, tokens, **query)
    assert [(row["from"], row["value"]) for row in hours] == [
        ("2026-10-25T00:00:00Z", "1"),
        ("2026-10-25T01:00:00Z", "2"),
    ]
    months = rows(openmeter, tokens, granularity="P1M", time_zone="Europe/Berlin")
    assert [(row["from"], row["to"], row["value"]) for row in months] == [
        ("2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z", "7"),
        ("2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", "8"),
    ]


def test_the_range_is_told_as_it_was_asked_for(openmeter, tokens, use):
    use(("2026-03-15T10:30:00Z", 1, {}), ("2026-03-15T11:00:00Z", 2, {}))
    body = {"from": "2026-03-15T11:00:00+01:00", "to": "2026-03-15T11:00:00Z"}
    answer = openmeter("POST", f"{METERS}/{tokens['id']}/query", body).json
    assert answer == {
        "from": "2026-03-15T10:00:00Z",
        "to": "2026-03-15T11:00:00Z",
        "data": [
            {
                "value": "1",
                "from": "2026-03-15T10:00:00Z",
                "to": "2026-03-15T11:00:00Z",
                "dimensions": {},
            }
        ],
    }


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"time_zone": "Mars/Base"}, 400, "invalid_time_zone"),
        ({"group_by_dimensions": ["colour"]}, 400, "invalid_group_by"),
        ({"filters": {"dimensions": {"colour": {"eq": "red"}}}}, 400, "invalid_dimension_filter"),
        ({"filters": {"dimensions": {"subject": {"neq": "x"}}}}, 400, "unsupported_filter_operator"),
        ({"filters": {"dimensions": {"model": {"like": "x"}}}}, 400, "invalid_filter"),
        ({"filters": {"dimensions": {"model": {"eq": "x", "neq": "y"}}}}, 400, "invalid_filter"),
        (
            {"filters": {"dimensions": {"customer_id": {"eq": "01G65Z755AFWAKHE12NY0CQ9FH"}}}},
            404,
            "customer_not_found",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_says_which_rule_it_breaks(openmeter, tokens, body, status, code):
    answer = openmeter("POST", f"{METERS}/{tokens['id']}/query", body)
    assert answer.status == status
    (issue,) = answer.json["extensions"]["validationErrors"]
    assert (issue["code"], issue["severity"]) == (code, "critical")
    assert issue["field"]


@pytest.mark.parametrize(
    "body",
    [
        {"granularity": "P1W"},
        {"colour": "red"},
        {"filters": {"colour": {}}},
        {"filters": {"dimensions": None}},
        {"filters": {"dimensions": {str(number): {} for number in range(11)}}},
        {"group_by_dimensions": ["model"] * 101},
        {"from": "today"},
    ],
)
def test_a_question_that_does_not_fit_the_description_is_refused(openmeter, tokens, body):
    answer = openmeter("POST", f"{METERS}/{tokens['id']}/query", body)
    assert (answer.status, answer.json["invalid_parameters"][0]["source"]) == (400, "body")


def test_the_same_in_csv(openmeter, tokens, use):
    customer = openmeter("POST", "/api/v1/customers", {"name": "Acme, Inc.", "key": "acme"}).json
    use(("2026-03-15T10:00:00Z", 1.5, {"model": "a"}))
    body = {
        "granularity": "PT1M",
        "group_by_dimensions": ["model", "subject"],
        "filters": {"dimensions": {"customer_id": {"eq": customer["id"]}}},
    }
    answer = openmeter("POST", f"{METERS}/{tokens['id']}/query", body, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["content-disposition"] == "attachment; filename=tokens.csv"
    assert answer.body.decode().splitlines() == [
        "from,to,subject,customer_id,customer_key,customer_name,model,value",
        f'2026-03-15T10:00:00Z,2026-03-15T10:01:00Z,acme,{customer["id"]},acme,"Acme, Inc.",a,1.5',
    ]
