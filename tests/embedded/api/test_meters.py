"""Making, changing and listing meters."""

from __future__ import annotations

import pytest

TOKENS = {
    "slug": "tokens-total",
    "aggregation": "SUM",
    "eventType": "request",
    "valueProperty": "$.tokens",
    "groupBy": {"model": "$.model", "part": '$["a part"][0]'},
}


def test_a_new_meter_is_answered_with_200_and_shown_by_id_and_slug(openmeter):
    answer = openmeter("POST", "/api/v1/meters", {**TOKENS, "description": "All", "metadata": {"team": "a"}})
    assert answer.status == 200
    meter = answer.json
    assert meter == {
        **TOKENS,
        "id": meter["id"],
        "name": "tokens-total",
        "description": "All",
        "metadata": {"team": "a"},
        "createdAt": "2026-03-15T12:00:00Z",
        "updatedAt": "2026-03-15T12:00:00Z",
    }
    openmeter.restart()
    assert openmeter("GET", f"/api/v1/meters/{meter['id']}").json == meter
    assert openmeter("GET", "/api/v1/meters/tokens-total").json == meter
    assert openmeter("GET", "/api/v1/meters").json == [meter]


def test_a_slug_is_given_once_until_its_meter_is_deleted(openmeter, clock):
    first = openmeter("POST", "/api/v1/meters", TOKENS).json
    answer = openmeter("POST", "/api/v1/meters", TOKENS)
    assert answer.status == 409
    assert answer.detail.startswith("conflict error: ")
    clock.move(minutes=1)
    assert openmeter("DELETE", "/api/v1/meters/tokens-total").status == 204
    assert openmeter("GET", "/api/v1/meters/tokens-total").status == 404
    second = openmeter("POST", "/api/v1/meters", TOKENS).json
    openmeter.restart()
    assert [meter["id"] for meter in openmeter("GET", "/api/v1/meters").json] == [second["id"]]
    every = openmeter("GET", "/api/v1/meters", query={"includeDeleted": "true", "orderBy": "createdAt"}).json
    assert [meter["id"] for meter in every] == [first["id"], second["id"]]
    assert every[0]["deletedAt"] == "2026-03-15T12:01:00Z"


def test_an_update_replaces_what_may_change_and_nothing_else(openmeter, clock):
    openmeter("POST", "/api/v1/meters", {**TOKENS, "description": "old", "metadata": {"a": "b"}})
    clock.move(seconds=1)
    change = {"name": "Tokens", "groupBy": {"region": "$.region"}}
    answer = openmeter("PUT", "/api/v1/meters/tokens-total", change)
    assert answer.status == 200
    meter = answer.json
    assert (meter["name"], meter["groupBy"]) == ("Tokens", {"region": "$.region"})
    assert meter["updatedAt"] == "2026-03-15T12:00:01Z"
    assert not {"description", "metadata"} & meter.keys()
    assert (meter["slug"], meter["valueProperty"]) == ("tokens-total", "$.tokens")
    openmeter.restart()
    assert openmeter("GET", "/api/v1/meters/tokens-total").json == meter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slug": "Upper"}, "slug"),
        ({"slug": "a__b"}, "slug"),
        ({"slug": "a\n"}, "slug"),
        ({"slug": "x" * 65}, "slug"),
        ({"slug": None}, "slug"),
        ({"aggregation": "MEDIAN"}, "MEDIAN"),
        ({"eventType": ""}, "eventType"),
        ({"valueProperty": None}, "meter value property is required when the aggregation is not count"),
        ({"aggregation": "COUNT"}, "meter value property is not allowed when the aggregation is count"),
        ({"valueProperty": "tokens"}, "meter value property must start with $"),
        ({"valueProperty": "$..tokens"}, "is not understood from character 2"),
        ({"groupBy": {"a-b": "$.x"}}, "meter group by key a-b is invalid"),
        ({"groupBy": {"a": "x"}}, "meter group by value must start with $ for key a"),
        ({"groupBy": {"a": "$.tokens"}}, "meter group by value a cannot be the same as value property"),
        ({"groupBy": {"a": "$.x", "b": "$.x"}}, "meter group by values must be unique"),
        ({"description": ""}, "description must not be empty"),
    ],
)
def test_a_meter_that_cannot_measure_is_a_400_that_says_why(openmeter, change, message):
    given = {name: value for name, value in (TOKENS | change).items() if value is not None}
    answer = openmeter("POST", "/api/v1/meters", given)
    assert answer.status == 400
    assert message in answer.detail
    assert openmeter("GET", "/api/v1/meters").json == []


def test_a_body_that_is_no_json_or_not_said_to_be_is_a_400(openmeter):
    assert openmeter("POST", "/api/v1/meters", b"{").status == 400
    assert openmeter("POST", "/api/v1/meters", TOKENS, headers={"Content-Type": "text/plain"}).status == 400


def test_an_unknown_meter_is_a_404_and_an_impossible_name_a_400(openmeter):
    for method, rest, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("PUT", "", {}),
        ("GET", "/query", None),
    ):
        answer = openmeter(method, f"/api/v1/meters/nobody{rest}", body)
        assert (answer.status, answer.detail) == (404, "not found error: meter not found: nobody")
        assert openmeter(method, f"/api/v1/meters/NO_BODY{rest}", body).status == 400


def test_meters_are_listed_by_slug_or_as_asked(openmeter):
    for slug, type_ in (("b", "z"), ("a", "y")):
        openmeter("POST", "/api/v1/meters", {"slug": slug, "aggregation": "COUNT", "eventType": type_})
    assert [meter["slug"] for meter in openmeter("GET", "/api/v1/meters").json] == ["a", "b"]
    answer = openmeter("GET", "/api/v1/meters", query={"order": "DESC", "orderBy": "name"})
    assert [meter["slug"] for meter in answer.json] == ["b", "a"]
    assert openmeter("GET", "/api/v1/meters", query={"orderBy": "size"}).status == 400


def test_a_meter_that_a_feature_uses_stays(openmeter):
    openmeter("POST", "/api/v1/meters", TOKENS)
    feature = {
        "key": "gpt",
        "name": "GPT",
        "meterSlug": "tokens-total",
        "meterGroupByFilters": {"model": "gpt"},
    }
    assert openmeter("POST", "/api/v1/features", feature).status == 201
    assert openmeter("DELETE", "/api/v1/meters/tokens-total").status == 409
    assert openmeter("PUT", "/api/v1/meters/tokens-total", {"groupBy": {"part": "$.part"}}).status == 409
    assert openmeter("PUT", "/api/v1/meters/tokens-total", {"groupBy": {"model": "$.m"}}).status == 200
