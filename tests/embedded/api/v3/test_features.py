"""Features in version 3: the meter by id with its filters, a price that can be changed."""

import pytest

FEATURES = "/api/v3/openmeter/features"
FILTERS = {"model": {"in": ["gpt-4", "o1"]}, "kind": {"eq": "input"}}
MODEL_COST = {"type": "llm", "provider": "openai", "model_property": "model", "token_type": "input"}


@pytest.fixture
def meter(openmeter):
    answer = openmeter(
        "POST",
        "/api/v3/openmeter/meters",
        {
            "key": "tokens",
            "name": "Tokens",
            "aggregation": "sum",
            "event_type": "request",
            "value_property": "$.tokens",
            "dimensions": {"model": "$.model", "kind": "$.kind"},
        },
    )
    return answer.json


@pytest.fixture
def create(openmeter):
    def create(**fields):
        return openmeter("POST", FEATURES, {"key": "gpt-tokens", "name": "Tokens"} | fields)

    return create


@pytest.fixture
def keys(openmeter):
    """Lists features and answers their keys."""

    def keys(query=""):
        answer = openmeter("GET", f"{FEATURES}?{query}")
        assert answer.status == 200, answer.body
        return [feature["key"] for feature in answer.json["data"]]

    return keys


def test_a_feature_is_shown_with_all_that_was_given(openmeter, meter, create):
    given = {
        "key": "gpt-tokens",
        "name": "Tokens",
        "description": "Tokens of the large models",
        "labels": {"team": "ml"},
        "meter": {"id": meter["id"], "filters": FILTERS},
        "unit_cost": {"type": "manual", "amount": "0.002"},
    }
    answer = create(**given)
    created = "2026-03-15T12:00:00Z"
    assert (answer.status, answer.json) == (
        201,
        given | {"id": answer.json["id"], "created_at": created, "updated_at": created},
    )
    assert openmeter("GET", f"{FEATURES}/{answer.json['id']}").json == answer.json


def test_a_feature_without_a_meter_has_little_to_show(create):
    feature = create().json
    assert set(feature) == {"id", "key", "name", "labels", "created_at", "updated_at"}


def test_filters_are_the_same_in_both_versions_and_in_both_forms(openmeter, meter, create):
    create(meter={"id": meter["id"], "filters": FILTERS})
    older = openmeter("GET", "/api/v1/features/gpt-tokens").json
    assert older["meterSlug"] == "tokens"
    assert older["advancedMeterGroupByFilters"] == {
        "model": {"$in": ["gpt-4", "o1"]},
        "kind": {"$eq": "input"},
    }
    assert older["meterGroupByFilters"] == {"kind": "input"}

    simple = {"key": "simple", "name": "S", "meterSlug": "tokens", "meterGroupByFilters": {"model": "o1"}}
    made = openmeter("POST", "/api/v1/features", simple).json
    newer = openmeter("GET", f"{FEATURES}/{made['id']}").json
    assert newer["meter"] == {"id": meter["id"], "filters": {"model": {"eq": "o1"}}}


def test_filters_may_be_nested(openmeter, meter, create):
    nested = {"model": {"and": [{"neq": "o1"}, {"or": [{"contains": "gpt"}, {"nin": ["o3"]}]}]}}
    feature = create(meter={"id": meter["id"], "filters": nested}).json
    assert feature["meter"]["filters"] == nested
    older = openmeter("GET", "/api/v1/features/gpt-tokens").json
    assert older["advancedMeterGroupByFilters"] == {
        "model": {"$and": [{"$ne": "o1"}, {"$or": [{"$contains": "gpt"}, {"$nin": ["o3"]}]}]}
    }


def test_the_price_is_changed_kept_and_taken_away(openmeter, clock, create):
    feature = create(unit_cost={"type": "manual", "amount": "0.5"}).json
    one = f"{FEATURES}/{feature['id']}"
    clock.move(minutes=1)
    changed = openmeter("PATCH", one, {"unit_cost": MODEL_COST})
    assert (changed.status, changed.json["unit_cost"]) == (200, MODEL_COST)
    assert changed.json["updated_at"] == "2026-03-15T12:01:00Z"
    assert openmeter("PATCH", one, {}).json == changed.json
    assert "unit_cost" not in openmeter("PATCH", one, {"unit_cost": None}).json
    assert openmeter("PATCH", one, {"name": "Other"}).status == 400


def test_a_deleted_feature_is_found_but_not_listed_and_its_key_is_free(openmeter, create, keys):
    feature = create().json
    one = f"{FEATURES}/{feature['id']}"
    assert openmeter("DELETE", one).status == 204
    assert openmeter("GET", one).json["deleted_at"] == "2026-03-15T12:00:00Z"
    assert keys() == []
    assert create().status == 201


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"key": "With Spaces"}, 400),
        ({"name": ""}, 400),
        ({"meter_slug": "tokens"}, 400),
        ({"meter": {"id": "01G65Z755AFWAKHE12NY0CQ9FH"}}, 404),
        ({"unit_cost": {"type": "free"}}, 400),
        ({"unit_cost": {"type": "manual", "amount": "much"}}, 400),
    ],
)
def test_what_is_no_feature_is_refused(create, fields, status):
    assert create(**fields).status == status


@pytest.mark.parametrize(
    "filters",
    [
        {"region": {"eq": "eu"}},
        {"model": {"near": "x"}},
        {"model": {"$eq": "x"}},
        {"model": {"and": [{"near": "x"}]}},
        {"model": {"in": "x"}},
        {"model": {"and": "x"}},
        {"model": {"and": ["x"]}},
        {"model": "x"},
    ],
)
def test_what_is_no_filter_is_refused(meter, create, filters):
    answer = create(meter={"id": meter["id"], "filters": filters})
    assert answer.status == 400, answer.body


def test_a_key_is_taken_once(create):
    create()
    assert create().status == 409


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_path_takes_only_ids(openmeter, create, method):
    create()
    body = {} if method == "PATCH" else None
    answer = openmeter(method, f"{FEATURES}/gpt-tokens", body)
    assert answer.status == 400
    assert answer.json["invalid_parameters"][0]["field"] == "featureId"
    assert openmeter(method, f"{FEATURES}/01G65Z755AFWAKHE12NY0CQ9FH", body).status == 404


def test_features_are_listed_in_pages_sorted_and_filtered(openmeter, meter, create, keys):
    create(key="b", name="Beta", meter={"id": meter["id"]})
    create(key="a", name="Alpha")
    create(key="c", name="Gamma", meter={"id": meter["id"]})
    answer = openmeter("GET", f"{FEATURES}?page[size]=2").json
    assert [feature["key"] for feature in answer["data"]] == ["b", "a"]
    assert answer["meta"] == {"page": {"size": 2, "number": 1, "total": 3}}
    assert keys("sort=key desc") == ["c", "b", "a"]
    assert keys(f"filter[meter_id]={meter['id']}") == ["b", "c"]
    assert keys("filter[name][contains]=alph") == ["a"]
    assert keys("filter[key][oeq]=a,c") == ["a", "c"]
    assert openmeter("GET", f"{FEATURES}?filter[price]=1").status == 400
