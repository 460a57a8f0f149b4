"""A real embedded OpenMeter, and Metergates that meter into it."""

from __future__ import annotations

import pytest

from metergate.middleware import Metergate
from metergate.testing import embedded_openmeter


@pytest.fixture(scope="session")
def openmeter():
    """With a meter that counts ``call`` and a feature ``calls`` by it."""
    with embedded_openmeter() as server:
        server.call("POST", "/api/v1/meters", {"slug": "calls", "aggregation": "COUNT", "eventType": "call"})
        server.call("POST", "/api/v1/features", {"key": "calls", "name": "calls", "meterSlug": "calls"})
        yield server


@pytest.fixture
def customer(openmeter):
    """``customer("acme", 10)``: one with so many calls left, or with no entitlement."""

    def make(key, quota=None):
        made = {"name": key, "key": key, "usageAttribution": {"subjectKeys": [key]}}
        openmeter.call("POST", "/api/v1/customers", made)
        if quota is not None:
            entitlement = {"type": "metered", "featureKey": "calls", "issueAfterReset": quota}
            period = {"usagePeriod": {"interval": "MONTH"}}
            openmeter.call("POST", f"/api/v2/customers/{key}/entitlements", entitlement | period)
        return key

    return make


@pytest.fixture
def metergate(openmeter, tmp_path):
    """``metergate(**options)``: one that meters calls."""
    made = []

    def make(**options):
        given = {"api_url": openmeter.url, "api_key": "key", "meter": {"type": "call"}, "spool": tmp_path}
        made.append(Metergate(**given | options))
        return made[-1]

    yield make
    for each in made:
        each.drain(0.0)


@pytest.fixture
def events(openmeter):
    """``events(subject)``: those that OpenMeter has of it, once they have been flushed."""

    def read(subject):
        found = openmeter.call("GET", "/api/v1/events", subject=subject)
        return [item["event"] for item in found]

    return read
