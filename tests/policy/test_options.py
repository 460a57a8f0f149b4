"""The options: every refusal in its words, every default, every form that loads."""

from __future__ import annotations

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.policy import (
    DeliveryOptions,
    EntitlementCheck,
    FeatureCheck,
    Meter,
    Secret,
    Unset,
    read_options,
    strictly,
)

REFUSALS = json.loads((pathlib.Path(__file__).parent / "golden" / "refusals.json").read_text())


@pytest.mark.parametrize("number", range(len(REFUSALS)), ids=[case["what"] for case in REFUSALS])
def test_what_is_wrong_is_said_all_at_once_with_its_path_and_what_to_write(number, golden):
    case = golden("refusals.json")[number]
    policy, findings = read_options(case["options"], name="metering")
    said = [[finding.severity, finding.path, finding.message, finding.fix] for finding in findings]
    assert said == case["findings"]
    assert (policy is not None) == case["loads"]
    assert case["loads"] == all(finding.severity == "warning" for finding in findings)
    assert all(finding.policy == "metering" for finding in findings)


def test_the_defaults_are_the_documented_ones():
    policy, findings = read_options({"apiKey": "k"}, name="metering")
    assert findings == []
    assert policy is not None
    assert policy.name == "metering"
    assert policy.api_key == Secret("k")
    assert policy.api_url == "https://openmeter.cloud"
    assert policy.meters == ()
    assert str(policy.statuses) == "200-299"
    assert policy.event_source == "api-gateway"
    assert policy.required_entitlements == ()
    assert str(policy.subject_path) == ".sub"
    assert policy.entitlement_check == EntitlementCheck(
        5.0, 300.0, 2.0, "allow", 403, "enforce", None, 25.0, None, 5.0, ()
    )
    assert policy.delivery == DeliveryOptions("process", 500, 100)


def test_every_option_is_read(policy):
    read = policy(
        apiUrl="http://openmeter:8888",
        meter=[{"type": "a", "data": {"n": 1}}, {"type": "b", "subject": "s", "source": "src"}],
        meterOnStatusCodes="200-299, 304",
        eventSource="billing",
        requiredEntitlements=["api-calls", "premium_tier", "api-calls"],
        subjectPath=".data.accountId",
        entitlementCheck={
            "ttlSeconds": 0,
            "maxStaleSeconds": 60,
            "timeoutSeconds": 0.5,
            "onError": "deny",
            "exhaustedStatus": 429,
            "mode": "shadow",
            "reserve": 4000,
            "maxReadsPerSecond": 0.5,
            "explainHeader": "X-Why",
            "visibilitySeconds": 0,
        },
        delivery={"durability": "power", "batchSize": 1, "maxDelayMs": 0},
    )
    assert read.api_url == "http://openmeter:8888"
    assert read.meters == (Meter("a", {"n": 1}), Meter("b", subject="s", source="src"))
    assert str(read.statuses) == "200-299,304"
    assert read.event_source == "billing"
    assert read.required_entitlements == ("api-calls", "premium_tier")
    assert str(read.subject_path) == ".data.accountId"
    assert read.entitlement_check == EntitlementCheck(
        0.0, 60.0, 0.5, "deny", 429, "shadow", 4000.0, 0.5, "x-why", 0.0
    )
    assert read.delivery == DeliveryOptions("power", 1, 0)


def test_numbers_may_be_strings_because_environment_variables_are(policy):
    read = policy(
        meterOnStatusCodes="201",
        entitlementCheck={
            "ttlSeconds": "2.5",
            "maxStaleSeconds": " 60 ",
            "timeoutSeconds": "1",
            "exhaustedStatus": "402",
            "reserve": " 0.25 ",
            "maxReadsPerSecond": "30",
            "explainHeader": "true",
            "visibilitySeconds": "2.5",
        },
        delivery={"batchSize": "100", "maxDelayMs": "50"},
    )
    assert read.entitlement_check == EntitlementCheck(
        2.5, 60.0, 1.0, "allow", 402, "enforce", 0.25, 30.0, "x-metergate-decision", 2.5
    )
    assert read.delivery == DeliveryOptions("process", 100, 50)
    assert 201 in read.statuses


# --- a feature's own settings


