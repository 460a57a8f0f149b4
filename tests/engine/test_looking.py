"""What code may ask of a policy: would it be let in, and what is left."""

from __future__ import annotations

import asyncio

import pytest

from metergate.engine import Metering
from metergate.errors import UsageError
from metergate.testing.entitled import EntitledServer, denied, granted, metered


@pytest.fixture
def openmeter():
    with EntitledServer() as server:
        server.customer(
            "acme", features={"api": metered(10), "sso": granted(), "spent": metered(0, 5), "no": denied()}
        )
        yield server


def looked(bench, look):
    async def scenario():
        try:
            return await look()
        finally:
            await bench.backends.stop()

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("feature", "allowed", "reason", "balance"),
    [
        ("api", True, "granted", 10),
        ("sso", True, "granted", None),
        ("spent", False, "exhausted", 0),
        ("no", False, "no_access", None),
        ("else", False, "not_found", None),
    ],
)
def test_a_feature_may_be_looked_at_whether_or_not_it_is_required(
    bench, openmeter, feature, allowed, reason, balance
):
    engine = bench.engine(apiUrl=openmeter.url, requiredEntitlements=["api"])

    async def look():
        decision = await engine.check("acme", feature)
        assert decision.hold is None, "nobody is let in by it"
        return decision.allowed, decision.reason, await engine.balance("acme", feature)

    assert looked(bench, look) == (allowed, reason, balance)


@pytest.mark.parametrize("options", [{}, {"requiredEntitlements": ["api"]}])
def test_a_feature_that_was_looked_at_is_counted_from_then_on(bench, openmeter, options):
    engine = bench.engine(apiUrl=openmeter.url, **options)

    async def look():
        bench.backends.start()
        await engine.check("acme", "spent")
        (local,) = bench.backends.locals.values()
        return local._watched

    assert looked(bench, look) == {"spent", *options.get("requiredEntitlements", ())}


def test_of_several_policies_that_one_is_asked_that_requires_the_feature(bench, openmeter):
    openmeter.customer("other", features={"api": metered(3)})
    first = bench.engine("first", apiUrl=openmeter.url)
    second = bench.engine("second", apiUrl=openmeter.url, requiredEntitlements=["api"])
    metering = Metering("r")
    metering.arm(first, None)
    metering.arm(first, "acme")
    metering.arm(second, "other")

    async def look():
        return await metering.balance("api"), (await metering.check("sso")).allowed

    assert looked(bench, look) == (3, True)


def test_where_nobody_pays_a_look_says_what_to_do(bench, openmeter):
    metering = Metering("r")
    with pytest.raises(UsageError, match="put one on the route"):
        asyncio.run(metering.check("api"))
    metering.arm(bench.engine(apiUrl=openmeter.url), None)
    with pytest.raises(UsageError, match="put one on the route"):
        asyncio.run(metering.balance("api"))
