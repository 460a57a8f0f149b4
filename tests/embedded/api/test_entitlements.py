"""Entitlements over the API: three kinds, by subject and by customer, made, listed, shown and deleted."""

import asyncio

import pytest

METERED = {"type": "metered", "featureKey": "api-request", "usagePeriod": {"interval": "MONTH"}}
BOOLEAN = {"type": "boolean", "featureKey": "sso"}
STATIC = {"type": "static", "featureKey": "models", "config": '{"models": ["gpt-4"]}'}
V1 = "/api/v1/subjects/s1/entitlements"
V2 = "/api/v2/customers/acme/entitlements"


@pytest.fixture
def acme(openmeter):
    """A customer with two subjects, three features, one of them metered."""
    meter = {"slug": "requests", "aggregation": "COUNT", "eventType": "request"}
    openmeter("POST", "/api/v1/meters", meter)
    for key, slug in (("api-request", "requests"), ("sso", None), ("models", None)):
        feature = {"key": key, "name": key} | ({"meterSlug": slug} if slug else {})
        assert openmeter("POST", "/api/v1/features", feature).status == 201
    customer = {"name": "Acme", "key": "acme", "usageAttribution": {"subjectKeys": ["s2", "s1"]}}
    return openmeter("POST", "/api/v1/customers", customer).json


def test_a_metered_entitlement_of_a_subject_is_shown_with_everything_it_means(openmeter, acme):
    answer = openmeter("POST", V1, METERED | {"issueAfterReset": 100, "metadata": {"a": "b"}})
    assert answer.status == 201
    feature = openmeter("GET", "/api/v1/features/api-request").json
    now = "2026-03-15T12:00:00Z"
    assert answer.json == {
        "id": answer.json["id"],
        "type": "metered",
        "subjectKey": "s1",
        "featureId": feature["id"],
        "featureKey": "api-request",
        "createdAt": now,
        "updatedAt": now,
        "activeFrom": now,
        "metadata": {"a": "b"},
        "isSoftLimit": False,
        "isUnlimited": False,
        "issueAfterReset": 100,
        "issueAfterResetPriority": 1,
        "preserveOverageAtReset": False,
        "measureUsageFrom": now,
        "lastReset": now,
        "usagePeriod": {"interval": "MONTH", "anchor": now, "intervalISO": "P1M"},
        "currentUsagePeriod": {"from": now, "to": "2026-04-15T12:00:00Z"},
    }
    assert openmeter("GET", f"{V1}/{answer.json['id']}").json == answer.json
    assert openmeter("GET", f"/api/v1/entitlements/{answer.json['id']}").json == answer.json


def test_version_2_names_the_customer_and_what_is_issued(openmeter, acme):
    body = METERED | {"issue": {"amount": 2.5, "priority": 9}, "usagePeriod": {"interval": "P2W"}}
    answer = openmeter("POST", V2, body)
    assert answer.status == 201
    shown = answer.json
    assert (shown["customerId"], shown["customerKey"]) == (acme["id"], "acme")
    assert shown["issue"] == {"amount": 2.5, "priority": 9}
    assert (shown["issueAfterReset"], shown["issueAfterResetPriority"]) == (2.5, 9)
    assert shown["usagePeriod"]["interval"] == shown["usagePeriod"]["intervalISO"] == "P2W"
    assert not {"subjectKey", "isUnlimited"} & shown.keys()
    for name in (shown["id"], "api-request"):
        assert openmeter("GET", f"{V2}/{name}").json == shown
    assert openmeter("GET", f"/api/v2/entitlements/{shown['id']}").json == shown


def test_static_and_boolean_ones_have_their_configuration_and_nothing_metered(openmeter, acme):
    static = openmeter("POST", V2, STATIC).json
    assert static["config"] == '{"models": ["gpt-4"]}'
    boolean = openmeter("POST", V1, BOOLEAN | {"usagePeriod": {"interval": "DAY"}}).json
    assert boolean["currentUsagePeriod"]["to"] == "2026-03-16T12:00:00Z"
    for shown in (static, boolean):
        assert not {"lastReset", "isSoftLimit", "issueAfterReset", "measureUsageFrom"} & shown.keys()


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"type": "boolean"}, 400, "either featureId or featureKey"),
        ({"type": "boolean", "featureKey": "unknown"}, 404, "feature not found: unknown"),
        ({"type": "boolean", "featureId": "01G65Z755AFWAKHE12NY0CQ9FH"}, 404, "feature not found"),
        ({"type": "unlimited", "featureKey": "sso"}, 400, "$.type"),
        (METERED | {"featureKey": "sso"}, 400, "has no meter"),
        ({"type": "metered", "featureKey": "api-request"}, 400, "usagePeriod is required"),
        (METERED | {"usagePeriod": {"interval": "PT30M"}}, 400, "at least PT1H"),
        (METERED | {"issueAfterReset": -1}, 400, "$.issueAfterReset"),
        (METERED | {"issueAfterReset": 1, "issueAfterResetPriority": 256}, 400, "$.issueAfterResetPriority"),
        (METERED | {"measureUsageFrom": "LATER"}, 400, "measureUsageFrom"),
        (STATIC | {"config": {"models": []}}, 400, "$.config"),
        (STATIC | {"config": "{"}, 400, "config"),
    ],
)
@pytest.mark.parametrize("path", [V1, V2])
def test_what_cannot_be_an_entitlement_is_refused(openmeter, acme, path, body, status, detail):
    answer = openmeter("POST", path, body)
    assert answer.status == status
    assert detail in answer.detail


