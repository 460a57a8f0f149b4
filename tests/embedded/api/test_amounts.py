"""Amounts of any size: they never give quota away, and a value says after a restart what it said before."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest

PATH = "/api/v2/customers/acme/entitlements"
HISTORY = f"{PATH}/calls/history?windowSize=HOUR"


@pytest.fixture
def entitle(openmeter: Any) -> Any:
    def entitle(**fields: Any) -> None:
        meter = {"slug": "calls", "aggregation": "SUM", "eventType": "request", "valueProperty": "$.n"}
        assert openmeter("POST", "/api/v1/meters", meter).status == 200
        openmeter("POST", "/api/v1/features", {"key": "calls", "name": "Calls", "meterSlug": "calls"})
        openmeter("POST", "/api/v1/customers", {"name": "Acme", "key": "acme"})
        body = {"type": "metered", "featureKey": "calls", "usagePeriod": {"interval": "MONTH"}}
        answer = openmeter("POST", PATH, body | {"issueAfterReset": 100} | fields)
        assert answer.status == 201, answer.body

    return entitle


@pytest.fixture
def use(openmeter: Any, event: Any) -> Any:
    sent = 0

    def use(*amounts: str) -> None:
        nonlocal sent
        for amount in amounts:
            sent += 1
            data = {"n": msgspec.Raw(amount.encode())}
            made = event(f"e{sent}", time=f"2026-03-15T12:{sent:02}:00Z", data=data)
            assert openmeter("POST", "/api/v1/events", made).status == 204

    return use


def value(openmeter: Any) -> dict[str, Any]:
    shown = openmeter("GET", f"{PATH}/calls/value").json
    del shown["grantBalances"]
    return dict(shown)


@pytest.mark.parametrize(
    ("amounts", "usage"),
    [
        (["1e308", "1e308", "1e308"], sys.float_info.max),
        (["1.7976931348623157e308", "1e292", "1e308", "5"], sys.float_info.max),
        (["1e308", "1e308", "-1e308"], 1e308),
        (["1e308", "1e308", "-1e308", "-1e308", "1.5"], 1.5),
        (["-1e308", "-1e308", "1e308", "1e308", "150"], 150),
        (["1e17", "1", "-1e17"], 1),
        (["1e300", "0.1", "0.2", "-1e300", "1e-5"], 0.30001),
        (["0.1"] * 10, 1),
        (["1e16", "1", "1", "1", "1", "-1e16", "0.5"], 4.5),
    ],
)
def test_a_value_is_the_exact_sum_in_memory_and_out_of_the_events(
    openmeter, entitle, use, clock, amounts, usage
):
    entitle()
    clock.move(minutes=1)
    value(openmeter)  # from here on it is carried along by each event
    clock.move(minutes=30)
    use(*amounts)
    expected = {
        "hasAccess": usage < 100,
        "balance": max(100 - usage, 0),
        "usage": usage,
        "overage": max(usage - 100, 0),
        "totalAvailableGrantAmount": 100,
    }
    assert value(openmeter) == pytest.approx(expected)
    before = value(openmeter)
    openmeter.restart()
    assert value(openmeter) == before
    (segment,) = openmeter("GET", HISTORY).json["burndownHistory"]
    assert segment["usage"] == usage


def test_an_amount_beyond_float64_in_each_period_uses_up_what_there_is(openmeter, entitle, use, clock):
    entitle(issueAfterReset=0, grants=[])
    grant = {"amount": 1e308, "effectiveAt": "2026-03-15T12:00:00Z"}
    for _ in range(2):
        assert openmeter("POST", f"{PATH}/calls/grants", grant).status == 201
    assert value(openmeter)["balance"] == sys.float_info.max
    clock.move(minutes=30)
    use("1e308", "1e308", "1e308")
    assert value(openmeter) == {
        "hasAccess": False,
        "balance": 0,
        "usage": sys.float_info.max,
        "overage": 1e308,
        "totalAvailableGrantAmount": sys.float_info.max,
    }
