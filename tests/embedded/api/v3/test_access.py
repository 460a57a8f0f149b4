"""Entitlement access in version 3: of one customer, and of many at once with the reason for each denial."""

import pytest

QUERY = "/api/v3/openmeter/entitlement-access/query"


@pytest.fixture
def acme(openmeter):
    """A customer with a metered, a static and a boolean entitlement, and a feature it has not."""
    openmeter("POST", "/api/v1/meters", {"slug": "calls", "aggregation": "COUNT", "eventType": "request"})
    for key, more in (("calls", {"meterSlug": "calls"}), ("models", {}), ("sso", {}), ("audit", {})):
        openmeter("POST", "/api/v1/features", {"key": key, "name": key} | more)
    customer = {"name": "Acme", "key": "acme", "usageAttribution": {"subjectKeys": ["s1", "s2"]}}
    made = openmeter("POST", "/api/v1/customers", customer).json
    metered = {"type": "metered", "usagePeriod": {"interval": "DAY"}, "issueAfterReset": 2}
    for feature, body in (
        ("sso", {"type": "boolean"}),
        ("calls", metered),
        ("models", {"type": "static", "config": '{"a":1}'}),
    ):
        path = "/api/v2/customers/acme/entitlements"
        assert openmeter("POST", path, body | {"featureKey": feature}).status == 201
    return made


def ask(openmeter, *keys, features=None, query=""):
    body = {"customer": {"keys": list(keys)}} | ({"feature": {"keys": features}} if features else {})
    answer = openmeter("POST", f"{QUERY}{query}", body)
    assert answer.status == 200, answer.body
    return answer.json


def use(openmeter, event, count, subject="acme"):
    events = [event(f"{subject}{number}", subject=subject, time=None) for number in range(count)]
    assert openmeter("POST", "/api/v1/events", events).status == 204


def test_a_customers_access_is_listed_by_feature(openmeter, acme, event):
    path = f"/api/v3/openmeter/customers/{acme['id']}/entitlement-access"
    expected = [
        {"type": "metered", "feature_key": "calls", "has_access": True},
        {"type": "static", "feature_key": "models", "has_access": True, "config": '{"a":1}'},
        {"type": "boolean", "feature_key": "sso", "has_access": True},
    ]
    assert openmeter("GET", path).json == {"data": expected}
    use(openmeter, event, 2)
    expected[0]["has_access"] = False
    assert openmeter("GET", path).json == {"data": expected}


def test_one_customer_is_named_by_its_id_and_must_be_there(openmeter, acme):
    path = "/api/v3/openmeter/customers/{}/entitlement-access"
    answer = openmeter("GET", path.format("acme"))
    assert (answer.status, answer.json["invalid_parameters"][0]["field"]) == (400, "customerId")
    assert openmeter("GET", path.format("01G65Z755AFWAKHE12NY0CQ9FH")).status == 404
    for feature in ("calls", "models", "sso"):
        openmeter("DELETE", f"/api/v2/customers/acme/entitlements/{feature}")
    assert openmeter("GET", path.format(acme["id"])).json == {"data": []}
    openmeter("DELETE", "/api/v1/customers/acme")
    assert openmeter("GET", path.format(acme["id"])).status == 412


def test_many_are_asked_at_once_and_each_denial_has_its_reason(openmeter, acme, event):
    use(openmeter, event, 2, "s2")
    shown = ask(openmeter, "acme", "nobody", features=["calls", "sso", "models", "audit", "nothing"])
    (result,) = shown["data"]
    reasons = {key: access.get("reason", {}).get("code") for key, access in result["features"].items()}
    assert reasons == {
        "calls": "usage_limit_reached",
        "sso": None,
        "models": None,
        "audit": "feature_unavailable",
        "nothing": "feature_not_found",
    }
    assert [access["has_access"] for access in result["features"].values()] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert all(access["reason"]["message"] for access in result["features"].values() if "reason" in access)
    assert shown["errors"] == [
        {"code": "customer_not_found", "message": "customer not found", "customer": "nobody"}
    ]
    assert result["updated_at"] == "2026-03-15T12:00:00Z"
    assert result["customer"] == {
        "id": acme["id"],
        "key": "acme",
        "name": "Acme",
        "usage_attribution": {"subject_keys": ["s1", "s2"]},
        "created_at": "2026-03-15T12:00:00Z",
        "updated_at": "2026-03-15T12:00:00Z",
    }


def test_without_features_named_all_that_are_not_archived_are_told(openmeter, acme):
    openmeter("DELETE", "/api/v1/features/audit")
    (result,) = ask(openmeter, "acme")["data"]
    assert sorted(result["features"]) == ["calls", "models", "sso"]


def test_keys_and_subjects_of_one_customer_are_one_result(openmeter, acme):
    (result,) = ask(openmeter, "s2", "acme", "s1", "s2")["data"]
    assert result["matched"] == ["s2", "acme", "s1", "s2"]


def test_customers_come_in_pages_in_both_directions(openmeter, acme, clock):
    for number in range(4):
        clock.move(seconds=0.4)
        openmeter("POST", "/api/v1/customers", {"name": "C", "key": f"c{number}"})
    keys = ["c3", "c0", "acme", "c2", "c1"]
    whole = [result["customer"]["key"] for result in ask(openmeter, *keys)["data"]]
    assert sorted(whole) == sorted(keys)

    def page(query):
        shown = ask(openmeter, *keys, query=f"?page[size]=2{query}")
        return [result["customer"]["key"] for result in shown["data"]], shown["meta"]["page"]

    first, meta = page("")
    assert (first, meta["previous"]) == (whole[:2], None)
    second, meta = page(f"&page[after]={meta['next'].replace('=', '%3D')}")
    assert (second, meta["size"]) == (whole[2:4], 2)
    back, _ = page(f"&page[before]={meta['previous'].replace('=', '%3D')}")
    assert back == first
    third, meta = page(f"&page[after]={meta['next'].replace('=', '%3D')}")
    assert (third, meta["next"]) == (whole[4:], None)
    assert meta["first"] == meta["last"]


def test_nobody_known_is_an_answer_too(openmeter):
    shown = ask(openmeter, "nobody")
    assert shown["data"] == []
    assert shown["meta"] == {"page": {"next": None, "previous": None, "size": 100}}


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({}, ""),
        ({"customer": {"keys": []}}, ""),
        ({"customer": {"keys": ["x"] * 101}}, ""),
        ({"customer": {"keys": ["x"]}, "feature": {"keys": []}}, ""),
        ({"customer": {"keys": ["x"]}, "colour": "red"}, ""),
        ({"customer": {"keys": ["x"]}}, "?page[size]=101"),
        ({"customer": {"keys": ["x"]}}, "?page[after]=x"),
        ({"customer": {"keys": ["x"]}}, "?page[after]=x&page[before]=x"),
    ],
)
def test_a_question_that_does_not_fit_is_refused(openmeter, body, query):
    answer = openmeter("POST", f"{QUERY}{query}", body)
    assert (answer.status, len(answer.json["invalid_parameters"])) == (400, 1)


def test_credits_are_not_implemented(openmeter):
    answer = openmeter("POST", QUERY, {"customer": {"keys": ["x"]}, "include_credits": True})
    assert (answer.status, answer.detail) == (501, "include_credits is not implemented")
