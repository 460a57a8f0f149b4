"""Whatever is sent to whatever route: an answer that OpenMeter could give, soon, and never a 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EVENT = {"id": "1", "source": "s", "specversion": "1.0", "type": "request", "subject": "acme"}
METER = {"slug": "m", "aggregation": "SUM", "eventType": "request", "valueProperty": "$.n"}
FEATURE = {"key": "f", "name": "F", "meterSlug": "calls"}
CUSTOMER = {"name": "C", "key": "c", "usageAttribution": {"subjectKeys": ["c1"]}}
GRANT = {
    "amount": 5,
    "effectiveAt": "2026-03-15T12:00:00Z",
    "expiration": {"duration": "DAY", "count": 2},
}
GRANT_FIELDS = (
    "amount priority effectiveAt expiration minRolloverAmount maxRolloverAmount recurrence metadata"
)
METERED = {"type": "metered", "featureKey": "tokens", "usagePeriod": {"interval": "DAY"}}

NAMES = st.sampled_from(["acme", "tokens", "calls", "unique", "latest", "plain", "model", "s1", "n"])
IDS = st.sampled_from(["01G65Z755AFWAKHE12NY0CQ9FH", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "not-an-id"])
TIMES = st.sampled_from(
    [
        *("2026-03-15T12:00:00Z", "2026-03-15T11:00:00.123456789+05:30", "2026-03-20T00:00:00Z"),
        *(
            "0001-01-01T00:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "1969-12-31T23:59:59Z",
            "2040-01-01T00:00:00Z",
        ),
        *("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:60Z", "9999-12-31T23:59:59-23:59"),
        *("2026-02-30T00:00:00Z", "2026-03-15T24:00:00Z", "2026-03-15", "2026-03-15T12:00:00+99:99"),
        *("CURRENT_PERIOD_START", "NOW"),
    ]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ODD = st.sampled_from(
    [
        "",
        "\x00",
        "a/b",
        "../x",
        "%",
        "'",
        '"; DROP TABLE events; --',
        "{",
        "\\",
        "\ud7ff\U0010ffff",
        "x" * 300,
        "\r\n",
    ]
)
NUMBERS = (
    st.integers(-2, 300)
    | st.sampled_from([1e308, -1e308, 5e-324, 0.1, 2**63, -(2**63), 10**30, 1e22, 1e15 + 0.3])
    | st.floats(allow_nan=False, allow_infinity=False)
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, NAMES, TIMES, TEXTS, ODD, IDS)
INTERVALS = st.sampled_from(
    [
        "DAY",
        "MONTH",
        "YEAR",
        "P2W",
        "PT1H",
        "P1000000Y",
        "P0D",
        "PT9999999999999H",
        "P0.5M",
        "P1Y2M3DT4H5M6S",
        "x",
    ]
)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Apia", "", "..", "/etc/passwd", "\x00"]
)
PATHS = st.sampled_from(
    ["$.n", "$.model", "$", '$["a b"][0]', "$..x", "n", "$.a.b.c", "$[99999999]", "$.é", ""]
)
OPERATORS = [
    "$eq",
    "$ne",
    "$in",
    "$nin",
    "$like",
    "$nilike",
    "$contains",
    "$ncontains",
    "$gt",
    "$lte",
    "$exists",
    "$x",
]
FILTERS = st.recursive(
    st.dictionaries(
        st.sampled_from(OPERATORS), LEAVES | st.lists(NAMES | LEAVES, max_size=2), min_size=1, max_size=1
    )
    | LEAVES,
    lambda children: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(children, max_size=3), max_size=2
    ),
    max_leaves=6,
)
DATA = st.dictionaries(st.sampled_from(["n", "model"]), LEAVES, max_size=2)
RECURRENCES = st.fixed_dictionaries({"interval": INTERVALS}, optional={"anchor": TIMES})
EXPIRATIONS = st.fixed_dictionaries(
    {"duration": st.sampled_from(["HOUR", "MONTH", "YEAR", "x"]), "count": NUMBERS}
)
GRANTS = st.fixed_dictionaries(
    {"amount": NUMBERS, "effectiveAt": TIMES},
    optional={
        "priority": NUMBERS,
        "minRolloverAmount": NUMBERS,
        "maxRolloverAmount": NUMBERS,
        "recurrence": RECURRENCES,
        "expiration": EXPIRATIONS,
    },
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": TEXTS | ODD,
    "source": TEXTS | ODD,
    "specversion": st.sampled_from(["1.0", "0.3", "2"]),
    "subject": NAMES | ODD | st.lists(NAMES | ODD, max_size=3),
    "time": TIMES,
    "data": DATA,
    "datacontenttype": st.sampled_from(["application/json", "text/xml"]),
    "slug": TEXTS | NAMES,
    "aggregation": st.sampled_from(["SUM", "COUNT", "UNIQUE_COUNT", "AVG", "MIN", "MAX", "LATEST"]),
    "eventType": st.just("request") | ODD,
    "eventFrom": TIMES,
    "valueProperty": PATHS,
    "groupBy": st.dictionaries(NAMES, PATHS, max_size=2) | st.lists(NAMES | ODD, max_size=2),
    "from": TIMES,
    "to": TIMES,
    "windowSize": st.sampled_from(["MINUTE", "HOUR", "DAY", "MONTH", "SECOND"]),
    "windowTimeZone": ZONES,
    "filterCustomerId": st.lists(IDS, max_size=2),
    "filterGroupBy": st.dictionaries(NAMES, st.lists(NAMES | ODD, max_size=2), max_size=2),
    "advancedMeterGroupByFilters": st.dictionaries(st.just("model"), FILTERS, max_size=2),
    "key": NAMES | TEXTS | ODD,
    "name": NAMES | TEXTS | ODD,
    "meterSlug": NAMES,
    "meterGroupByFilters": st.dictionaries(NAMES, NAMES, max_size=2),
    "unitCost": st.fixed_dictionaries({"type": st.sampled_from(["manual", "llm"]), "amount": LEAVES}),
    "usageAttribution": st.fixed_dictionaries({"subjectKeys": st.lists(NAMES | ODD, max_size=3)}),
    "currency": st.sampled_from(["USD", "usd", ""]),
    "billingAddress": st.dictionaries(st.sampled_from(["country", "city"]), TEXTS, max_size=2),
    "metadata": st.dictionaries(TEXTS, TEXTS, max_size=2),
    "displayName": TEXTS,
    "type": st.sampled_from(["request", "metered", "static", "boolean"]),
    "featureKey": NAMES,
    "featureId": IDS,
    "usagePeriod": RECURRENCES,
    "isSoftLimit": st.booleans(),
    "issueAfterReset": NUMBERS,
    "issueAfterResetPriority": NUMBERS,
    "preserveOverageAtReset": st.booleans(),
    "measureUsageFrom": TIMES,
    "config": st.sampled_from(["{}", "{", "null", '"a"', "[" * 2000]),
    "issue": st.fixed_dictionaries({"amount": NUMBERS}, optional={"priority": NUMBERS}),
    "grants": st.lists(GRANTS, max_size=2),
    "amount": NUMBERS,
    "priority": NUMBERS,
    "minRolloverAmount": NUMBERS,
    "maxRolloverAmount": NUMBERS,
    "recurrence": RECURRENCES,
    "expiration": EXPIRATIONS,
    "effectiveAt": TIMES,
    "retainAnchor": st.booleans(),
    "preserveOverage": st.booleans(),
    "limit": NUMBERS | st.sampled_from(["1_0", "٣", "1e1", "+5", " 5"]),
    "page": NUMBERS,
    "order": st.sampled_from(["ASC", "DESC", "up"]),
    "includeDeleted": st.sampled_from(["true", "false", "maybe"]),
    "entitlementType": st.sampled_from(["metered", "golden"]),
    "cursor": st.sampled_from(["MjAyNi0wMy0xNVQxMDowMDowMFosMTA=", "MjAyNiwx", "LA==", "é", "A", "="]),
    "filter": st.dictionaries(
        st.sampled_from(["id", "subject", "type", "source", "time", "ingestedAt", "customerId"]),
        FILTERS,
        max_size=2,
    ),
    "filterGroupBy[model]": NAMES | ODD,
    "filterGroupBy[": NAMES,
}
LISTED = "limit offset page pageSize order orderBy includeDeleted"
EVENTS = "clientId ingestedAtFrom ingestedAtTo id subject customerId from to limit"
QUERY = (
    "clientId from to windowSize windowTimeZone subject groupBy filterCustomerId advancedMeterGroupByFilters"
)
ENTITLEMENTS = f"entitlementType feature subject customerIds customerKeys excludeInactive {LISTED}"
ENTITLEMENT = (
    "isSoftLimit issueAfterReset issueAfterResetPriority preserveOverageAtReset measureUsageFrom config"
)
SUBJECT = "/api/v1/subjects/{}/entitlements"
CUSTOMERS = "/api/v2/customers/{}/entitlements"
READS = [
    ("/api/v1/events", EVENTS),
    ("/api/v2/events", "clientId limit cursor filter"),
    ("/api/v1/meters", LISTED),
    ("/api/v1/meters/{}", ""),
    ("/api/v1/meters/{}/query", f"{QUERY} filterGroupBy[model] filterGroupBy["),
    ("/api/v1/meters/{}/subjects", "from to"),
    ("/api/v1/meters/{}/group-by/{}/values", "from to"),
    ("/api/v1/features", f"meterSlug includeArchived {LISTED}"),
    ("/api/v1/features/{}", ""),
    ("/api/v1/customers", f"key name primaryEmail subject expand {LISTED}"),
    ("/api/v1/customers/{}", "expand"),
    ("/api/v1/customers/{}/access", "time"),
    ("/api/v1/customers/{}/entitlements/{}/value", "time"),
    ("/api/v1/subjects", ""),
    ("/api/v1/subjects/{}", ""),
    (SUBJECT, "includeDeleted"),
    (f"{SUBJECT}/{{}}", ""),
    (f"{SUBJECT}/{{}}/value", "time"),
    (f"{SUBJECT}/{{}}/grants", f"includeDeleted {LISTED}"),
    (f"{SUBJECT}/{{}}/history", "from to windowSize windowTimeZone"),
    (f"{CUSTOMERS}/{{}}/grants", f"includeDeleted {LISTED}"),
    (f"{CUSTOMERS}/{{}}/history", "from to windowSize windowTimeZone"),
    ("/api/v1/grants", f"feature subject {LISTED}"),
    ("/api/v2/grants", f"feature customer {LISTED}"),
    ("/api/v1/entitlements", ENTITLEMENTS),
    ("/api/v1/entitlements/{}", ""),
    (CUSTOMERS, LISTED),
    (f"{CUSTOMERS}/{{}}", ""),
    (f"{CUSTOMERS}/{{}}/value", "time"),
    ("/api/v2/entitlements", ENTITLEMENTS),
    ("/api/v2/entitlements/{}", ""),
    ("/{}", ""),
]
WRITES = [
    ("POST", "/api/v1/events", EVENT, "id source specversion type subject time data datacontenttype"),
    (
        "POST",
        "/api/v1/meters",
        METER,
        "slug aggregation eventType eventFrom valueProperty groupBy name metadata",
    ),
    ("PUT", "/api/v1/meters/{}", {}, "name groupBy metadata"),
    ("POST", "/api/v1/meters/{}/query", {}, f"{QUERY} filterGroupBy"),
    (
        "POST",
        "/api/v1/features",
        FEATURE,
        "key name metadata meterSlug meterGroupByFilters advancedMeterGroupByFilters unitCost",
    ),
    ("POST", "/api/v1/customers", CUSTOMER, "name key usageAttribution currency billingAddress metadata"),
    ("PUT", "/api/v1/customers/{}", CUSTOMER, "name key usageAttribution currency billingAddress metadata"),
    ("POST", "/api/v1/subjects", {"key": "s1"}, "key displayName metadata"),
    ("POST", SUBJECT, METERED, f"type featureKey featureId usagePeriod {ENTITLEMENT}"),
    ("POST", CUSTOMERS, METERED, f"type featureKey featureId usagePeriod issue grants {ENTITLEMENT}"),
    (
        "PUT",
        f"{CUSTOMERS}/tokens/override",
        METERED,
        f"type featureKey usagePeriod issue grants {ENTITLEMENT}",
    ),
    ("POST", f"{CUSTOMERS}/tokens/grants", GRANT, GRANT_FIELDS),
    ("POST", f"{SUBJECT}/tokens/grants", GRANT, GRANT_FIELDS),
    ("POST", f"{CUSTOMERS}/tokens/reset", {}, "effectiveAt retainAnchor preserveOverage"),
]
DELETES = ["meters/{}", "features/{}", "customers/{}", "subjects/{}", "subjects/{}/entitlements/{}"]
ACCEPTS = st.sampled_from(["text/csv", "*/*", "application/json", ";;", "text/csv;q=x", "\xe9"])
MEDIA_TYPES = st.sampled_from(
    [
        *(
            "application/json; charset=utf-8",
            "application/cloudevents+json",
            "application/cloudevents-batch+json",
        ),
        *("text/xml", "", "application/json\xe9"),
    ]
)
JUNK = st.binary(max_size=20) | st.sampled_from(
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'"\\ud800"',
        b"NaN",
        b"\xef\xbb\xbf{}",
        b"1e999",
        b"9" * 5000,
        b"[{}]",
    ]
)


def rarely(usual: Any, odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly the usual strategy, so that the rest of the request is looked at too."""
    return st.integers(0, 9).flatmap(lambda number: odd if number == 9 else usual)


