"""A walk through every operation of the API, each used as it is meant to be and some as they are not."""

from __future__ import annotations

from typing import Any

UNKNOWN = "01G65Z755AFWAKHE12NY0CQ9FH"
NOW = "2026-03-15T12:00:00Z"
METERED = {
    "type": "metered",
    "featureKey": "tokens",
    "usagePeriod": {"interval": "MONTH"},
    "measureUsageFrom": "CURRENT_PERIOD_START",
    "isSoftLimit": False,
    "issueAfterReset": 100,
    "issueAfterResetPriority": 2,
    "preserveOverageAtReset": True,
    "metadata": {"a": "b"},
}
STATIC = {"type": "static", "featureKey": "models", "config": '{"a": 1}'}
BOOLEAN = {"type": "boolean", "featureKey": "sso"}
GRANT = {
    "amount": 10,
    "effectiveAt": NOW,
    "priority": 5,
    "expiration": {"duration": "MONTH", "count": 1},
    "minRolloverAmount": 1,
    "maxRolloverAmount": 2,
    "recurrence": {"interval": "P2W", "anchor": NOW},
    "metadata": {"a": "b"},
}


def metering(contract: Any, event: Any) -> None:
    """Events and meters, versions 1 and 2."""
    meter = {
        "slug": "tokens",
        "name": "Tokens",
        "description": "of models",
        "aggregation": "SUM",
        "eventType": "request",
        "eventFrom": "2026-01-01T00:00:00Z",
        "valueProperty": "$.tokens",
        "groupBy": {"model": "$.model"},
        "metadata": {"a": "b"},
    }
    identifier = contract.good("POST", "/api/v1/meters", meter)["id"]
    contract.bad(409, "POST", "/api/v1/meters", meter)
    contract.bad(400, "POST", "/api/v1/meters", {"slug": "x"})
    contract.good("GET", "/api/v1/meters")
    contract.good("GET", f"/api/v1/meters/{identifier}")
    contract.bad(404, "GET", f"/api/v1/meters/{UNKNOWN}")
    change = {"name": "All", "description": "x", "groupBy": {"model": "$.model"}, "metadata": {"c": "d"}}
    contract.good("PUT", "/api/v1/meters/tokens", change)
    for number, media_type in enumerate(("application/cloudevents+json", "application/json")):
        body = event(str(number), data={"tokens": 1.5, "model": "a"}, time=NOW)
        contract.good("POST", "/api/v1/events", body, headers={"Content-Type": media_type})
    batch = [event("x", time=None, data=None), event("y", subject="s1", data={"tokens": "z"})]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    contract.good("POST", "/api/v1/events", batch, headers=headers)
    contract.bad(400, "POST", "/api/v1/events", [{}])
    contract.good("GET", "/api/v1/events?limit=10")
    contract.bad(400, "GET", "/api/v1/events?limit=0")
    contract.good("GET", "/api/v2/events?limit=2")
    contract.bad(400, "GET", "/api/v2/events?filter=x")
    query = "windowSize=DAY&windowTimeZone=Europe/Berlin&groupBy=subject&groupBy=model"
    contract.good("GET", f"/api/v1/meters/tokens/query?from={NOW}&to=2026-03-16T00:00:00Z&{query}")
    contract.good("GET", "/api/v1/meters/tokens/query", headers={"Accept": "text/csv"})
    contract.bad(400, "GET", "/api/v1/meters/tokens/query?windowSize=WEEK")
    contract.bad(404, "GET", "/api/v1/meters/other/query")
    question = {
        "from": "2026-03-15T00:00:00Z",
        "to": "2026-03-16T00:00:00Z",
        "windowSize": "HOUR",
        "windowTimeZone": "UTC",
        "subject": ["acme"],
        "filterGroupBy": {"model": ["a"]},
        "groupBy": ["model"],
    }
    contract.good("POST", "/api/v1/meters/tokens/query", question)
    contract.good("GET", "/api/v1/meters/tokens/subjects")
    contract.good("GET", "/api/v1/meters/tokens/group-by/model/values")
    contract.good("GET", "/api/v1/debug/metrics")
    contract.good("POST", "/api/v1/meters", meter | {"slug": "other"})
    contract.good("DELETE", "/api/v1/meters/other")


