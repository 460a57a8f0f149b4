"""The --config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from metergate.embedded.config import OTHER_SECTIONS, check_configuration, read_configuration
from metergate.errors import ConfigurationError

OPENMETERS_OWN = """
address: 0.0.0.0:8888
sink:
  minCommitCount: 500
meters:
  - slug: api_requests_total
    description: API Requests
    eventType: request
    aggregation: COUNT
    windowSize: MINUTE
    groupBy:
      method: $.method
      route: $.route
  - slug: tokens-total
    eventType: prompt
    aggregation: SUM
    valueProperty: $.tokens
    eventFrom: 2026-01-01T00:00:00Z
"""


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(content, encoding="utf-8")
    return path


def test_the_meters_of_openmeters_own_file_are_taken_as_they_are(tmp_path):
    configuration = read_configuration(written(tmp_path, OPENMETERS_OWN))
    assert [meter.slug for meter in configuration.meters] == ["api_requests_total", "tokens-total"]
    assert configuration.meters[0].group_by == {"method": "$.method", "route": "$.route"}


def test_everything_wrong_is_said_at_once_with_its_place():
    document = {
        "meters": [
            {"slug": "Upper", "eventType": "a", "aggregation": "COUNT"},
            {"slug": "a", "eventType": "a", "aggregation": "SUM"},
            {"slug": "b", "eventtype": "a", "eventType": "a", "aggregation": "COUNT"},
            {"slug": "b", "eventType": "a", "aggregation": "COUNT"},
            "text",
        ],
        "features": {"key": "x"},
    }
    _, findings = check_configuration(document)
    shown = {finding.path: f"{finding.message} {finding.fix}" for finding in findings}
    assert set(shown) == {
        "$.meters[0].slug",
        "$.meters[1]",
        "$.meters[2].eventtype",
        "$.meters[3].slug",
        "$.meters[4]",
        "$.features",
    }
    assert "value property is required" in shown["$.meters[1]"]
    assert 'Did you mean "eventType"?' in shown["$.meters[2].eventtype"]
    assert "$.meters[2]" in shown["$.meters[3].slug"]


@pytest.mark.parametrize(
    ("item", "path", "message", "fix"),
    [
        (
            {"meters": {"aggregation": "TOTAL"}},
            ".aggregation",
            'has to be SUM, COUNT, UNIQUE_COUNT, AVG, MIN, MAX or LATEST, not "TOTAL".',
            "",
        ),
        ({"meters": {"aggregation": "count"}}, ".aggregation", None, 'Did you mean "COUNT"?'),
        ({"meters": {"slug": 5}}, ".slug", "has to be a text, not 5.", ""),
        ({"meters": {"slug": ""}}, ".slug", "is empty.", ""),
        ({"meters": {"groupBy": {"a": 1}}}, ".groupBy.a", "has to be a text, not 1.", ""),
        ({"meters": {"eventFrom": None, "name": None}}, None, None, None),
        ({"features": {"meterSlug": 5}}, ".meterSlug", "has to be a text, not 5.", ""),
        ({"features": {"meterId": "x"}}, ".meterId", "is not known here.", 'Did you mean "meterSlug"?'),
        ({"customers": {"name": "x" * 300}}, ".name", "has 300 characters, but 256 at most are allowed.", ""),
        (
            {"customers": {"usageAttribution": {"subjects": ["a"]}}},
            ".usageAttribution.subjects",
            "is not known here.",
            'Did you mean "subjectKeys"?',
        ),
        ({"customers": {"usageAttribution": {"subjectKeys": "a"}}}, None, 'has to be a list, not "a".', ""),
        (
            {"entitlements": {"type": "meterd"}},
            ".type",
            'has to be boolean, metered or static, not "meterd".',
            'Did you mean "metered"?',
        ),
        (
            {"entitlements": {"featureId": "api-request"}},
            ".featureId",
            'has to be an id that OpenMeter gave, 26 letters and digits, not "api-request".',
            "Write featureKey: api-request",
        ),
        (
            {"entitlements": {"featureKey": "API requests"}},
            ".featureKey",
            'has to be lower-case letters and digits, with single - or _ between them, not "API requests".',
            "",
        ),
        ({"entitlements": {"usagePeriod": "MONTH"}}, ".usagePeriod", 'has to be an object, not "MONTH".', ""),
        ({"entitlements": {"isSoftLimit": "yes"}}, ".isSoftLimit", 'has to be true or false, not "yes".', ""),
        ({"entitlements": {"issueAfterReset": -1}}, ".issueAfterReset", "has to be 0 or more, not -1.", ""),
        ({"entitlements": {"issueAfterReset": True}}, None, "has to be a number, not true.", ""),
    ],
)
def test_a_wrong_value_is_said_in_words_an_operator_knows(item, path, message, fix):
    good = {
        "meters": {"slug": "a", "eventType": "a", "aggregation": "COUNT"},
        "features": {"key": "a", "name": "a"},
        "customers": {"key": "a", "name": "a"},
        "entitlements": {"customer": "a", "type": "boolean", "featureKey": "a"},
    }
    [(section, wrong)] = item.items()
    assert check_configuration({section: [good[section]]})[1] == []
    _, findings = check_configuration({section: [{**good[section], **wrong}]})
    if fix is None:
        assert findings == []
        return
    [finding] = findings
    assert path is None or finding.path == f"$.{section}[0]{path}"
    assert message is None or finding.message == message
    assert finding.fix == fix


def test_what_is_missing_or_misspelt_anywhere_is_said_before_anything_is_made():
    document = {
        "customers": [{"key": "acme"}, {"key": "b", "name": "B", "usageAtribution": {}}],
        "entitlements": [{"type": "boolean", "grants": [{"amount": 1}]}],
    }
    _, findings = check_configuration(document)
    assert [(finding.path, finding.message, finding.fix) for finding in findings] == [
        ("$.customers[0]", '"name" is missing.', "Write name: …"),
        ("$.customers[1].usageAtribution", "is not known here.", 'Did you mean "usageAttribution"?'),
        ("$.entitlements[0].grants[0]", '"effectiveAt" is missing.', "Write effectiveAt: …"),
        ("$.entitlements[0]", '"customer" is missing.', "Write customer: …"),
    ]


def test_the_sections_of_openmeters_own_file_are_passed_over_and_named():
    document = {name: {} for name in OTHER_SECTIONS} | {"productcatalog": {"enabled": True}, "meters": []}
    configuration, findings = check_configuration(document)
    assert findings == []
    assert configuration.passed_over == (*OTHER_SECTIONS, "productcatalog")


@pytest.mark.parametrize(
    ("section", "fix"),
    [
        ("meter", 'Did you mean "meters"?'),
        ("feature", 'Did you mean "features"?'),
        ("customer", 'Did you mean "customers"?'),
        ("entitlement", 'Did you mean "entitlements"?'),
        ("telemetri", 'Did you mean "telemetry"?'),
        ("xyz", "Known are meters, features, customers, entitlements."),
    ],
)
def test_a_section_that_nobody_knows_is_an_error_beside_all_others(section, fix):
    _, findings = check_configuration({section: [{"key": "x"}], "fetures": []})
    assert [(finding.path, finding.fix) for finding in findings] == [
        (f"$.{section}", fix),
        ("$.fetures", 'Did you mean "features"?'),
    ]


def test_a_configuration_says_how_much_it_holds():
    document = {
        "meters": [{"slug": "a", "eventType": "a", "aggregation": "COUNT"}],
        "customers": [{"key": "a", "name": "a"}, {"key": "b", "name": "b"}],
    }
    configuration, _ = check_configuration(document)
    assert str(configuration) == "1 meter, no feature, 2 customers, no entitlement"


@pytest.mark.parametrize("content", ["meters: [", "- a", "text", "\t"])
def test_what_is_no_configuration_is_an_error_that_names_the_file(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        read_configuration(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        read_configuration(tmp_path / "none.yaml")


def test_an_empty_file_asks_for_nothing(tmp_path):
    assert read_configuration(written(tmp_path, "")).meters == ()


def test_meters_are_made_once_and_a_difference_is_said(openmeter, tmp_path, caplog):
    openmeter.stop()
    openmeter.config = written(tmp_path, OPENMETERS_OWN)
    openmeter.start()
    made = openmeter("GET", "/api/v1/meters").json
    assert [meter["slug"] for meter in made] == ["api_requests_total", "tokens-total"]
    openmeter.restart()
    assert openmeter("GET", "/api/v1/meters").json == made
    assert not caplog.records
    written(tmp_path, OPENMETERS_OWN.replace("eventType: prompt", "eventType: answer"))
    openmeter.restart()
    assert openmeter("GET", "/api/v1/meters").json == made
    assert "tokens-total differs from the configuration in eventType" in caplog.text