def test_issue_after_reset_and_grants_exclude_each_other(openmeter, acme):
    grant = {"amount": 5, "effectiveAt": "2026-03-15T12:00:00Z"}
    assert openmeter("POST", V2, METERED | {"issue": {"amount": 1}, "grants": [grant]}).status == 400
    answer = openmeter("POST", V2, METERED | {"grants": [grant, grant | {"amount": 7}]})
    assert answer.status == 201
    assert openmeter("GET", f"{V2}/api-request/value").json["balance"] == 12


def test_a_second_entitlement_to_the_same_feature_conflicts_until_the_first_is_deleted(openmeter, acme):
    first = openmeter("POST", V1, BOOLEAN).json
    for path in (V1, V2, "/api/v1/subjects/s2/entitlements"):
        answer = openmeter("POST", path, BOOLEAN)
        assert answer.status == 409
        assert answer.json["extensions"] == {"conflictingEntityId": first["id"]}
    assert openmeter("DELETE", f"{V1}/{first['id']}").status == 204
    assert openmeter("POST", V2, BOOLEAN).status == 201


def test_of_many_made_at_once_one_is_made(openmeter, acme):
    async def race():
        return await asyncio.gather(*(openmeter.request("POST", V2, BOOLEAN) for _ in range(8)))

    assert sorted(answer.status for answer in openmeter.runner.run(race())) == [201] + [409] * 7


def test_unknown_subjects_customers_and_entitlements_are_not_found(openmeter, acme):
    mine = openmeter("POST", V1, BOOLEAN).json["id"]
    openmeter("POST", "/api/v1/subjects", [{"key": "alone"}])
    openmeter("POST", "/api/v1/customers", {"name": "Other", "key": "other"})
    for method, path, body in (
        ("POST", "/api/v1/subjects/nobody/entitlements", BOOLEAN),
        ("POST", "/api/v1/subjects/alone/entitlements", BOOLEAN),
        ("GET", "/api/v1/subjects/nobody/entitlements", None),
        ("POST", "/api/v2/customers/nobody/entitlements", BOOLEAN),
        ("GET", "/api/v2/customers/nobody/entitlements", None),
        ("GET", f"/api/v1/subjects/other/entitlements/{mine}", None),
        ("GET", f"/api/v2/customers/other/entitlements/{mine}", None),
        ("DELETE", f"/api/v2/customers/other/entitlements/{mine}", None),
        ("GET", f"{V2}/api-request", None),
        ("GET", f"{V1}/01G65Z755AFWAKHE12NY0CQ9FH", None),
        ("GET", "/api/v1/entitlements/01G65Z755AFWAKHE12NY0CQ9FH", None),
        ("GET", "/api/v2/entitlements/01G65Z755AFWAKHE12NY0CQ9FH", None),
    ):
        assert openmeter(method, path, body).status == 404, (method, path)
    assert openmeter("GET", f"{V1}/{mine}").status == 200


def test_a_deleted_entitlement_is_gone_but_for_lists_that_ask_for_it(openmeter, acme):
    identifier = openmeter("POST", V2, BOOLEAN).json["id"]
    assert openmeter("DELETE", f"{V2}/sso").status == 204
    for path in (f"{V1}/{identifier}", f"{V2}/{identifier}", f"/api/v2/entitlements/{identifier}"):
        assert openmeter("GET", path).status == 404
    assert openmeter("DELETE", f"{V1}/{identifier}").status == 404
    assert openmeter("GET", V1).json == []
    (shown,) = openmeter("GET", f"{V1}?includeDeleted=true").json
    assert shown["deletedAt"] == "2026-03-15T12:00:00Z"
    assert openmeter("GET", f"{V2}?includeDeleted=true").json["totalCount"] == 1