def customers(contract: Any) -> None:
    """Subjects, customers and features, version 1."""
    subject = {"key": "s1", "displayName": "One", "metadata": {"a": "b"}, "stripeCustomerId": "cus_1"}
    contract.good("POST", "/api/v1/subjects", [subject, {"key": "s2"}])
    contract.bad(400, "POST", "/api/v1/subjects", [{}])
    contract.good("GET", "/api/v1/subjects")
    contract.good("GET", "/api/v1/subjects/s1")
    contract.bad(404, "GET", "/api/v1/subjects/none")
    contract.good("DELETE", "/api/v1/subjects/s2")
    customer = {
        "name": "Acme",
        "key": "acme",
        "description": "a customer",
        "usageAttribution": {"subjectKeys": ["s1"]},
        "primaryEmail": "a@example.com",
        "currency": "USD",
        "billingAddress": {"country": "US", "city": "X", "line1": "Y", "postalCode": "1"},
        "metadata": {"a": "b"},
    }
    identifier = contract.good("POST", "/api/v1/customers", customer)["id"]
    contract.bad(400, "POST", "/api/v1/customers", {})
    contract.good("PUT", "/api/v1/customers/acme", customer | {"name": "Acme Inc."})
    contract.good("GET", "/api/v1/customers?page=1&pageSize=10&order=DESC&orderBy=createdAt")
    contract.good("GET", f"/api/v1/customers/{identifier}")
    contract.bad(404, "GET", "/api/v1/customers/nobody")
    contract.good("POST", "/api/v1/customers", {"name": "Other", "key": "other"})
    contract.good("DELETE", "/api/v1/customers/other")
    contract.bad(412, "GET", "/api/v1/customers/other/access")
    features = (
        {
            "key": "tokens",
            "name": "Tokens",
            "meterSlug": "tokens",
            "meterGroupByFilters": {"model": "a"},
            "metadata": {"a": "b"},
        },
        {"key": "sso", "name": "SSO"},
        {"key": "models", "name": "Models"},
        {
            "key": "big",
            "name": "Big",
            "meterSlug": "tokens",
            "advancedMeterGroupByFilters": {"model": {"$in": ["a", "b"]}},
            "unitCost": {"type": "manual", "amount": "0.5"},
        },
    )
    for feature in reversed(features):
        contract.good("POST", "/api/v1/features", feature)
    contract.bad(400, "POST", "/api/v1/features", {"key": "x"})
    contract.good("GET", "/api/v1/features")
    contract.good("GET", "/api/v1/features?page=1&pageSize=2&meterSlug=tokens")
    contract.good("GET", "/api/v1/features/tokens")
    contract.bad(404, "GET", "/api/v1/features/none")
    contract.good("DELETE", "/api/v1/features/big")


def entitlements_v1(contract: Any, clock: Any) -> None:
    """Entitlements of a subject, and what a customer may do."""
    base = "/api/v1/subjects/s1/entitlements"
    identifier = contract.good("POST", base, METERED)["id"]
    contract.good("POST", base, STATIC)
    contract.good("POST", base, BOOLEAN)
    contract.bad(409, "POST", base, BOOLEAN)
    contract.bad(400, "POST", base, {"type": "metered"})
    contract.good("GET", base)
    contract.good("GET", f"{base}/{identifier}")
    contract.bad(404, "GET", f"{base}/{UNKNOWN}")
    for feature in ("tokens", "models", "sso"):
        contract.good("GET", f"{base}/{feature}/value")
        contract.good("GET", f"/api/v1/customers/acme/entitlements/{feature}/value?time={NOW}")
    contract.bad(404, "GET", f"{base}/none/value")
    contract.bad(404, "GET", "/api/v1/customers/nobody/entitlements/tokens/value")
    contract.good("GET", "/api/v1/customers/acme/access")
    grant = contract.good("POST", f"{base}/tokens/grants", GRANT)["id"]
    contract.bad(400, "POST", f"{base}/tokens/grants", {"amount": 1})
    contract.good("GET", f"{base}/tokens/grants")
    contract.good("GET", "/api/v1/grants")
    contract.good("GET", "/api/v1/grants?page=1&pageSize=1&orderBy=updatedAt")
    clock.move(hours=2)
    contract.good("GET", f"{base}/{identifier}/history?windowSize=HOUR")
    contract.good("DELETE", f"/api/v1/grants/{grant}")
    contract.bad(404, "DELETE", f"/api/v1/grants/{UNKNOWN}")
    reset = {"effectiveAt": "2026-03-15T13:00:00Z", "retainAnchor": True, "preserveOverage": False}
    contract.good("POST", f"{base}/{identifier}/reset", reset)
    contract.bad(400, "POST", f"{base}/{identifier}/reset", {"effectiveAt": "2027-01-01T00:00:00Z"})
    identifier = contract.good("PUT", f"{base}/tokens/override", METERED)["id"]
    contract.good("GET", "/api/v1/entitlements?entitlementType=metered")
    contract.good("GET", "/api/v1/entitlements?page=1&excludeInactive=true")
    contract.bad(400, "GET", "/api/v1/entitlements?entitlementType=golden")
    contract.good("GET", f"/api/v1/entitlements/{identifier}")
    contract.bad(404, "GET", f"/api/v1/entitlements/{UNKNOWN}")
    contract.good("DELETE", f"{base}/{identifier}")