@st.composite
def requests(draw: Any) -> tuple[str, str, bytes | None, dict[str, str]]:
    """Method, target, body and headers."""
    kind = draw(st.integers(0, 9))
    method, parameters, body = "GET", "", None
    if kind < 5:
        path, parameters = draw(st.sampled_from(READS))
    elif kind < 9:
        method, path, valid, fields = draw(st.sampled_from(WRITES))
        names = draw(st.lists(st.sampled_from(fields.split()), max_size=4, unique=True))
        changed = {**valid, **{name: draw(rarely(FIELDS.get(name, LEAVES), LEAVES)) for name in names}}
        several = path in ("/api/v1/events", "/api/v1/subjects")
        body = draw(rarely(st.just(json.dumps([changed] if several else changed).encode()), JUNK))
    else:
        method, path = "DELETE", "/api/v1/" + draw(st.sampled_from(DELETES))
    while "{}" in path:
        path = path.replace("{}", quote(draw(rarely(NAMES, TEXTS | ODD | IDS)), safe="'"), 1)
    names = draw(st.lists(st.sampled_from(parameters.split()), max_size=4)) if parameters else []
    pairs = [(name, draw(rarely(FIELDS.get(name, LEAVES), LEAVES))) for name in names]
    query = "&".join(
        f"{quote(name)}={quote(json.dumps(value) if isinstance(value, dict) else str(value))}"
        for name, values in pairs
        for value in (values if isinstance(values, list) else [values])
    )
    headers = {"content-type": draw(rarely(st.just("application/json"), MEDIA_TYPES))}
    headers["accept"] = draw(ACCEPTS)
    headers["x-request-id"] = draw(rarely(st.just("1"), TEXTS.filter(str.isascii)))
    return method, f"{path}?{query}", body, headers


