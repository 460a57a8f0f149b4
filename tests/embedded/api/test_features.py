"""Features over the API."""

import pytest


@pytest.fixture
def meter(openmeter):
    made = {
        "slug": "tokens",
        "aggregation": "SUM",
        "eventType": "request",
        "valueProperty": "$.tokens",
        "groupBy": {"model": "$.model", "kind": "$.kind"},
    }
    assert openmeter("POST", "/api/v1/meters", made).status == 200
    return made


def create(openmeter, **fields):
    return openmeter("POST", "/api/v1/features", {"key": "gpt-tokens", "name": "Tokens"} | fields)


def test_a_feature_is_created_and_found_by_id_and_by_key(openmeter, meter):
    answer = create(openmeter, meterSlug="tokens", metadata={"a": "b"})
    assert answer.status == 201
    feature = answer.json
    assert feature["createdAt"] == feature["updatedAt"] == "2026-03-15T12:00:00Z"
    assert {
        "key": "gpt-tokens",
        "name": "Tokens",
        "meterSlug": "tokens",
        "metadata": {"a": "b"},
    }.items() <= feature.items()
    assert "archivedAt" not in feature
    for name in (feature["id"], "gpt-tokens"):
        assert openmeter("GET", f"/api/v1/features/{name}").json == feature


def test_both_forms_of_filters_are_answered_whichever_was_given(openmeter, meter):
    simple = create(openmeter, meterSlug="tokens", meterGroupByFilters={"model": "gpt-4"}).json
    assert simple["advancedMeterGroupByFilters"] == {"model": {"$eq": "gpt-4"}}
    advanced = {"model": {"$in": ["gpt-4", "o1"]}, "kind": {"$eq": "input"}}
    both = create(openmeter, key="other", meterSlug="tokens", advancedMeterGroupByFilters=advanced).json
    assert both["advancedMeterGroupByFilters"] == advanced
    assert both["meterGroupByFilters"] == {"kind": "input"}


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        ({"key": "With Spaces"}, 400, "$.key"),
        ({"key": "x" * 65}, 400, "$.key"),
        ({"key": "01g65z755afwakhe12ny0cq9fh"}, 400, "form of an id"),
        ({"name": 5}, 400, "$.name"),
        ({"meterSlug": "unknown"}, 404, "meter not found: unknown"),
        ({"meterSlug": "mean"}, 400, "aggregation AVG"),
        ({"meterSlug": "tokens", "meterGroupByFilters": {"region": "eu"}}, 400, "no groupBy region"),
        ({"meterSlug": "tokens", "advancedMeterGroupByFilters": {"model": {"$near": "x"}}}, 400, "$near"),
        ({"meterGroupByFilters": {"model": "x"}}, 400, "need a meterSlug"),
        ({"metadata": {"a": 1}}, 400, "$.metadata"),
    ],
)
def test_what_cannot_be_a_feature_is_refused(openmeter, meter, fields, status, detail):
    mean = {"slug": "mean", "aggregation": "AVG", "eventType": "request", "valueProperty": "$.tokens"}
    openmeter("POST", "/api/v1/meters", mean)
    answer = create(openmeter, **fields)
    assert answer.status == status
    assert detail in answer.detail


def test_a_key_is_taken_until_its_feature_is_archived(openmeter):
    first = create(openmeter).json
    assert create(openmeter).status == 409
    assert openmeter("DELETE", "/api/v1/features/gpt-tokens").status == 204
    assert openmeter("GET", "/api/v1/features/gpt-tokens").status == 404
    assert openmeter("DELETE", "/api/v1/features/gpt-tokens").status == 404
    second = create(openmeter).json
    assert openmeter("GET", "/api/v1/features/gpt-tokens").json["id"] == second["id"]
    assert openmeter("GET", f"/api/v1/features/{first['id']}").json["archivedAt"] == "2026-03-15T12:00:00Z"


def test_the_list_is_bare_unless_a_page_is_asked_for_and_ordered_by_key(openmeter, meter):
    for key in ("b", "c", "a"):
        create(openmeter, key=key, **({"meterSlug": "tokens"} if key == "b" else {}))
    openmeter("DELETE", "/api/v1/features/c")
    assert [each["key"] for each in openmeter("GET", "/api/v1/features").json] == ["a", "b"]
    archived = openmeter("GET", "/api/v1/features?includeArchived=true&order=DESC")
    assert [each["key"] for each in archived.json] == ["c", "b", "a"]
    assert [each["key"] for each in openmeter("GET", "/api/v1/features?meterSlug=tokens").json] == ["b"]
    assert [each["key"] for each in openmeter("GET", "/api/v1/features?limit=1&offset=1").json] == ["b"]
    page = openmeter("GET", "/api/v1/features?page=2&pageSize=1").json
    assert (page["totalCount"], page["page"], page["pageSize"]) == (2, 2, 1)
    assert [each["key"] for each in page["items"]] == ["b"]
    for wrong in ("page=0", "pageSize=1001", "orderBy=color", "includeArchived=maybe"):
        assert openmeter("GET", f"/api/v1/features?{wrong}").status == 400


def test_a_meter_is_kept_while_a_feature_needs_it(openmeter, meter):
    create(openmeter, meterSlug="tokens", meterGroupByFilters={"model": "gpt-4"})
    assert openmeter("DELETE", "/api/v1/meters/tokens").status == 409
    fewer = {"name": "tokens", "groupBy": {"kind": "$.kind"}}
    assert openmeter("PUT", "/api/v1/meters/tokens", fewer).status == 409
    openmeter("DELETE", "/api/v1/features/gpt-tokens")
    assert openmeter("DELETE", "/api/v1/meters/tokens").status == 204


def test_features_are_still_there_after_a_restart(openmeter, meter):
    made = create(openmeter, meterSlug="tokens", unitCost={"type": "manual", "amount": "0.01"}).json
    assert made["unitCost"] == {"type": "manual", "amount": "0.01"}
    openmeter.restart()
    assert openmeter("GET", "/api/v1/features").json == [made]
