"""What the configuration file asks for is made once, and never changes what is there."""

import logging

import pytest

from metergate.errors import ConfigurationError

CONFIG = """
meters:
  - {slug: requests, eventType: request, aggregation: COUNT}
features:
  - {key: api-request, name: API requests, meterSlug: requests}
  - {key: sso, name: Single sign-on}
customers:
  - {key: acme, name: Acme, usageAttribution: {subjectKeys: [acme]}}
  - {name: By subject, usageAttribution: {subjectKeys: [s1]}}
entitlements:
  - customer: acme
    type: metered
    featureKey: api-request
    usagePeriod: {interval: MONTH, anchor: 2026-03-01T00:00:00Z}
    issueAfterReset: 100
  - {customer: acme, type: boolean, featureKey: sso}
"""


@pytest.fixture
def configure(openmeter, tmp_path):
    def configure(text):
        openmeter.stop()
        openmeter.config = tmp_path / "openmeter.yaml"
        openmeter.config.write_text(text)
        openmeter.start()

    return configure


def access(openmeter):
    return openmeter("GET", "/api/v1/customers/acme/access").json["entitlements"]


def test_the_file_is_all_that_is_needed_for_a_balance(openmeter, configure, event):
    configure(CONFIG)
    openmeter("POST", "/api/v1/events", [event("1", time=None)])
    assert access(openmeter)["api-request"]["balance"] == 99
    assert access(openmeter)["sso"] == {"hasAccess": True}
    (shown,) = openmeter("GET", "/api/v1/entitlements?feature=api-request").json
    assert shown["currentUsagePeriod"] == {"from": "2026-03-15T12:00:00Z", "to": "2026-04-01T00:00:00Z"}


def test_a_second_start_with_the_same_file_changes_nothing_and_says_nothing(openmeter, configure, caplog):
    configure(CONFIG)
    before = [openmeter("GET", f"/api/v1/{kind}").json for kind in ("features", "customers", "entitlements")]
    openmeter.clock.move(days=3)
    with caplog.at_level(logging.WARNING):
        configure(CONFIG)
    after = [openmeter("GET", f"/api/v1/{kind}").json for kind in ("features", "customers", "entitlements")]
    assert after == before
    assert caplog.messages == []


def test_what_differs_is_reported_and_left_alone(openmeter, configure, caplog):
    configure(CONFIG)
    changed = CONFIG.replace("issueAfterReset: 100", "issueAfterReset: 5").replace(
        "interval: MONTH", "interval: DAY"
    )
    with caplog.at_level(logging.WARNING):
        configure(changed.replace("name: Acme", "name: Other").replace("Single sign-on", "SSO"))
    assert access(openmeter)["api-request"]["balance"] == 100
    assert [message.partition(" and stays")[0] for message in caplog.messages] == [
        "the feature sso differs from the configuration in name",
        "the customer acme differs from the configuration in name",
        "the entitlement of acme to api-request differs from the configuration in issueAfterReset",
        "the entitlement of acme to api-request differs from the configuration in usagePeriod",
    ]


def test_a_name_that_is_not_found_may_be_a_misspelt_one_of_the_file(configure):
    with pytest.raises(ConfigurationError) as caught:
        configure(
            CONFIG.replace("featureKey: sso", "featureKey: ssso").replace(
                "- customer: acme", "- customer: acmee"
            )
        )
    assert [(finding.path, finding.message, finding.fix) for finding in caught.value.findings] == [
        ("$.entitlements[0]", "customer not found: acmee", 'Did you mean "acme"?'),
        ("$.entitlements[1]", "feature not found: ssso", 'Did you mean "sso"?'),
    ]


def test_everything_that_cannot_be_made_is_said_at_once_with_its_place(configure):
    with pytest.raises(ConfigurationError) as caught:
        configure(
            """
            features:
              - {key: metered, name: x, meterSlug: unknown}
            customers:
              - {name: Nameless}
            entitlements:
              - {customer: nobody, type: boolean, featureKey: sso}
            """
        )
    found = [(finding.path, finding.message) for finding in caught.value.findings]
    assert [path for path, _ in found] == ["$.features[0]", "$.customers[0]", "$.entitlements[0]"]
    assert found[0][1] == "meter not found: unknown"
    assert found[2][1] == "customer not found: nobody"
    assert all(finding.file.endswith("openmeter.yaml") for finding in caught.value.findings)