def test_an_entry_may_be_an_object_with_settings_that_differ_for_its_feature(policy):
    read = policy(
        requiredEntitlements=[
            "api",
            {"feature": "tokens", "exhaustedStatus": 429, "reserve": "4000"},
            {"feature": "sso", "onError": "deny"},
            {"feature": "plain"},
            "api",
        ],
        entitlementCheck={"exhaustedStatus": 402, "reserve": 1},
    )
    assert read.required_entitlements == ("api", "tokens", "sso", "plain")
    check = read.entitlement_check
    assert check.features == (
        FeatureCheck("tokens", "allow", 429, 4000.0),
        FeatureCheck("sso", "deny", 402, 1.0),
    )
    assert check.of("tokens") == FeatureCheck("tokens", "allow", 429, 4000.0)
    assert check.of("api") == FeatureCheck("api", "allow", 402, 1.0)
    assert check.of("another") == FeatureCheck("another", "allow", 402, 1.0)


def test_objects_that_set_what_holds_anyway_make_the_same_policy_as_strings(policy):
    entries = [{"feature": "api"}, {"feature": "sso", "onError": "allow", "exhaustedStatus": "403"}]
    assert policy(requiredEntitlements=entries) == policy(requiredEntitlements=["api", "sso"])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (True, "x-metergate-decision"),
        (" TRUE ", "x-metergate-decision"),
        (False, None),
        ("false", None),
        ("X-Decision", "x-decision"),
        (" decision ", "decision"),
    ],
)
def test_the_header_that_explains_has_the_name_that_is_written(policy, written, name):
    assert policy(entitlementCheck={"explainHeader": written}).entitlement_check.explain_header == name


@pytest.mark.parametrize(
    "name",
    [
        "connection",
        "Content-Length",
        "Content-Type",
        "transfer-encoding",
        "set-cookie",
        "zp-rid",
        "Retry-After",
    ],
)
def test_a_header_that_says_something_else_already_is_refused(name):
    policy, findings = read_options({"apiKey": "k", "entitlementCheck": {"explainHeader": name}}, name="p")
    assert policy is None
    assert [finding.path for finding in findings] == ["$.entitlementCheck.explainHeader"]


@pytest.mark.parametrize("name", ["x y", "x: y", "x,y", "\u00e9", "x" * 101, "x\r\nset-cookie: a", "x\x00"])
def test_what_no_header_can_be_called_is_refused(name):
    policy, findings = read_options({"apiKey": "k", "entitlementCheck": {"explainHeader": name}}, name="p")
    assert policy is None
    assert [finding.path for finding in findings] == ["$.entitlementCheck.explainHeader"]


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://openmeter.cloud", "https://openmeter.cloud"),
        ("https://openmeter.cloud/", "https://openmeter.cloud"),
        ("https://openmeter.cloud//", "https://openmeter.cloud"),
        (" https://openmeter.cloud\n", "https://openmeter.cloud"),
        ("HTTPS://OpenMeter.Cloud/Base", "https://openmeter.cloud/Base"),
        ("http://localhost:8888", "http://localhost:8888"),
        ("http://127.0.0.1:8888/openmeter/", "http://127.0.0.1:8888/openmeter"),
        ("http://[::1]:8888", "http://[::1]:8888"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]"),
    ],
)
def test_an_api_url_is_read_without_trailing_slash_and_without_a_warning(url, base):
    policy, findings = read_options({"apiKey": "k", "apiUrl": url}, name="p")
    assert findings == []
    assert policy is not None
    assert policy.api_url == base


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("openmeter.example.com", "https://openmeter.example.com"),
        ("openmeter.example.com/api/v1", "https://openmeter.example.com"),
        ("localhost:8888", "http://localhost:8888"),
        ("127.0.0.1:8888", "http://127.0.0.1:8888"),
        ("127.0.0.53", "http://127.0.0.53"),
        ("[::1]:8888", "http://[::1]:8888"),
        ("10.1.2.3:8888", "http://10.1.2.3:8888"),
        ("openmeter:8888", "http://openmeter:8888"),
        ("om.internal/api/v1/", "http://om.internal"),
        ("8.8.8.8", "https://8.8.8.8"),
    ],
)
def test_a_host_alone_is_completed_and_one_nearby_never_with_https(url, meant):
    _, [finding] = read_options({"apiKey": "k", "apiUrl": url}, name="p")
    assert finding.fix == f'Write "{meant}".'


@pytest.mark.parametrize(
    "source",
    [
        *(
            "api-gateway",
            "/gateways/1",
            "urn:uuid:1",
            "https://api.example.com/a?b=c#d",
            "//host:80/x",
            "a%20b",
        ),
        *("my.gateway", "a/b:c", "mailto:x@y", "http://[::1]:80/", "?q", "#f", "a@b"),
    ],
)
def test_an_event_source_that_is_a_uri_reference_is_not_doubted(source):
    assert read_options({"apiKey": "k", "eventSource": source}, name="p")[1] == []


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("my gateway", "my-gateway"),
        ("100%", "100%25"),
        ("<gw>", "%3Cgw%3E"),
        ("Z\u00fcrich", "Z%C3%BCrich"),
        ("1:gateway", "/1:gateway"),
        ("a#b#c", "a%23b%23c"),
    ],
)
def test_an_event_source_that_is_no_uri_reference_is_doubted_and_kept(source, meant):
    policy, [finding] = read_options({"apiKey": "k", "eventSource": source}, name="p")
    assert policy is not None
    assert policy.event_source == source
    assert (finding.severity, finding.path, finding.fix) == ("warning", "$.eventSource", f'Write "{meant}".')