def test_by_its_feature_only_the_entitlement_that_holds_is_found(openmeter, acme):
    old = openmeter("POST", V2, METERED).json["id"]
    assert openmeter("PUT", f"{V2}/api-request/override", METERED).status == 201
    assert openmeter("DELETE", f"{V2}/api-request").status == 204
    for method, path, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "/reset", {}),
        ("GET", "/history?windowSize=DAY", None),
        ("GET", "/grants", None),
        ("POST", "/grants", {"amount": 1, "effectiveAt": "2026-03-15T12:00:00Z"}),
        ("PUT", "/override", METERED),
    ):
        assert openmeter(method, f"{V2}/api-request{path}", body).status == 404, (method, path)
    assert openmeter("GET", f"{V2}/api-request/value").json == {"hasAccess": False}
    assert openmeter("GET", f"{V2}/{old}").json["activeTo"] == "2026-03-15T12:00:00Z"


def test_a_customer_with_entitlements_is_not_deleted(openmeter, acme):
    openmeter("POST", V2, BOOLEAN)
    answer = openmeter("DELETE", "/api/v1/customers/acme")
    assert (answer.status, "has entitlements" in answer.detail) == (400, True)
    openmeter("DELETE", f"{V2}/sso")
    assert openmeter("DELETE", "/api/v1/customers/acme").status == 204
    assert openmeter("POST", V2, BOOLEAN).status == 412
    assert openmeter("GET", V2).status == 412


def test_an_archived_feature_gets_no_new_entitlements_but_keeps_those_it_has(openmeter, acme):
    made = openmeter("POST", V2, METERED | {"issueAfterReset": 5}).json
    openmeter("DELETE", "/api/v1/features/api-request")
    assert openmeter("GET", f"{V2}/api-request/value").json["balance"] == 5
    assert openmeter("DELETE", "/api/v1/meters/requests").status == 409
    openmeter("DELETE", f"{V2}/api-request")
    assert openmeter("POST", V2, METERED).status == 404
    assert openmeter("POST", V2, METERED | {"featureId": made["featureId"]}).status == 400
    assert openmeter("DELETE", "/api/v1/meters/requests").status == 204


def test_the_lists_of_all_can_be_narrowed(openmeter, acme, clock):
    openmeter("POST", "/api/v1/customers", {"name": "Other", "key": "other"})
    for path, body in (
        (V1, METERED),
        (V1, STATIC),
        (V1, BOOLEAN),
        ("/api/v2/customers/other/entitlements", BOOLEAN),
    ):
        clock.move(minutes=1)
        assert openmeter("POST", path, body).status == 201

    def v1(query):
        return [each["featureKey"] for each in openmeter("GET", f"/api/v1/entitlements?{query}").json]

    def v2(query):
        page = openmeter("GET", f"/api/v2/entitlements?{query}").json
        return [each["featureKey"] for each in page["items"]]

    assert v1("") == v2("") == ["api-request", "models", "sso", "sso"]
    assert v1("order=DESC&orderBy=updatedAt")[-1] == "api-request"
    assert v1("entitlementType=metered&entitlementType=static") == ["api-request", "models"]
    assert v1("subject=s2") == ["api-request", "models", "sso"]
    assert v1("feature=sso&feature=models") == ["models", "sso", "sso"]
    assert v1("limit=2&offset=1") == ["models", "sso"]
    assert v2("customerKeys=other") == ["sso"]
    assert v2(f"customerIds={acme['id']}&feature=sso") == ["sso"]
    assert v2("page=2&pageSize=3") == ["sso"]
    page = openmeter("GET", "/api/v1/entitlements?page=1&pageSize=2").json
    assert (page["totalCount"], len(page["items"])) == (4, 2)
    for version in ("v1", "v2"):
        assert openmeter("GET", f"/api/{version}/entitlements?entitlementType=golden").status == 400
        assert openmeter("GET", f"/api/{version}/entitlements?orderBy=color").status == 400


def test_entitlements_and_their_grants_are_still_there_after_a_restart(openmeter, acme):
    grant = {
        "amount": 0.1,
        "effectiveAt": "2026-03-15T12:00:00Z",
        "expiration": {"duration": "DAY", "count": 2},
    }
    openmeter("POST", V2, METERED | {"grants": [grant]})
    openmeter("POST", V2, STATIC)
    before = openmeter("GET", V2).json, openmeter("GET", f"{V2}/api-request/value").json
    openmeter.restart()
    assert (openmeter("GET", V2).json, openmeter("GET", f"{V2}/api-request/value").json) == before
    assert before[1]["balance"] == 0.1
