"""The examples of the original's own documentation, word for word: what they load as and the events they yield."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metergate.policy import EventEncoder, Policy, read_options, read_shape, runtime_meters

REQUEST_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
TIME_MS = 1_769_860_800_123

FIRST_CALL = {
    "type": "api-call",
    "data": {"endpoint": "https://api.example.com/pay", "method": "POST", "tokens": 150},
}
SECOND_CALL = [
    {"type": "api-call", "data": {"endpoint": "https://api.example.com/pay", "method": "POST"}},
    {"type": "llm-usage", "data": {"model": "gpt-4", "prompt_tokens": 100, "completion_tokens": 50}},
]


def event(name: str, data: dict[str, Any] | None) -> dict[str, Any]:
    made = {
        "specversion": "1.0",
        "id": f"{REQUEST_ID}-{name}",
        "time": "2026-01-31T12:00:00.123Z",
        "source": "api-gateway",
        "subject": "user-1",
        "type": name,
    }
    return made if data is None else made | {"data": data}


@pytest.fixture
def load(golden):
    def read(name: str) -> Policy:
        document = golden(f"{name}.json")
        if document.get("handler", {}) and isinstance(document["handler"], dict):
            assert document["handler"]["options"]["apiKey"] == "$env(OPENMETER_API_KEY)"
            document["handler"]["options"]["apiKey"] = "your-api-key"  # as the loader resolves it
        shaped, shape_findings = read_shape(document)
        assert shaped is not None
        assert shaped.is_openmeter
        assert shaped.shape == ("A" if name == "configuration" else "B")
        assert [finding.severity for finding in shape_findings] == (
            [] if shaped.shape == "A" else ["warning"]
        )
        policy, findings = read_options(shaped.options, name=shaped.name)
        assert findings == []
        assert policy is not None
        assert policy.api_key.reveal() == "your-api-key"
        return policy

    return read


def record(policy: Policy, runtime: Any = None) -> list[dict[str, Any]]:
    recording = EventEncoder(policy).record(REQUEST_ID, "user-1", TIME_MS, runtime, {})
    assert recording.dropped == ()
    return [json.loads(line) for line in recording.lines.splitlines()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("configuration", [event("api-request", {"count": 1})]),
        ("basic_metering", [event("api-call", {"service": "payment-api", "tier": "premium"})]),
        (
            "multiple_meters",
            [event("api-call", {"service": "payment-api"}), event("data-transfer", {"bytes": 1024})],
        ),
        ("entitlements", [event("api-call", {"service": "payment-api"})]),
        ("custom_status_codes", [event("api-call", None)]),
    ],
)
def test_an_example_yields_these_events(load, name, expected):
    assert record(load(name)) == expected


@pytest.mark.parametrize(
    ("name", "required"),
    [
        ("configuration", ("api-request",)),
        ("basic_metering", ()),
        ("multiple_meters", ()),
        ("entitlements", ("payment-api-access", "premium-tier")),
        ("custom_status_codes", ()),
    ],
)
def test_an_example_requires_these_entitlements(load, name, required):
    assert load(name).required_entitlements == required


def test_an_example_meters_these_statuses(load):
    custom, default = load("custom_status_codes").statuses, load("basic_metering").statuses
    assert [status for status in range(100, 600) if status in custom] == [*range(200, 300), 304]
    assert [status for status in range(100, 600) if status in default] == [*range(200, 300)]


def test_the_names_are_the_document_s_or_for_the_short_form_its_type(load):
    assert load("configuration").name == "my-openmeter-inbound-policy"
    assert load("basic_metering").name == "openmeter-inbound"


def test_the_set_meters_sample_sends_three_events_beside_a_configured_meter_of_another_type(load):
    """The second call replaces the first (its tokens are gone); the configured api-request stays."""
    runtime = runtime_meters(FIRST_CALL)
    runtime = runtime_meters(SECOND_CALL)
    assert record(load("configuration"), runtime) == [
        event("api-request", {"count": 1}),
        event("api-call", {"endpoint": "https://api.example.com/pay", "method": "POST"}),
        event("llm-usage", {"model": "gpt-4", "prompt_tokens": 100, "completion_tokens": 50}),
    ]


def test_the_set_meters_sample_replaces_a_configured_meter_of_the_same_type(load):
    assert record(load("basic_metering"), runtime_meters(SECOND_CALL)) == [
        event("api-call", {"endpoint": "https://api.example.com/pay", "method": "POST"}),
        event("llm-usage", {"model": "gpt-4", "prompt_tokens": 100, "completion_tokens": 50}),
    ]


def test_clearing_the_run_time_meters_sends_the_configured_ones(load):
    assert record(load("basic_metering"), runtime_meters([])) == record(load("basic_metering"))


def test_the_override_sample_sends_its_own_id_and_subject(load):
    runtime = runtime_meters(
        {
            "type": "llm-usage",
            "id": "custom-event-id-123",
            "subject": "user-456",
            "data": {"model": "gpt-4", "tokens": 1500},
        }
    )
    assert record(load("basic_metering"), runtime) == [
        event("api-call", {"service": "payment-api", "tier": "premium"}),
        event("llm-usage", {"model": "gpt-4", "tokens": 1500})
        | {"id": "custom-event-id-123", "subject": "user-456"},
    ]
