"""The --config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from metergate.embedded.config import check_configuration, read_configuration
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
