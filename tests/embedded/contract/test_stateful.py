"""One entitlement through any order of what may be done with it, by all versions of the API at once.

Every answer fits the descriptions, the versions agree, the past stays as it was, and a restart changes nothing.
"""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.embedded.conftest import MovableClock, OpenMeter
from tests.embedded.contract.conftest import Contract

from metergate.embedded.domain.moments import format_rfc3339

ENTITLEMENTS = "/api/v2/customers/acme/entitlements"
TOKENS = f"{ENTITLEMENTS}/tokens"
METER = {"slug": "tokens", "aggregation": "SUM", "eventType": "request", "valueProperty": "$.tokens"}
METERED = {"type": "metered", "featureKey": "tokens", "usagePeriod": {"interval": "DAY"}}
AMOUNTS = st.integers(1, 60)
EXPIRATIONS = st.none() | st.fixed_dictionaries(
    {"duration": st.sampled_from(["HOUR", "DAY", "WEEK"]), "count": st.integers(1, 3)}
)
RECURRENCES = st.none() | st.fixed_dictionaries({"interval": st.sampled_from(["PT1H", "PT5H", "DAY", "P2D"])})


class Entitlement(RuleBasedStateMachine):
    """A customer with one metered entitlement, used and changed at whole minutes."""

    contract_of: Any
    """What makes a contract of a server."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = MovableClock()
        self.server = OpenMeter(Path(self.folder.name) / "data", self.clock)
        self.server.start()
        self.call: Contract = self.contract_of(self.server)
        self.events = 0
        self.grants: list[str] = []
        self.past: list[tuple[str, Any]] = []

    def teardown(self) -> None:
        with self.server.runner:
            self.server.stop()
        self.folder.cleanup()

    @initialize(soft=st.booleans(), issue=st.none() | AMOUNTS)
    def begin(self, soft: bool, issue: int | None) -> None:
        self.call.good("POST", "/api/v1/meters", METER)
        self.call.good("POST", "/api/v1/features", {"key": "tokens", "name": "T", "meterSlug": "tokens"})
        self.customer = self.call.good("POST", "/api/v1/customers", {"key": "acme", "name": "Acme"})["id"]
        self.call.good("POST", ENTITLEMENTS, METERED | {"isSoftLimit": soft} | self.issue(issue))

    @staticmethod
    def issue(amount: int | None) -> dict[str, Any]:
        return {} if amount is None else {"issue": {"amount": amount, "priority": 2}}

    @rule(tokens=AMOUNTS, newer=st.booleans())
    def use(self, tokens: int, newer: bool) -> None:
        self.events += 1
        event = {
            "specversion": "1.0",
            "id": str(self.events),
            "source": "test",
            "type": "request",
            "subject": "acme",
            "time": format_rfc3339(self.clock()),
            "data": {"tokens": tokens},
        }
        headers = {"Content-Type": "application/cloudevents+json"}
        path = "/api/v3/openmeter/events" if newer else "/api/v1/events"
        self.call.good("POST", path, event, headers=headers)

    @rule(
        amount=AMOUNTS,
        priority=st.integers(1, 4),
        expiration=EXPIRATIONS,
        recurrence=RECURRENCES,
        rollover=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    )
    def grant(self, amount: int, priority: int, expiration: Any, recurrence: Any, rollover: Any) -> None:
        body = {
            "amount": amount,
            "priority": priority,
            "effectiveAt": format_rfc3339(self.clock()),
            "minRolloverAmount": min(rollover),
            "maxRolloverAmount": max(rollover),
        }
        body |= {"expiration": expiration} if expiration else {}
        body |= {"recurrence": recurrence | {"anchor": body["effectiveAt"]}} if recurrence else {}
        self.grants.append(self.call.good("POST", f"{TOKENS}/grants", body)["id"])

    @rule(which=st.integers(0, 20))
    def void(self, which: int) -> None:
        if which < len(self.grants):
            self.call.good("DELETE", f"/api/v1/grants/{self.grants.pop(which)}")

    @rule(retain=st.booleans(), preserve=st.booleans())
    def reset(self, retain: bool, preserve: bool) -> None:
        self.call("POST", f"{TOKENS}/reset", {"retainAnchor": retain, "preserveOverage": preserve})

    @rule(issue=st.none() | AMOUNTS)
    def override(self, issue: int | None) -> None:
        self.call.good("PUT", f"{TOKENS}/override", METERED | self.issue(issue))
        self.grants.clear()
        self.past.clear()

    @rule(minutes=st.sampled_from([1, 7, 60, 300, 1440, 5000]))
    def move(self, minutes: int) -> None:
        now = format_rfc3339(self.clock())
        self.past.append((now, self.value_at(now)))
        self.clock.move(minutes=minutes)

    @rule()
    def restart(self) -> None:
        before = self.value()
        self.server.restart()
        assert self.value() == before

    @rule(which=st.integers(0, 40))
    def look_back(self, which: int) -> None:
        if which < len(self.past):
            time, value = self.past[which]
            assert self.value_at(time) == value

    def value(self) -> Any:
        return self.call.good("GET", f"{TOKENS}/value")

    def value_at(self, time: str) -> Any:
        return self.call.good("GET", f"{TOKENS}/value?time={time}")

    @invariant()
    def the_versions_agree_on_a_balance_that_makes_sense(self) -> None:
        value = self.value()
        assert value["balance"] >= 0
        assert value["overage"] >= 0
        assert not (value["balance"] and value["overage"])
        entitlement = self.call.good("GET", TOKENS)
        assert value["hasAccess"] == (value["balance"] > 0 or entitlement["isSoftLimit"])
        assert sum(value["grantBalances"].values()) == value["balance"]
        older = self.call.good("GET", "/api/v1/subjects/acme/entitlements/tokens/value")
        assert older == {name: value[name] for name in value if name != "grantBalances"}
        path = f"/api/v3/openmeter/customers/{self.customer}/entitlement-access"
        (access,) = self.call.good("GET", path)["data"]
        assert access["has_access"] == value["hasAccess"]

        period = entitlement["currentUsagePeriod"]
        start = max(entitlement["lastReset"], entitlement["measureUsageFrom"])
        now = format_rfc3339(self.clock())
        assert period["from"] <= now < period["to"]
        if start < now:
            later = format_rfc3339(self.clock() + timedelta(minutes=1))
            query = f"/api/v1/meters/tokens/query?from={start}&to={later}&subject=acme"
            rows = self.call.good("GET", query)["data"]
            assert sum(row["value"] for row in rows) == value["usage"]


@pytest.mark.no_cover
def test_an_entitlement_makes_sense_whatever_is_done_with_it(v1, v3):
    class Described(Entitlement):
        def contract_of(self, server: OpenMeter) -> Contract:
            return Contract(server, (v1, v3))

    # Each step asks a server over files of its own: to find the shortest failure would take minutes.
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    options = settings(max_examples=5, stateful_step_count=15, phases=phases)
    run_state_machine_as_test(Described, settings=options)
