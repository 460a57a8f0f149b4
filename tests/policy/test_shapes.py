"""The five shapes of a policy object: all load, all but A with one warning, and what is wrong is said by its path."""

from __future__ import annotations

import pytest

from metergate.policy import PolicyDocument, read_shape

EXPORT = "OpenMeterInboundPolicy"
RUNTIME = "$import(@zuplo/runtime)"
OPTIONS = {"apiKey": "k"}

A = {
    "name": "m",
    "policyType": "openmeter-inbound",
    "handler": {"export": EXPORT, "module": RUNTIME, "options": OPTIONS},
}
B = {"type": "openmeter-inbound", "handler": f"{RUNTIME}.{EXPORT}", "options": OPTIONS}
C = {"name": "m", "policyType": "openmeter-inbound", "options": OPTIONS}
D = {"name": "m", "export": EXPORT, "module": RUNTIME, "options": OPTIONS}
E = {"export": EXPORT, "module": RUNTIME, "options": OPTIONS}


@pytest.mark.parametrize(
    ("document", "name", "shape", "options_path"),
    [
        (A, "m", "A", "$.handler.options"),
        (B, "openmeter-inbound", "B", "$.options"),
        (C, "m", "C", "$.options"),
        (D, "m", "D", "$.options"),
        (E, "given", "E", "$.options"),
    ],
    ids="ABCDE",
)
def test_every_shape_loads_as_the_same_policy(document, name, shape, options_path):
    read, findings = read_shape(document, name="given")
    assert read == PolicyDocument(name, "openmeter-inbound", EXPORT, RUNTIME, OPTIONS, shape, options_path)
    assert read is not None
    assert read.is_openmeter
    assert [finding.severity for finding in findings] == ([] if shape == "A" else ["warning"])


@pytest.mark.parametrize(
    ("document", "name", "shape"),
    [(B, "openmeter-inbound", "B"), (C, "m", "C"), (D, "m", "D"), (E, "given", "E")],
    ids="BCDE",
)
def test_every_shape_but_a_has_one_warning_of_one_line_that_shows_shape_a(document, name, shape):
    _, findings = read_shape(document, name="given")
    assert [str(finding) for finding in findings] == [
        (
            f"warning: $ (policy {name}): The policy is written in shape {shape}, a short form; "
            f'it is read as if in full. Write {{"name": "{name}", "policyType": "openmeter-inbound", "handler": '
            f'{{"export": "{EXPORT}", "module": "{RUNTIME}", "options": ...}}}}.'
        )
    ]


def test_a_policy_of_another_type_keeps_what_it_says():
    document = {
        "name": "mine",
        "policyType": "custom-code-inbound",
        "handler": {"export": "default", "module": "$import(./modules/mine)"},
    }
    read, findings = read_shape(document)
    assert findings == []
    assert read == PolicyDocument(
        "mine", "custom-code-inbound", "default", "$import(./modules/mine)", {}, "A", "$.handler.options"
    )
    assert read is not None
    assert not read.is_openmeter


def test_what_another_type_s_short_form_does_not_say_stays_empty():
    read, _ = read_shape({"name": "k", "policyType": "api-key-inbound", "options": {}})
    assert read == PolicyDocument("k", "api-key-inbound", "", "", {}, "C", "$.options")


def test_shape_b_takes_a_name_that_it_has():
    read, _ = read_shape({**B, "name": "own"}, name="given")
    assert read is not None
    assert read.name == "own"


def test_the_options_are_handed_on_unchecked():
    for document in (A | {"handler": A["handler"] | {"options": 5}}, C | {"options": 5}):
        read, _ = read_shape(document)
        assert read is not None
        assert read.options == 5


@pytest.mark.parametrize(
    ("document", "findings"),
    [
        (
            [],
            [
                (
                    "error: $: A policy has to be an object, not a list. "
                    'Write {"name": ..., "policyType": ..., "handler": '
                    '{"export": ..., "module": ..., "options": {...}}}.'
                )
            ],
        ),
        (
            {"name": "m", "options": {}},
            [
                (
                    "error: $: This is no policy in any shape that is known: "
                    "it has no handler, export or policyType. "
                    'Write {"name": ..., "policyType": ..., "handler": '
                    '{"export": ..., "module": ..., "options": {...}}}.'
                )
            ],
        ),
        (
            {"policyType": "openmeter-inbound", "handler": {"export": "", "modul": RUNTIME}},
            [
                'warning: $.handler.modul: The key "modul" is not known and has no effect. Did you mean "module"?',
                'error: $.handler.export: "export" is empty. Write "export": "OpenMeterInboundPolicy".',
                'error: $.handler.module: "module" is missing. Write "module": "$import(@zuplo/runtime)".',
                (
                    "error: $.name: The policy has no name, so no route can use it. "
                    'Write "name": "my-openmeter-inbound-policy".'
                ),
            ],
        ),
        (
            {"name": "m", "handler": {"export": EXPORT, "module": RUNTIME}},
            [
                (
                    'warning: $.policyType (policy m): "policyType" is missing. '
                    'Write "policyType": "openmeter-inbound".'
                )
            ],
        ),
        (
            {**A, "options": {}},
            [
                (
                    "error: $.options (policy m): The options stand beside the handler, where nobody reads them. "
                    'Move them into "handler".'
                )
            ],
        ),
        (
            {"name": 5, "policyType": [], "handler": 5},
            [
                (
                    'error: $.handler: "handler" has to be an object, not the number 5. '
                    'Write {"name": ..., "policyType": ..., "handler": '
                    '{"export": ..., "module": ..., "options": {...}}}.'
                ),
                'error: $.policyType: "policyType" has to be a string, not a list.',
                'error: $.name: "name" has to be a string, not the number 5.',
            ],
        ),
        (
            {"type": "openmeter-inbound", "handler": "OpenMeterInboundPolicy", "options": {}},
            [
                (
                    'error: $.handler (policy openmeter-inbound): "OpenMeterInboundPolicy" names no handler. '
                    'Write "$import(@zuplo/runtime).OpenMeterInboundPolicy".'
                )
            ],
        ),
        (
            E,
            [
                (
                    'error: $.name: The policy has no name, so no route can use it. Write "name": '
                    '"my-openmeter-inbound-policy".'
                )
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_shape_is_said_all_at_once(document, findings):
    read, said = read_shape(document)
    texts = [str(finding) for finding in said if "short form" not in finding.message]
    assert texts == findings
    assert (read is None) == any(text.startswith("error") for text in texts)
