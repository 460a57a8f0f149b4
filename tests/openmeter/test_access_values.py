import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import OpenMeterOutage
from metergate.openmeter.values import (
    Customer,
    FeatureValue,
    SubjectAccess,
    read_access,
    read_customers,
    read_feature_keys,
    read_subject,
    read_value,
)

READERS = [
    lambda body: read_access(body, "GET /x"),
    lambda body: read_value(body, "f", "GET /x"),
    lambda body: read_customers(body, "GET /x"),
    lambda body: read_feature_keys(body, "GET /x"),
    lambda body: read_subject(body, "GET /x"),
]


def value(document):
    return read_value(json.dumps(document).encode(), "f", "GET /x")


def test_an_access_answer_is_all_features_in_order_and_unknown_members_are_passed_over():
    body = b"""{"new": 1, "entitlements": {
        "api": {"hasAccess": true, "balance": 12.5, "usage": 3, "overage": 0, "totalAvailableGrantAmount": 9, "x": []},
        "sso": {"hasAccess": true}, "plan": {"hasAccess": true, "config": "{}"}, "off": {"hasAccess": false}}}"""
    access = SubjectAccess("found", read_access(body, "GET /x"))
    assert access.features == (
        FeatureValue("api", True, 12.5, 3, 0),
        FeatureValue("sso", True),
        FeatureValue("plan", True),
        FeatureValue("off", False),
    )
    assert access.feature("sso") == FeatureValue("sso", True)
    assert access.feature("none") is None


@pytest.mark.parametrize(
    ("given_", "read"),
    [(3, 3), (3.5, 3.5), ("3.5", 3.5), ("0", 0), (0.0, 0), (None, None), (-1, -1), (1e300, 1e300)],
)
def test_a_number_may_be_an_integer_a_float_or_a_decimal_string(given_, read):
    assert value({"hasAccess": True, "balance": given_}).balance == read


@pytest.mark.parametrize(
    "number",
    [True, [], {}, "", "much", "NaN", "Infinity", "-inf", 10**400, "1e400"],
    ids=lambda number: repr(number)[:10],
)
def test_a_balance_that_is_no_number_is_an_outage(number):
    with pytest.raises(OpenMeterOutage):
        value({"hasAccess": True, "balance": number})


@pytest.mark.parametrize("access", [None, 0, 1, "true", "false", []])
def test_access_that_is_no_boolean_is_an_outage_and_never_a_grant(access):
    with pytest.raises(OpenMeterOutage, match="hasAccess"):
        value({"hasAccess": access})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"{}",
        b"[]",
        b'{"entitlements": null}',
        b'{"entitlements": {"a": true}}',
        b"\xff",
    ],
)
def test_a_200_that_is_not_an_access_answer_is_an_outage(body):
    with pytest.raises(OpenMeterOutage, match="apiUrl"):
        read_access(body, "GET /x")


@pytest.mark.parametrize("read", READERS)
@given(body=st.binary(max_size=60))
def test_no_bytes_raise_anything_but_an_outage(read, body):
    with pytest.raises(OpenMeterOutage):
        read(body if body.strip() != b"[]" else b"")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "entitlements",
                    "hasAccess",
                    "balance",
                    "items",
                    "id",
                    "key",
                    "usageAttribution",
                    "subjectKeys",
                    "featureKey",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("read", READERS)
@given(document=json_values)
def test_no_json_raises_anything_but_an_outage(read, document):
    with contextlib.suppress(OpenMeterOutage):
        read(json.dumps(document).encode())


def test_customers_are_read_with_key_and_subjects_and_without_the_deleted():
    items = [
        {"id": "1", "key": "a", "usageAttribution": {"subjectKeys": ["x", "y"]}},
        {"id": "2", "usageAttribution": None},
        {"id": "3", "key": "c", "deletedAt": "2026-01-01T00:00:00Z"},
        {"id": "4", "key": "d", "deletedAt": None, "usageAttribution": {"subjectKeys": None}},
    ]
    assert read_customers(json.dumps({"items": items}).encode(), "GET /x") == [
        Customer("1", "a", ("x", "y")),
        Customer("2", None, ()),
        Customer("4", "d", ()),
    ]


def test_feature_keys_are_read_each_once_and_a_subject_by_id_and_key():
    assert read_feature_keys(
        b'[{"featureKey": "b"}, {"featureKey": "a"}, {"featureKey": "b"}]', "GET /x"
    ) == ("b", "a")
    assert read_subject(b'{"id": "1", "key": "k", "displayName": null}', "GET /x") == ("1", "k")


@pytest.mark.parametrize("read", READERS)
def test_an_answer_too_deep_to_be_read_is_an_outage(read):
    with pytest.raises(OpenMeterOutage):
        read(b"[" * 100_000)
