"""How events count is learnt once for all who ask, kept for the next start, and kept while OpenMeter is away."""

from __future__ import annotations

import asyncio

import pytest

from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.learning import LEARN_SECONDS, RETRY_SECONDS, Learning, recall
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.errors import OpenMeterOutage
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue

CALLS = Catalog((Feature("calls", "1", "m"),), (Meter("m", "2", "call", "COUNT"),))


class CatalogSource:
    """Says ``answer`` or raises it, after everybody else had a turn."""

    def __init__(self):
        self.answer = CALLS
        self.asked = 0

    async def catalog(self):
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def catalog():
    return CatalogSource()


@pytest.fixture
def local(clock):
    def make():
        made = LocalUsage(Ledger(Folder(None, most_places=8), Watermark(list), clock, visibility=5))
        made.watch(["calls"])
        return made

    return make


@pytest.fixture
def ask(clock):
    """Waits as ``times`` requests do at once, and until what they began is over."""

    def ready(learning, times=1):
        async def scenario():
            await asyncio.gather(*(learning.ready() for _ in range(times)))
            if learning._task is not None:
                await learning._task

        asyncio.run(scenario())

    return ready


def test_it_is_learnt_once_for_many_and_again_after_a_while(local, catalog, clock, ask):
    learning = Learning(catalog, local(), clock)
    ask(learning, 10)
    assert (learning.local.knows, catalog.asked) == (True, 1)
    clock.advance(LEARN_SECONDS - 1)
    ask(learning)
    assert catalog.asked == 1
    clock.advance(1)
    ask(learning)
    assert catalog.asked == 2


def test_an_outage_is_said_and_what_was_known_stays(local, catalog, clock, ask, caplog):
    catalog.answer = OpenMeterOutage("away")
    learning = Learning(catalog, local(), clock)
    ask(learning)
    assert not learning.local.knows
    assert "how events count for features is not known yet" in caplog.text
    catalog.answer = CALLS
    clock.advance(RETRY_SECONDS)
    ask(learning)
    assert learning.local.knows
    catalog.answer = OpenMeterOutage("away")
    clock.advance(LEARN_SECONDS)
    asked = catalog.asked
    ask(learning)
    ask(learning)
    assert (learning.local.knows, catalog.asked) == (True, asked + 1), "and it is not asked through"


def test_what_was_learnt_is_on_disk_for_the_next_start(local, catalog, clock, ask, tmp_path):
    path = tmp_path / "catalog.json"
    ask(Learning(catalog, local(), clock, path))
    heir = local()
    recall(path, heir)
    assert heir.knows
    assert [entry.name for entry in tmp_path.iterdir()] == ["catalog.json"], "and no draft is left"


@pytest.mark.parametrize("kept", [None, b"", b'{"features": 7}'])
def test_what_cannot_be_recalled_is_learnt(local, catalog, clock, ask, tmp_path, kept):
    path = tmp_path / "catalog.json"
    if kept is not None:
        path.write_bytes(kept)
    heir = local()
    recall(path, heir)
    assert not heir.knows
    ask(Learning(catalog, heir, clock, path))
    assert heir.knows


def test_a_feature_that_turns_up_is_learnt_soon(local, catalog, clock, ask):
    learning = Learning(catalog, local(), clock)
    ask(learning)
    learning.local.watch(["new"])
    learning.local.ceilings((), [FeatureValue("new", True, balance=1.0)])
    ask(learning)
    assert catalog.asked == 1, "not at once: it may be in no answer at all"
    clock.advance(RETRY_SECONDS)
    ask(learning)
    assert catalog.asked == 2
