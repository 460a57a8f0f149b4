"""What OpenMeter counts and for which feature, read from the embedded OpenMeter and from servers that differ."""

import asyncio
import json
import re
import time

import pytest

from metergate.errors import OpenMeterOutage
from metergate.openmeter import catalog as lists
from metergate.openmeter.access import AccessClient
from metergate.openmeter.catalog import Catalog, Feature, Filter, Meter, read_filter
from metergate.openmeter.values import MeteredEntitlement
from metergate.testing.processes import openmeter_server
from metergate.testing.scripted import ScriptedUpstream

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
METERS = [
    {"slug": "requests", "aggregation": "COUNT", "eventType": "request"},
    {
        "slug": "tokens",
        "aggregation": "SUM",
        "eventType": "prompt",
        "valueProperty": "$.tokens",
        "groupBy": {"model": "$.model", "kind": "$.kind"},
        "eventFrom": "2026-01-01T00:00:00Z",
    },
]
FEATURES = [
    {"key": "api", "name": "API", "meterSlug": "requests"},
    {
        "key": "gpt",
        "name": "GPT",
        "meterSlug": "tokens",
        "advancedMeterGroupByFilters": {"model": {"$in": ["gpt-4", "gpt-4o"]}, "kind": {"$eq": "input"}},
    },
    {"key": "sso", "name": "Single sign-on"},
]
MONTH = {"interval": "MONTH"}
CUSTOMERS = [
    {"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["acme-eu", "a/b"]}},
    {"key": "soft", "name": "Soft", "usageAttribution": {"subjectKeys": ["soft"]}},
]
ENTITLEMENTS = [
    {"customer": "acme", "featureKey": "api", "type": "metered", "usagePeriod": MONTH, "issueAfterReset": 5},
    {"customer": "acme", "featureKey": "sso", "type": "boolean"},
    {"customer": "soft", "featureKey": "api", "type": "metered", "usagePeriod": MONTH, "isSoftLimit": True},
]


@pytest.fixture(scope="module")
def openmeter(tmp_path_factory):
    configuration = {
        "meters": METERS,
        "features": FEATURES,
        "customers": CUSTOMERS,
        "entitlements": ENTITLEMENTS,
    }
    with openmeter_server(tmp_path_factory.mktemp("openmeter") / "data", configuration) as server:
        yield server


@pytest.fixture
def api():
    with ScriptedUpstream() as running:
        yield running


def run(url, read):
    """What one read of a client gives."""

    async def reading():
        client = AccessClient(url, "key")
        try:
            return await read(client)
        finally:
            await client.close()

    return asyncio.run(reading())


def answer(document, status=200):
    """A script that answers with a JSON document."""
    body = json.dumps(document).encode()
    kind = "application/json" if status == 200 else "application/problem+json"
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return lambda exchange: exchange.send(head.encode() + body)


NOT_FOUND = answer({"type": "about:blank", "title": "Not Found", "status": 404}, 404)


def without_ids(items):
    assert all(ULID.fullmatch(item.id) for item in items)
    return [{name: getattr(item, name) for name in item.__struct_fields__ if name != "id"} for item in items]


# --- the lists


def test_all_features_and_meters_are_read_with_what_a_count_needs(openmeter):
    found = run(openmeter.url, lambda client: client.catalog())
    assert without_ids(found.meters) == without_ids(
        [
            Meter("requests", found.meters[0].id, "request", "COUNT"),
            Meter(
                "tokens",
                found.meters[1].id,
                "prompt",
                "SUM",
                "$.tokens",
                {"model": "$.model", "kind": "$.kind"},
                1767225600.0,
            ),
        ]
    )
    filters = {"model": Filter(in_=("gpt-4", "gpt-4o")), "kind": Filter(eq="input")}
    assert without_ids(found.features) == without_ids(
        [
            Feature("api", found.features[0].id, "requests"),
            Feature("gpt", found.features[1].id, "tokens", {"kind": "input"}, filters),
            Feature("sso", found.features[2].id),
        ]
    )
    assert found.feature("gpt") is found.features[1]
    assert found.meter("tokens") is found.meter(found.meters[1].id) is found.meters[1]
    assert found.feature("nothing") is None
    assert found.meter("nothing") is None


def listed(items):
    """Scripts of lists in pages, as OpenMeter's: the page asked for, out of all."""

    def script(exchange):
        page, size = (int(part) for part in re.findall(r"page(?:Size)?=(\d+)", exchange.target))
        shown = items[(page - 1) * size : page * size]
        answer({"totalCount": len(items), "page": page, "pageSize": size, "items": shown})(exchange)

    return script


def feature(number, **more):
    return {"id": f"id-{number}", "key": f"key-{number}", "name": "x", **more}


def meter(number, **more):
    return {"id": f"id-{number}", "slug": f"slug_{number}", "eventType": "e", "aggregation": "COUNT", **more}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_every_page_is_read(api, monkeypatch, count):
    monkeypatch.setattr(lists, "PAGE_SIZE", 3)
    api.on("/api/v1/features", listed([feature(number) for number in range(count)]))
    api.on("/api/v1/meters", listed([meter(number) for number in range(count)]))
    found = run(api.url, lambda client: client.catalog())
    assert [each.key for each in found.features] == [f"key-{number}" for number in range(count)]
    assert [each.slug for each in found.meters] == [f"slug_{number}" for number in range(count)]


def test_a_server_that_sends_one_and_the_same_full_list_for_every_page_is_asked_twice(api, monkeypatch):
    monkeypatch.setattr(lists, "PAGE_SIZE", 2)
    api.on("/api/v1/features", answer([]))
    api.on("/api/v1/meters", answer([meter(1), meter(2)]))
    found = run(api.url, lambda client: client.catalog())
    assert [each.slug for each in found.meters] == ["slug_1", "slug_2"]
    assert len(api.targets) == 3


def test_archived_features_and_deleted_meters_are_left_out(api):
    then = "2026-01-01T00:00:00Z"
    api.on("/api/v1/features", answer([feature(1, archivedAt=then), feature(2)]))
    api.on("/api/v1/meters", answer([meter(1), meter(2, deletedAt=then)]))
    found = run(api.url, lambda client: client.catalog())
    assert found == Catalog(
        (Feature("key-2", "id-2"),),
        (Meter("slug_1", "id-1", "e", "COUNT"),),
    )


def test_a_server_that_knows_only_simple_filters_gives_both_forms(api):
    api.on("/api/v1/features", answer([feature(1, meterSlug="m", meterGroupByFilters={"model": "gpt-4"})]))
    api.on("/api/v1/meters", answer([]))
    (found,) = run(api.url, lambda client: client.catalog()).features
    assert (found.simple_filters, found.filters) == ({"model": "gpt-4"}, {"model": Filter(eq="gpt-4")})


@pytest.mark.parametrize(
    ("features", "meters"),
    [
        ({"data": []}, []),
        (["x"], []),
        ([{"id": "1"}], []),
        ([feature(1, meterGroupByFilters={"a": 1})], []),
        ([feature(1, advancedMeterGroupByFilters=["a"])], []),
        ([], [{"id": "1", "slug": "a"}]),
        ([], [meter(1, groupBy="x")]),
        ([], [meter(1, eventFrom="yesterday")]),
        ([], [meter(1, eventFrom="2026-01-01T00:00:00")]),
    ],
)
def test_a_list_that_is_not_as_documented_is_an_outage_and_not_an_empty_list(api, features, meters):
    api.on("/api/v1/features", answer(features))
    api.on("/api/v1/meters", answer(meters))
    with pytest.raises(OpenMeterOutage):
        run(api.url, lambda client: client.catalog())


def test_a_missing_list_is_an_outage(api):
    api.on("/api/v1/features", NOT_FOUND)
    with pytest.raises(OpenMeterOutage, match="features answered that it has none"):
        run(api.url, lambda client: client.catalog())


def test_a_filter_is_read_with_all_its_operators():
    texts = (
        "eq",
        "ne",
        "like",
        "nlike",
        "ilike",
        "nilike",
        "contains",
        "ncontains",
        "gt",
        "gte",
        "lt",
        "lte",
    )
    condition = {f"${name}": name for name in texts}
    condition |= {"$in": ["a"], "$nin": [], "$exists": False, "$or": [{"$eq": "a"}, {"$and": []}]}
    assert read_filter(condition) == Filter(
        **{name: name for name in texts},
        in_=("a",),
        nin=(),
        exists=False,
        or_=(Filter(eq="a"), Filter(and_=())),
    )


def test_an_operator_with_null_says_nothing():
    assert read_filter({"$eq": "a", "$ne": None}) == Filter(eq="a")


@pytest.mark.parametrize(
    ("condition", "unknown"),
    [
        ({"$regex": "x", "$eq": "a"}, ("$regex",)),
        ({"$in": [1]}, ("$in",)),
        ({"$in": "a"}, ("$in",)),
        ({"$eq": 1}, ("$eq",)),
        ({"$exists": "yes"}, ("$exists",)),
        ({"$and": {}}, ("$and",)),
        ("gpt-4", ("str",)),
    ],
)
def test_what_cannot_be_read_of_a_filter_is_said_and_does_not_pass_for_no_filter(condition, unknown):
    assert read_filter(condition).unknown == unknown


# --- what is fixed of an entitlement


def entitlement(url, subject, feature):
    return run(url, lambda client: client.entitlement(subject, feature))


@pytest.mark.parametrize("subject", ["acme", "acme-eu", "a/b"])
def test_a_metered_entitlement_says_whose_it_is_and_when_its_period_ends(openmeter, subject):
    found = entitlement(openmeter.url, subject, "api")
    assert found is not None
    assert not found.is_soft_limit
    assert ULID.fullmatch(found.customer_id)
    assert found.customer_id == entitlement(openmeter.url, "acme", "api").customer_id
    assert time.time() < found.period_end < time.time() + 32 * 86400


def test_a_soft_limit_is_told(openmeter):
    assert entitlement(openmeter.url, "soft", "api").is_soft_limit


@pytest.mark.parametrize(
    ("subject", "feature"),
    [
        ("acme", "sso"),
        ("acme", "gpt"),
        ("soft", "sso"),
        ("nobody", "api"),
        ("", "api"),
        ("a\0", "api"),
        ("acme", "../x"),
    ],
)
def test_there_is_none_for_another_type_another_feature_and_nobody(openmeter, subject, feature):
    assert entitlement(openmeter.url, subject, feature) is None


METERED = {
    "id": "1",
    "type": "metered",
    "featureKey": "api",
    "isSoftLimit": True,
    "currentUsagePeriod": {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T01:00:00+01:00"},
}
FEBRUARY = 1769904000.0
JANUARY = FEBRUARY - 31 * 86_400


def test_it_is_one_request_where_the_customer_has_it(api):
    api.on("/api/v2/customers/acme/entitlements/api", answer({**METERED, "customerId": "c1"}))
    assert entitlement(api.url, "acme", "api") == MeteredEntitlement(True, "c1", FEBRUARY, JANUARY)
    assert api.targets == ["/api/v2/customers/acme/entitlements/api"]


def test_a_server_without_version_2_is_asked_for_the_subjects_list(api):
    api.on("/api/v2/", NOT_FOUND)
    api.on("/api/v1/customers/acme/access", answer({"entitlements": {"api": {"hasAccess": True}}}))
    api.on("/api/v1/subjects/acme/entitlements", answer([{**METERED, "featureKey": "other"}, METERED]))
    assert entitlement(api.url, "acme", "api") == MeteredEntitlement(True, None, FEBRUARY, JANUARY)


def test_a_server_without_customers_is_asked_for_the_subjects_list(api):
    for path in ("/api/v2/", "/api/v1/customers"):
        api.on(path, NOT_FOUND)
    api.on("/api/v1/subjects/acme/entitlements", answer([METERED]))
    api.on("/api/v1/subjects/acme/entitlements/api/value", answer({"hasAccess": True}))
    assert entitlement(api.url, "acme", "api") == MeteredEntitlement(True, None, FEBRUARY, JANUARY)


def test_a_customer_without_the_feature_never_gets_that_of_another_whose_subject_is_called_the_same(api):
    api.on("/api/v2/", NOT_FOUND)
    api.on("/api/v1/customers/acme/access", answer({"entitlements": {}}))
    api.on(
        "/api/v1/customers?subject=acme",
        answer({"items": [{"id": "other", "usageAttribution": {"subjectKeys": ["acme"]}}]}),
    )
    api.on("/api/v2/customers/other/entitlements/api", answer({**METERED, "customerId": "other"}))
    assert entitlement(api.url, "acme", "api") is None


def test_a_period_that_is_not_said_is_none_and_one_that_is_no_time_an_outage(api):
    path = "/api/v2/customers/acme/entitlements/api"
    api.on(path, answer({"type": "metered", "customerId": "c1"}))
    assert entitlement(api.url, "acme", "api") == MeteredEntitlement(False, "c1")
    api.on(path, answer({**METERED, "currentUsagePeriod": {"to": "soon"}}))
    with pytest.raises(OpenMeterOutage, match="RFC 3339"):
        entitlement(api.url, "acme", "api")


def test_each_request_is_counted(api):
    requests = []
    api.on("/api/v2/", NOT_FOUND)
    api.on("/api/v1/customers/acme/access", answer({"entitlements": {}}))

    async def read(client):
        client.count_requests(lambda: requests.append(len(api.targets)))
        await client.entitlement("acme", "api")

    run(api.url, read)
    assert requests == [0, 1]


# --- when a balance changes by itself


def rises(url, subject, feature):
    return run(url, lambda client: client.rises(subject, feature))


@pytest.mark.parametrize("version", [2, 1])
def test_a_balance_changes_with_its_period_and_its_grants(api, version):
    grants = [{"effectiveAt": "2026-01-05T00:00:00Z", "nextRecurrence": "2026-01-06T00:00:00Z"}, {"id": "g"}]
    times = {JANUARY, FEBRUARY, JANUARY + 4 * 86_400, JANUARY + 5 * 86_400}
    if version == 2:
        api.on("/api/v2/customers/acme/entitlements/api/grants", answer({"items": grants}))
        api.on("/api/v2/customers/acme/entitlements/api", answer({**METERED, "customerId": "c1"}))
    else:
        for path in ("/api/v2/", "/api/v1/customers"):
            api.on(path, NOT_FOUND)
        api.on("/api/v1/subjects/acme/entitlements/api/grants", answer(grants))
        api.on("/api/v1/subjects/acme/entitlements/api/value", answer({"hasAccess": True}))
        api.on("/api/v1/subjects/acme/entitlements", answer([METERED]))
    assert set(rises(api.url, "acme", "api")) == times


def test_with_no_entitlement_no_balance_changes(openmeter):
    assert rises(openmeter.url, "nobody", "api") == ()


def test_a_server_that_does_not_list_grants_says_when_the_period_ends(api):
    api.on("/api/v2/customers/acme/entitlements/api/grants", NOT_FOUND)
    api.on("/api/v2/customers/acme/entitlements/api", answer({**METERED, "customerId": "c1"}))
    assert set(rises(api.url, "acme", "api")) == {JANUARY, FEBRUARY}
