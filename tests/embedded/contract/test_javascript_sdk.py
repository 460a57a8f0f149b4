"""What OpenMeter's JavaScript SDK (`@openmeter/sdk` 1.0.0-beta.232) sends, in its own form, and what it needs back.

Taken down while the SDK did each of its calls, so that it is known here without Node: events always as a batch, times
always in milliseconds, lists in the query repeated, every part of a path percent-encoded, ``Authorization`` always
there.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

HEADERS = {"Authorization": "Bearer om_x", "Accept": "*/*"}
BATCH = "application/cloudevents-batch+json"
NOW = "2026-03-15T12:00:00.000Z"
DAY = "from=2026-03-15T00%3A00%3A00.000Z&to=2026-03-16T00%3A00%3A00.000Z"
V1, V2 = "/api/v1/subjects/s%2F1%20%C3%BC%2B/entitlements", "/api/v2/customers/acme/entitlements"
NOTIFICATION = "/api/v1/notification"
METER = {
    "slug": "tokens",
    "name": "Tokens",
    "description": "of models",
    "aggregation": "SUM",
    "eventType": "prompt",
    "valueProperty": "$.tokens",
    "groupBy": {"model": "$.model", "type": "$.type"},
    "metadata": {"k": "v"},
}
METERED = {"type": "metered", "featureKey": "tokens", "usagePeriod": {"interval": "MONTH", "anchor": NOW}}
THRESHOLD = {"type": "entitlements.balance.threshold", "name": "r", "channels": ["<channel>"]}
WEBHOOK = {"type": "WEBHOOK", "name": "c", "url": "http://127.0.0.1:9/"}


def sent(identifier: str, subject: str, **data: Any) -> dict[str, Any]:
    """An event with what the SDK fills in."""
    filled = {"id": identifier, "source": "@openmeter/sdk", "specversion": "1.0", "time": NOW}
    return {"type": "prompt", "subject": subject, "data": data} | filled


METERS = (
    (200, "POST", "/api/v1/meters", METER, "meter"),
    (409, "POST", "/api/v1/meters", METER),
    (400, "POST", "/api/v1/meters", METER | {"slug": "calls", "aggregation": "COUNT"}),
    (200, "GET", "/api/v1/meters"),
    (200, "GET", "/api/v1/meters/tokens"),
    (404, "GET", "/api/v1/meters/nope"),
    (
        200,
        "PUT",
        "/api/v1/meters/<meter>",
        {"name": "New", "groupBy": METER["groupBy"], "metadata": {"a": "b"}},
    ),
    (204, "POST", "/api/v1/events", [sent("1", "acme", tokens=10, model="gpt-4", type="input")]),
    (
        204,
        "POST",
        "/api/v1/events",
        [sent("2", "s/1 ü+", tokens="5.5"), sent("3", 'o\'neil "q"', tokens="x")],
    ),
    (400, "POST", "/api/v1/events", [sent("4", "")]),
    (200, "GET", "/api/v1/events?subject=s%2F1%20%C3%BC%2B&limit=2&clientId=abc"),
    (200, "GET", f"/api/v1/events?{DAY}&ingestedAtFrom=2026-03-15T00%3A00%3A00.000Z"),
    (400, "GET", "/api/v1/events?from=2026-01-01T00%3A00%3A00.000Z"),
    (200, "GET", "/api/v2/events?limit=2&filter=%7B%22subject%22%3A%7B%22%24in%22%3A%5B%22acme%22%5D%7D%7D"),
    (400, "GET", "/api/v2/events?filter=x"),
    (200, "GET", f"/api/v1/meters/tokens/query?{DAY}&windowSize=DAY&windowTimeZone=Europe%2FBudapest"),
    (
        200,
        "GET",
        "/api/v1/meters/tokens/query?subject=acme&subject=s%2F1%20%C3%BC%2B&groupBy=model&groupBy=type",
    ),
    (200, "GET", "/api/v1/meters/tokens/query?filterGroupBy[model]=gpt-4&filterGroupBy[type]=input"),
    (
        200,
        "GET",
        "/api/v1/meters/tokens/query?advancedMeterGroupByFilters=%7B%22model%22%3A%7B%22%24eq%22%3A%22a%22%7D%7D",
    ),
    (400, "GET", "/api/v1/meters/tokens/query?groupBy=nope"),
    (404, "GET", "/api/v1/meters/tokens/query?filterCustomerId=01G65Z755AFWAKHE12NY0CQ9FH"),
    (
        200,
        "POST",
        "/api/v1/meters/tokens/query",
        {"windowSize": "HOUR", "filterGroupBy": {"model": ["a", "b"]}},
    ),
    (200, "GET", f"/api/v1/meters/tokens/group-by/model/values?{DAY}"),
    (400, "GET", "/api/v1/meters/tokens/group-by/nope/values"),
    (204, "DELETE", "/api/v1/meters/tokens"),
    (404, "GET", "/api/v1/meters/<meter>"),
    (200, "POST", "/api/v1/meters", METER),
)
CUSTOMERS = (
    (
        201,
        "POST",
        "/api/v1/customers",
        {
            "name": "Acme",
            "key": "acme",
            "usageAttribution": {"subjectKeys": ["aa", "s/1 ü+"]},
            "currency": "USD",
        },
        "customer",
    ),
    (400, "POST", "/api/v1/customers", {"name": "x"}),
    (409, "POST", "/api/v1/customers", {"name": "x", "key": "acme"}),
    (200, "GET", "/api/v1/customers?page=1&pageSize=1&order=DESC&orderBy=name&expand=subscriptions"),
    (200, "GET", "/api/v1/customers?subject=S%2F1&key=CM&name=acm"),
    (200, "GET", "/api/v1/customers/acme"),
    (
        200,
        "PUT",
        "/api/v1/customers/<customer>",
        {"name": "Acme Inc", "key": "acme", "usageAttribution": {"subjectKeys": ["s/1 ü+", "aa"]}},
    ),
    (404, "GET", "/api/v1/customers/no"),
    (201, "POST", "/api/v1/customers", {"name": "Beta", "usageAttribution": {"subjectKeys": ["b"]}}, "gone"),
    (204, "DELETE", "/api/v1/customers/<gone>"),
    (412, "GET", "/api/v1/customers/<gone>/access"),
    (200, "GET", "/api/v1/customers/<gone>"),
    (201, "POST", "/api/v1/customers", {"name": "Beta", "usageAttribution": {"subjectKeys": ["b"]}}),
    (
        200,
        "POST",
        "/api/v1/subjects",
        [{"key": "a/b ü+%", "displayName": None, "metadata": {"n": {"a": [1]}}}],
    ),
    (200, "GET", "/api/v1/subjects/a%2Fb%20%C3%BC%2B%25"),
    (200, "GET", "/api/v1/subjects"),
    (204, "DELETE", "/api/v1/subjects/a%2Fb%20%C3%BC%2B%25"),
    (404, "GET", "/api/v1/subjects/a%2Fb%20%C3%BC%2B%25"),
    (201, "POST", "/api/v1/features", {"key": "tokens", "name": "Tokens", "meterSlug": "tokens"}, "feature"),
    (201, "POST", "/api/v1/features", {"key": "sso", "name": "SSO"}),
    (409, "POST", "/api/v1/features", {"key": "sso", "name": "SSO"}),
    (404, "POST", "/api/v1/features", {"key": "x", "name": "X", "meterSlug": "none"}),
    (200, "GET", "/api/v1/features"),
    (
        200,
        "GET",
        "/api/v1/features?page=1&pageSize=2&order=DESC&orderBy=name&meterSlug=tokens&includeArchived=true",
    ),
    (200, "GET", "/api/v1/features/<feature>"),
)
ENTITLEMENTS = (
    (201, "POST", V1, METERED | {"measureUsageFrom": "CURRENT_PERIOD_START", "issueAfterReset": 100}, "v1"),
    (409, "POST", V1, METERED),
    (404, "POST", V1, {"type": "boolean", "featureKey": "nope"}),
    (200, "GET", "/api/v1/entitlements/<v1>"),
    (200, "GET", "/api/v1/entitlements?page=1&feature=tokens&feature=sso&subject=aa&excludeInactive=true"),
    (400, "GET", "/api/v1/entitlements?entitlementType=nope"),
    (200, "GET", f"{V1}/tokens/value?time=2026-03-15T13%3A00%3A00.000Z"),
    (404, "GET", f"{V1}/nope/value"),
    (
        201,
        "POST",
        f"{V1}/tokens/grants",
        {"amount": 50, "effectiveAt": NOW, "priority": 1, "expiration": {"duration": "HOUR", "count": 12}},
        "grant",
    ),
    (200, "GET", f"{V1}/tokens/grants?includeDeleted=true&orderBy=createdAt"),
    (200, "GET", "/api/v1/grants"),
    (200, "GET", f"{V1}/<v1>/history?windowSize=HOUR&windowTimeZone=Europe%2FBerlin"),
    (204, "DELETE", "/api/v1/grants/<grant>"),
    (400, "DELETE", "/api/v1/grants/<grant>"),
    (201, "PUT", f"{V1}/tokens/override", METERED | {"issueAfterReset": 7}, "v1"),
    (400, "POST", f"{V1}/<v1>/reset", {"effectiveAt": "2026-03-14T12:00:00.000Z"}),
    (204, "DELETE", f"{V1}/<v1>"),
    (400, "POST", V2, METERED | {"issueAfterReset": 1, "grants": [{"amount": 1, "effectiveAt": NOW}]}),
    (201, "POST", V2, METERED | {"issue": {"amount": 20, "priority": 2}}, "v2"),
    (201, "POST", V2, {"type": "boolean", "featureKey": "sso", "metadata": {"x": "y"}}),
    (200, "GET", f"{V2}?page=2&pageSize=1&order=DESC&orderBy=createdAt&includeDeleted=true"),
    (200, "GET", f"{V2}/tokens"),
    (200, "GET", f"{V2}/<v2>"),
    (200, "GET", f"{V2}/tokens/value"),
    (200, "GET", f"{V2}/nope/value"),
    (201, "POST", f"{V2}/tokens/grants", {"amount": 3.5, "effectiveAt": NOW, "priority": 1}),
    (200, "GET", f"{V2}/tokens/grants?limit=1&offset=1&order=DESC&orderBy=createdAt"),
    (200, "GET", f"{V2}/tokens/history?windowSize=DAY"),
    (201, "PUT", f"{V2}/tokens/override", METERED),
    (204, "DELETE", f"{V2}/sso"),
    (200, "GET", "/api/v1/customers/acme/access"),
    (200, "GET", "/api/v1/customers/acme/entitlements/tokens/value"),
    (200, "GET", "/api/v2/entitlements?customerKeys=acme&feature=tokens&entitlementType=metered&page=1"),
    (200, "GET", "/api/v2/entitlements/<v2>"),
    (200, "GET", "/api/v2/grants?customer=acme&customer=<customer>&feature=tokens&includeDeleted=true"),
    (409, "DELETE", "/api/v1/meters/tokens"),
    (204, "DELETE", "/api/v1/features/tokens"),
)
OTHERS = (
    (201, "POST", f"{NOTIFICATION}/channels", WEBHOOK | {"customHeaders": {"X-A": "b"}}, "channel"),
    (200, "GET", f"{NOTIFICATION}/channels/<channel>"),
    (404, "GET", f"{NOTIFICATION}/channels/01G65Z755AFWAKHE12NY0CQ9FH"),
    (200, "PUT", f"{NOTIFICATION}/channels/<channel>", WEBHOOK | {"disabled": False}),
    (200, "GET", f"{NOTIFICATION}/channels?includeDeleted=true&includeDisabled=true&order=DESC&orderBy=type"),
    (
        201,
        "POST",
        f"{NOTIFICATION}/rules",
        THRESHOLD | {"thresholds": [{"type": "PERCENT", "value": 50}]},
        "rule",
    ),
    (501, "POST", f"{NOTIFICATION}/rules", THRESHOLD | {"type": "invoice.created"}),
    (200, "GET", f"{NOTIFICATION}/rules?feature=tokens&channel=<channel>&page=1&orderBy=updatedAt"),
    (
        200,
        "PUT",
        f"{NOTIFICATION}/rules/<rule>",
        THRESHOLD | {"thresholds": [{"type": "usage_value", "value": 3}]},
    ),
    (201, "POST", f"{NOTIFICATION}/rules/<rule>/test", None, "event"),
    (200, "GET", f"{NOTIFICATION}/events?{DAY}&rule=<rule>&channel=<channel>&order=DESC&orderBy=createdAt"),
    (200, "GET", f"{NOTIFICATION}/events/<event>"),
    (202, "POST", f"{NOTIFICATION}/events/<event>/resend", {}),
    (202, "POST", f"{NOTIFICATION}/events/<event>/resend", {"channels": ["<channel>"]}),
    (204, "DELETE", f"{NOTIFICATION}/rules/<rule>"),
    (404, "GET", f"{NOTIFICATION}/rules/<rule>"),
    (204, "DELETE", f"{NOTIFICATION}/channels/<channel>"),
    (
        200,
        "POST",
        "/api/v1/portal/tokens",
        {"subject": "acme", "expiresAt": "2026-03-15T13:00:00.000Z"},
        "portal",
    ),
    (501, "GET", "/api/v1/portal/tokens?limit=1"),
    (401, "GET", "/api/v1/portal/meters/tokens/query"),
    (200, "GET", "/api/v1/debug/metrics"),
)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d*)?(?:[-+]\d{2}:\d{2}|Z)")
"""What the SDK makes a Date of."""


def times(answer: Any, name: str = "") -> list[str]:
    """All values in the answer whose names say that they are times."""
    if isinstance(answer, dict):
        return [time for key, value in answer.items() for time in times(value, key)]
    if isinstance(answer, list):
        return [time for value in answer for time in times(value, name)]
    return [answer] if isinstance(answer, str) and re.search(r"At$|^(from|to|time)$", name) else []


def test_every_request_of_the_javascript_sdk_is_answered_as_it_expects(contract):
    known: dict[str, str] = {}

    def filled(text: str) -> str:
        return re.sub(r"<(\w+)>", lambda match: known[match[1]], text)

    for status, method, target, *rest in (*METERS, *CUSTOMERS, *ENTITLEMENTS, *OTHERS):
        body, name = (*rest, None, None)[:2]
        headers = HEADERS | ({"Content-Type": BATCH} if target == "/api/v1/events" else {})
        content = None if body is None else msgspec.json.decode(filled(msgspec.json.encode(body).decode()))
        answer = contract(method, filled(target), content, headers=headers)
        assert answer.status == status, (method, target, answer.status, answer.body)
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.json["type"], answer.json["status"]) == ("about:blank", status)
            assert answer.json["detail"]
        elif answer.body and "json" in answer.headers["content-type"]:
            assert [time for time in times(answer.json) if not DATE.fullmatch(time)] == []
        if name is not None:
            known[name] = answer.json["id"]


@pytest.mark.parametrize("slug", ["tokens", "calls"])
def test_a_portal_token_of_the_javascript_sdk_opens_its_meters(contract, slug):
    contract.good("POST", "/api/v1/meters", METER)
    contract.good("POST", "/api/v1/events", [sent("1", "acme", tokens=2)], headers={"Content-Type": BATCH})
    token = contract.good(
        "POST", "/api/v1/portal/tokens", {"subject": "acme", "allowedMeterSlugs": ["tokens"]}
    )
    headers = {"Authorization": f"Bearer {token['token']}", "Accept": "application/json"}
    answer = contract("GET", f"/api/v1/portal/meters/{slug}/query?{DAY}&windowSize=HOUR", headers=headers)
    if slug == "calls":
        assert (answer.status, answer.detail) == (401, "unauthorized error: meter slug not allowed")
    else:
        assert [(row["value"], row["subject"]) for row in answer.json["data"]] == [(2, "acme")]