@pytest.fixture
def furnished(openmeter, event):
    """An OpenMeter with something of everything in it, so that random requests get far."""
    for slug, aggregation in (
        ("tokens", "SUM"),
        ("calls", "COUNT"),
        ("unique", "UNIQUE_COUNT"),
        ("latest", "LATEST"),
    ):
        meter = {**METER, "slug": slug, "aggregation": aggregation, "groupBy": {"model": "$.model"}}
        if aggregation == "COUNT":
            del meter["valueProperty"]
        assert openmeter("POST", "/api/v1/meters", meter).status == 200
        assert (
            openmeter("POST", "/api/v1/features", {"key": slug, "name": "F", "meterSlug": slug}).status == 201
        )
    assert openmeter("POST", "/api/v1/features", {"key": "plain", "name": "F"}).status == 201
    for key, subject in (("acme", "s1"), ("model", "n")):
        customer = {"name": "Acme", "key": key, "usageAttribution": {"subjectKeys": [subject]}}
        assert openmeter("POST", "/api/v1/customers", customer).status == 201
    for feature in ("tokens", "unique", "latest"):
        entitlement = {
            **METERED,
            "featureKey": feature,
            "grants": [{"amount": 5, "effectiveAt": "2026-03-15T12:00:00Z"}],
        }
        assert openmeter("POST", "/api/v2/customers/acme/entitlements", entitlement).status == 201
    events = [event(str(n), time=None, data={"n": n, "model": "n"}) for n in range(20)]
    assert openmeter("POST", "/api/v1/events", events).status == 204
    return openmeter


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=700)
@given(requests())
def test_every_request_gets_an_answer_that_openmeter_could_give(furnished, caplog, request_):
    method, target, body, headers = request_
    answer = furnished.runner.run(asyncio.wait_for(furnished.request(method, target, body, headers), 10))
    assert answer.status < 500, [record.exc_text for record in caplog.records]
    if answer.status >= 400:
        assert answer.detail
    elif answer.status != 204 and answer.headers["content-type"] != "text/csv":
        msgspec.json.decode(answer.body)