@pytest.mark.parametrize("end", ["/api/v1", "/api/v1/", "/api/v1/events", "/api/v1/events/"])
@pytest.mark.parametrize("base", ["https://openmeter.cloud", "http://[::1]:8888", "http://localhost:8888/om"])
def test_an_api_url_with_the_api_s_path_is_trimmed_with_a_warning(base, end):
    policy, findings = read_options({"apiKey": "k", "apiUrl": base + end}, name="p")
    assert [(finding.severity, finding.path) for finding in findings] == [("warning", "$.apiUrl")]
    assert policy is not None
    assert policy.api_url == base


@pytest.mark.parametrize(
    "options",
    [
        {"apiKey": "om_very secret"},
        {"apiKey": ["om_very secret"]},
        {"apiKey": " Bearer om_very_secret ", "foo": 1},
        {"apiKey": "k", "apiUrl": "https://me:om_very@secret"},
        {"apiKey": "k", "apiUrl": "https://openmeter.cloud?token=om_very"},
        {"apiKey": "k", "apiUrl": "me:om_very@secret"},
        {"apikey": "om_very_secret"},
        {"apiKey": "k", "token": "om_very_secret"},
    ],
)
def test_no_finding_repeats_a_secret(options):
    _, findings = read_options(options, name="p")
    assert findings
    assert "om_very" not in " ".join(str(finding) for finding in findings)


def test_static_data_is_a_copy(policy):
    data = {"tags": ["a"]}
    read = policy(meter={"type": "a", "data": data})
    data["tags"].append("b")
    assert read.meters[0].data == {"tags": ["a"]}


def test_static_data_that_json_cannot_hold_is_refused_by_its_place():
    _, findings = read_options({"apiKey": "k", "meter": {"type": "a", "data": {"n": [1e999]}}}, name="p")
    assert [(finding.path, finding.message) for finding in findings] == [
        ("$.meter.data.n[0]", "The value is infinity, which JSON cannot hold.")
    ]


def test_under_strict_a_warning_is_an_error():
    _, findings = read_options({"apiKey": "k", "foo": 1}, name="p")
    assert [finding.severity for finding in findings] == ["warning"]
    assert [finding.severity for finding in strictly(findings)] == ["error"]
    assert [finding.message for finding in strictly(findings)] == [finding.message for finding in findings]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1, 2}, "a Python set"),
        ("x" * 100, 'the string "' + "x" * 59 + "…"),
        ("\ud800", "a string with a lone surrogate, which UTF-8 cannot carry"),
        (float("nan"), "the number NaN"),
    ],
)
def test_a_value_that_json_does_not_know_or_that_is_long_is_still_named(value, said):
    _, findings = read_options({"apiKey": "k", "delivery": {"durability": value}}, name="p")
    expected = f'"durability" has to be "memory", "process" or "power", not {said}.'
    assert [finding.message for finding in findings] == [expected]


def test_a_numeric_status_that_python_cannot_write_out_is_refused():
    policy, findings = read_options({"apiKey": "k", "meterOnStatusCodes": 10**5000}, name="p")
    assert policy is None
    assert [finding.message for finding in findings] == ["a Python int is outside 100 to 599."]


def test_an_unset_variable_is_shown_as_it_is_written():
    _, findings = read_options({"apiKey": "k", "ttlSeconds": Unset("TTL")}, name="p")
    assert [finding.fix for finding in findings] == ['Write "entitlementCheck": {"ttlSeconds": "$env(TTL)"}.']


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
OPTION_NAMES = [
    "apiUrl",
    "apiKey",
    "meter",
    "meterOnStatusCodes",
    "eventSource",
    "requiredEntitlements",
    "subjectPath",
    "entitlementCheck",
    "delivery",
]


@given(st.dictionaries(st.sampled_from(OPTION_NAMES) | st.text(max_size=5), anything, max_size=5))
def test_whatever_is_written_either_loads_or_is_refused_with_findings_inside_the_options(options):
    policy, findings = read_options(options, name="p")
    assert (policy is None) == any(finding.severity == "error" for finding in findings)
    for finding in findings:
        assert finding.path.startswith("$")
        assert finding.message.endswith(".")
        str(finding).encode()