def entitlements_v2(contract: Any, clock: Any) -> None:
    """Entitlements of a customer."""
    base = "/api/v2/customers/acme/entitlements"
    metered = {name: value for name, value in METERED.items() if not name.startswith("issue")}
    grants = [GRANT | {"effectiveAt": "2026-03-15T14:00:00Z", "annotations": {"by": "sales"}}]
    identifier = contract.good("POST", base, metered | {"grants": grants})["id"]
    contract.bad(409, "POST", base, metered)
    contract.good("GET", base)
    contract.good("GET", f"{base}/tokens")
    contract.bad(404, "GET", f"{base}/none")
    contract.good("GET", f"{base}/tokens/value")
    contract.good("GET", f"{base}/models/value")
    contract.good("GET", f"{base}/none/value")
    grant = GRANT | {"effectiveAt": "2026-03-15T15:00:00Z", "annotations": {"a": 1}}
    contract.good("POST", f"{base}/tokens/grants", grant)
    contract.good("GET", f"{base}/tokens/grants")
    contract.good("GET", "/api/v2/grants?customer=acme")
    clock.move(hours=2)
    contract.good("GET", f"{base}/tokens/history?windowSize=DAY&windowTimeZone=Asia/Kathmandu")
    contract.good("POST", f"{base}/tokens/reset", {"preserveOverage": True})
    contract.good("PUT", f"{base}/tokens/override", metered | {"issue": {"amount": 5, "priority": 1}})
    contract.good("GET", "/api/v2/entitlements?customerKeys=acme&feature=tokens")
    contract.good("GET", f"/api/v2/entitlements/{identifier}")
    contract.bad(404, "GET", f"/api/v2/entitlements/{UNKNOWN}")
    contract.good("DELETE", f"{base}/sso")


def version_3(contract: Any, event: Any) -> None:
    """All of version 3."""
    base = "/api/v3/openmeter"
    meter = {
        "key": "calls",
        "name": "Calls",
        "description": "all",
        "labels": {"env": "test"},
        "aggregation": "unique_count",
        "event_type": "request",
        "events_from": "2026-01-01T00:00:00Z",
        "value_property": "$.tokens",
        "dimensions": {"model": "$.model"},
    }
    identifier = contract.good("POST", f"{base}/meters", meter)["id"]
    contract.bad(400, "POST", f"{base}/meters", {"key": "x"})
    contract.good("GET", f"{base}/meters?page[size]=1&sort=name")
    contract.bad(400, "GET", f"{base}/meters?page[size]=0")
    contract.good("GET", f"{base}/meters/{identifier}")
    contract.bad(404, "GET", f"{base}/meters/{UNKNOWN}")
    contract.bad(400, "GET", f"{base}/meters/calls")
    change = {"name": "C", "description": "x", "labels": {"a": "b"}, "dimensions": {"model": "$.model"}}
    contract.good("PUT", f"{base}/meters/{identifier}", change)
    headers = {"Content-Type": "application/cloudevents+json"}
    contract.good("POST", f"{base}/events", event("v3", data={"tokens": 1}), headers=headers)
    contract.bad(400, "POST", f"{base}/events", event("v3", extension="x"), headers=headers)
    contract.good("GET", f"{base}/events?page[size]=2&filter[subject]=acme&sort=stored_at")
    contract.bad(400, "GET", f"{base}/events?sort=colour")
    question = {
        "from": "2026-03-15T00:00:00Z",
        "to": "2026-03-16T00:00:00Z",
        "granularity": "PT1H",
        "time_zone": "UTC",
        "group_by_dimensions": ["model", "subject"],
        "filters": {"dimensions": {"subject": {"in": ["acme"]}, "model": {"neq": "b"}}},
    }
    contract.good("POST", f"{base}/meters/{identifier}/query", question)
    contract.good("POST", f"{base}/meters/{identifier}/query", {}, headers={"Accept": "text/csv"})
    contract.bad(400, "POST", f"{base}/meters/{identifier}/query", {"granularity": "P1W"})
    customer = contract.good("GET", "/api/v1/customers/acme")["id"]
    contract.good("GET", f"{base}/customers/{customer}/entitlement-access")
    contract.bad(404, "GET", f"{base}/customers/{UNKNOWN}/entitlement-access")
    asked = {"include_credits": False, "customer": {"keys": ["acme", "x"]}, "feature": {"keys": ["sso", "y"]}}
    contract.good("POST", f"{base}/entitlement-access/query", asked)
    contract.bad(400, "POST", f"{base}/entitlement-access/query", {})
    contract.good("DELETE", f"{base}/meters/{identifier}")


