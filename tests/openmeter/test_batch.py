"""Many subjects in one query: what is sent, what comes back, and how a server that does not have it is told."""

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from metergate.errors import OpenMeterOutage, OpenMeterThrottled
from metergate.openmeter.access import AccessClient, fits_batch
from metergate.openmeter.batch import LONGEST_KEY, BatchAccess
from metergate.testing.processes import openmeter_server
from metergate.testing.scripted import ScriptedUpstream

PATH = "/api/v3/openmeter/entitlement-access/query"


@pytest.fixture
def api():
    with ScriptedUpstream() as running:
        yield running
    assert not running.failures


def answer(document, status=200, headers=""):
    """A script that answers with a JSON document."""
    body = json.dumps(document).encode() if not isinstance(document, bytes) else document
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"

    def script(exchange):
        exchange.body()
        exchange.send(head.encode() + body)

    return script


def query(url, subjects, features=("api",)):
    async def asking():
        client = AccessClient(url, "s3cret")
        try:
            return await client.query(subjects, features)
        finally:
            await client.close()

    return asyncio.run(asking())


def result(matched, **features):
    return {
        "matched": matched,
        "customer": {"id": "01G65Z755AFWAKHE12NY0CQ9FH"},
        "features": {key: {"has_access": has_access} for key, has_access in features.items()},
        "updated_at": "2026-01-01T00:00:00Z",
    }


def test_one_request_asks_for_all_subjects_and_features(api):
    sent = []

    def script(exchange):
        sent.append((exchange.method, exchange.target, exchange.headers, json.loads(exchange.body())))
        answer({"data": [], "errors": [], "meta": {}})(exchange)

    api.on(PATH, script)
    assert query(api.url, ["a", 'b"\n', "客户"], ["api", "sso"]) == BatchAccess({})
    ((method, target, headers, body),) = sent
    assert (method, urlsplit(target).path) == ("POST", PATH)
    assert parse_qs(urlsplit(target).query) == {"page[size]": ["100"]}
    assert ("content-type", "application/json") in headers
    assert ("authorization", "Bearer s3cret") in headers
    assert body == {"customer": {"keys": ["a", 'b"\n', "客户"]}, "feature": {"keys": ["api", "sso"]}}


def test_access_is_told_for_every_key_that_matched_and_who_is_unknown(api):
    document = {
        "data": [result(["acme", "acme-eu"], api=True, sso=False), result(["soft"], api=False)],
        "errors": [
            {"code": "customer_not_found", "message": "no", "customer": "ghost"},
            {"code": "unknown", "message": "?", "customer": "odd"},
            {"code": "customer_not_found", "message": "whose?"},
        ],
        "meta": {"page": {"size": 100, "next": None}},
    }
    api.on(PATH, answer(document))
    both = {"api": True, "sso": False}
    assert query(api.url, ["acme", "acme-eu", "soft", "ghost", "odd"]) == BatchAccess(
        {"acme": both, "acme-eu": both, "soft": {"api": False}}, frozenset({"ghost"})
    )


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 412, 415, 422, 501])
def test_a_server_that_does_not_offer_it_is_no_outage_whoever_answers(api, status):
    api.on(PATH, answer(b"<html>no</html>", status))
    assert query(api.url, ["a"]) is None


@pytest.mark.parametrize(
    "document",
    [
        b"<html>hello</html>",
        [],
        {},
        {"data": {}},
        {"data": ["x"]},
        {"data": [{"matched": ["a"]}]},
        {"data": [{"matched": "a", "features": {}}]},
        {"data": [{"matched": ["a"], "features": {"api": True}}]},
        {"data": [{"matched": ["a"], "features": {"api": {"has_access": "yes"}}}]},
    ],
)
def test_an_answer_that_is_not_as_documented_is_an_outage_and_grants_and_denies_nobody(api, document):
    api.on(PATH, answer(document))
    with pytest.raises(OpenMeterOutage, match="but the body") as caught:
        query(api.url, ["secret-name"])
    assert "secret-name" not in str(caught.value)


def test_a_failure_is_an_outage_and_a_429_says_how_long_to_wait(api):
    api.on(PATH, answer({}, 500))
    with pytest.raises(OpenMeterOutage):
        query(api.url, ["a"])
    api.on(PATH, answer({}, 429, "retry-after: 7\r\n"))
    with pytest.raises(OpenMeterThrottled) as caught:
        query(api.url, ["a"])
    assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    ("subject", "fits"),
    [
        ("acme", True),
        ("a/b", True),
        ("x" * LONGEST_KEY, True),
        ("x" * (LONGEST_KEY + 1), False),
        ("", False),
        ("a\0", False),
        ("\ud800", False),
    ],
)
def test_a_name_that_the_query_cannot_hold_is_told_before(subject, fits):
    assert fits_batch(subject) == fits


def test_the_embedded_openmeter_answers_for_keys_and_subject_keys(tmp_path):
    month = {"interval": "MONTH"}
    configuration = {
        "meters": [{"slug": "requests", "aggregation": "COUNT", "eventType": "request"}],
        "features": [
            {"key": "api", "name": "API", "meterSlug": "requests"},
            {"key": "sso", "name": "Single sign-on"},
        ],
        "customers": [
            {"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["acme-eu"]}},
            {"key": "empty", "name": "Empty", "usageAttribution": {"subjectKeys": ["empty"]}},
        ],
        "entitlements": [
            {
                "customer": "acme",
                "featureKey": "api",
                "type": "metered",
                "usagePeriod": month,
                "issueAfterReset": 5,
            },
            {"customer": "acme", "featureKey": "sso", "type": "boolean"},
            {"customer": "empty", "featureKey": "api", "type": "metered", "usagePeriod": month},
        ],
    }
    with openmeter_server(tmp_path / "data", configuration) as server:
        found = query(server.url, ["acme", "acme-eu", "empty", "ghost"], ["api", "sso", "none"])
    acme = {"api": True, "sso": True, "none": False}
    assert found == BatchAccess(
        {"acme": acme, "acme-eu": acme, "empty": {"api": False, "sso": False, "none": False}},
        frozenset({"ghost"}),
    )
