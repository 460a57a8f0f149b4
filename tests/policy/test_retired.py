"""The retired openmeter-metering-inbound policy: an error with everything that is needed to move on."""

from __future__ import annotations

import json

import pytest

from metergate.policy import Unset, is_retired, read_options, read_shape, retired
from metergate.policy.retired import translated

MAPPING = (
    'The policy type "openmeter-metering-inbound" is retired. Its options are now: url → apiUrl (origin only), '
    "eventType → meter.type, data → meter.data, meterValue → a number in meter.data, "
    "customerIdPropertyPath → subjectPath, source → eventSource."
)


def test_the_mapping_is_complete_and_holds_the_user_s_own_values():
    finding = retired(
        {
            "apiKey": "om_secret",
            "customerIdPropertyPath": ".data.openmeter.subjectId",
            "eventType": "request",
            "meterValue": 1,
            "source": "todo-api",
            "url": "https://om.example.com/api/v1/events",
        }
    )
    assert finding.severity == "error"
    assert finding.path == "$"
    assert finding.message == MAPPING
    assert finding.fix == (
        'Write "policyType": "openmeter-inbound", "export": "OpenMeterInboundPolicy" and "options": '
        '{"apiKey": "$env(OPENMETER_API_KEY)", "apiUrl": "https://om.example.com", '
        '"meter": {"type": "request", "data": {"value": 1}}, '
        '"subjectPath": ".data.openmeter.subjectId", "eventSource": "todo-api"}.'
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"meter": {"type": "request"}}),
        ({"url": "https://openmeter.cloud/api/v1/events", "eventType": "a"}, {"meter": {"type": "a"}}),
        (
            {"url": "http://me:om_secret@[::1]:8888/api/v1/events?x=1", "eventType": "a"},
            {"apiUrl": "http://[::1]:8888", "meter": {"type": "a"}},
        ),
        (
            {"url": "$env(OPENMETER_URL)/api/v1/events", "eventType": "a"},
            {"apiUrl": "$env(OPENMETER_URL)", "meter": {"type": "a"}},
        ),
        ({"url": "http://[::1", "eventType": "a"}, {"meter": {"type": "a"}}),
        (
            {"eventType": "a", "data": {"value": "x"}, "meterValue": "2.5"},
            {"meter": {"type": "a", "data": {"value": "x", "meterValue": 2.5}}},
        ),
        (
            {"eventType": "a", "customerIdPropertyPath": "data.accountId"},
            {"meter": {"type": "a"}, "subjectPath": ".data.accountId"},
        ),
        (
            {"eventType": "a", "statusCodes": "200-299", "requiredEntitlements": ["x"]},
            {"meter": {"type": "a"}, "meterOnStatusCodes": "200-299", "requiredEntitlements": ["x"]},
        ),
    ],
)
def test_old_options_are_translated_into_new_ones_that_load(old, new):
    assert translated(old) == {"apiKey": "$env(OPENMETER_API_KEY)", **new}
    if "$env" not in str(new):
        policy, findings = read_options({**translated(old), "apiKey": "k"}, name="p")
        assert findings == []
        assert policy is not None


def test_variables_that_are_not_set_are_written_as_variables():
    fix = retired({"url": Unset("OM_URL"), "eventType": Unset("TYPE"), "meterValue": Unset("N")}).fix
    options = json.loads(fix.partition('"options": ')[2].removesuffix("."))
    assert options["apiUrl"] == "$env(OM_URL)"
    assert options["meter"] == {"type": "$env(TYPE)", "data": {"value": "$env(N)"}}


def test_the_key_and_credentials_are_never_repeated():
    finding = retired({"apiKey": "om_secret", "url": "https://me:om_secret@om.example.com/api/v1/events"})
    assert "om_secret" not in str(finding)


def test_options_that_are_no_object_still_get_the_mapping():
    assert retired(None).message == MAPPING


@pytest.mark.parametrize(
    ("document", "old"),
    [
        (
            {
                "name": "m",
                "policyType": "openmeter-metering-inbound",
                "handler": {
                    "export": "OpenMeterMeteringInboundPolicy",
                    "module": "$import(@zuplo/runtime)",
                    "options": {},
                },
            },
            True,
        ),
        ({"name": "m", "policyType": "openmeter-metering-inbound", "options": {}}, True),
        (
            {
                "name": "openmeter-metering-inbound",
                "policyType": "openmeter-inbound",
                "handler": {
                    "export": "OpenMeterInboundPolicy",
                    "module": "$import(@zuplo/runtime)",
                    "options": {},
                },
            },
            False,
        ),
    ],
)
def test_what_is_exported_decides_whether_a_policy_is_retired_not_its_name(document, old):
    read, _ = read_shape(document)
    assert read is not None
    assert is_retired(read) == old