def portal(contract: Any) -> None:
    """Tokens of the consumer portal, and what they open."""
    body = {"subject": "acme", "allowedMeterSlugs": ["tokens"]}
    token = contract.good("POST", "/api/v1/portal/tokens", body)["token"]
    contract.bad(400, "POST", "/api/v1/portal/tokens", {})
    headers = {"Authorization": f"Bearer {token}"}
    contract.good("GET", "/api/v1/portal/meters/tokens/query?windowSize=DAY", headers=headers)
    contract.bad(401, "GET", "/api/v1/portal/meters/tokens/query")
    contract.bad(501, "GET", "/api/v1/portal/tokens")
    contract.bad(501, "POST", "/api/v1/portal/tokens/invalidate", {"subject": "acme"})


def notifications(contract: Any) -> None:
    """Channels, rules, and the events of their tests. Nothing is delivered: nobody listens there."""
    base = "/api/v1/notification"
    body = {
        "type": "WEBHOOK",
        "name": "Hook",
        "disabled": False,
        "url": "http://127.0.0.1:1/hook",
        "customHeaders": {"X-Team": "billing"},
        "signingSecret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "metadata": {"a": "b"},
    }
    channel = contract.good("POST", f"{base}/channels", body)["id"]
    contract.bad(400, "POST", f"{base}/channels", {})
    contract.good("GET", f"{base}/channels?includeDeleted=true&orderBy=createdAt")
    contract.good("GET", f"{base}/channels/{channel}")
    contract.bad(404, "GET", f"{base}/channels/{UNKNOWN}")
    contract.good("PUT", f"{base}/channels/{channel}", body)
    reset = {"type": "entitlements.reset", "name": "Reset", "channels": [channel], "features": ["tokens"]}
    contract.good("POST", f"{base}/rules", reset)
    rule = {
        "type": "entitlements.balance.threshold",
        "name": "Low",
        "disabled": True,
        "channels": [channel],
        "features": ["tokens"],
        "thresholds": [{"type": "usage_percentage", "value": 80}, {"type": "balance_value", "value": 5}],
        "metadata": {"a": "b"},
    }
    identifier = contract.good("POST", f"{base}/rules", rule)["id"]
    contract.bad(400, "POST", f"{base}/rules", {"type": "entitlements.reset"})
    contract.bad(501, "POST", f"{base}/rules", reset | {"type": "invoice.created"})
    contract.good("GET", f"{base}/rules?includeDisabled=true&feature=tokens")
    contract.good("GET", f"{base}/rules/{identifier}")
    contract.bad(404, "GET", f"{base}/rules/{UNKNOWN}")
    contract.good("PUT", f"{base}/rules/{identifier}", rule)
    event = contract.good("POST", f"{base}/rules/{identifier}/test")["id"]
    contract.good("GET", f"{base}/events?order=DESC&orderBy=createdAt&rule={identifier}")
    contract.good("GET", f"{base}/events/{event}")
    contract.bad(404, "GET", f"{base}/events/{UNKNOWN}")
    contract.good("POST", f"{base}/events/{event}/resend", {"channels": [channel]})
    contract.good("DELETE", f"{base}/rules/{identifier}")
    other = contract.good("POST", f"{base}/channels", body)["id"]
    contract.good("DELETE", f"{base}/channels/{other}")
    contract.good("PUT", f"{base}/channels/{channel}", body | {"disabled": True})
