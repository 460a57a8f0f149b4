"""What an operator reads of an OpenMeter that fails: what it is, once a minute and kind."""

import pytest

from metergate.entitlements.complaints import EVERY_SECONDS, KINDS, Complaints, kind_of
from metergate.errors import (
    OpenMeterBlocked,
    OpenMeterMisdirected,
    OpenMeterOutage,
    OpenMeterThrottled,
    OpenMeterUnauthorized,
)


@pytest.mark.parametrize(
    ("error", "kind", "level", "begin"),
    [
        (OpenMeterOutage("why"), "outage", "WARNING", "An entitlement could not be checked: why"),
        (OpenMeterMisdirected("why"), "misdirected", "ERROR", "No entitlement can be checked: why"),
        (
            OpenMeterBlocked("why"),
            "blocked",
            "WARNING",
            "Some entitlements cannot be checked, others may: why",
        ),
        (OpenMeterUnauthorized("why"), "unauthorized", "ERROR", "OpenMeter refuses our API key"),
        (OpenMeterThrottled("why", 1.0), "throttled", "WARNING", "OpenMeter asks us to slow down: why"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_each_failure_is_said_as_what_it_is(caplog, error, kind, level, begin):
    Complaints().failed(error, 0.0)
    (record,) = caplog.records
    assert (kind_of(error), record.kind, record.levelname) == (kind, kind, level)
    assert kind in KINDS
    assert record.getMessage().startswith(begin)


def test_a_kind_is_said_once_in_its_time_with_how_many_there_were(caplog):
    complaints = Complaints()
    for _ in range(5):
        complaints.failed(OpenMeterMisdirected("x"), 0.0)
    complaints.failed(OpenMeterBlocked("x"), 1.0)
    complaints.failed(OpenMeterMisdirected("x"), EVERY_SECONDS)
    assert [(record.kind, record.failures) for record in caplog.records] == [
        ("misdirected", 1),
        ("blocked", 1),
        ("misdirected", 5),
    ]
