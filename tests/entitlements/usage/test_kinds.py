"""A feature whose meter is replaced by one of another kind: what was counted of the one means nothing for the other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.holds import Hold
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue


def catalog(aggregation):
    value = None if aggregation == "COUNT" else "$.n"
    return Catalog((Feature("f", "1", "m"),), (Meter("m", "2", "e", aggregation, value),))


@pytest.fixture
def now():
    return [1000.0]


@pytest.fixture
def local(now):
    ledger = Ledger(Folder(None, most_places=8), Watermark(lambda: [(1, 0)]), lambda: now[0], visibility=5)
    made = LocalUsage(ledger)
    made.watch(["f"])
    made.learn(catalog("COUNT"))
    return made


def event(n):
    return SimpleNamespace(type="e", subject="acme", data={"n": n})


def ceilings(local, balance, usage=0.0):
    return local.ceilings(local.ask("acme"), [FeatureValue("f", True, balance=balance, usage=usage)])


def left(local, answer):
    (ceiling,) = answer
    return local.left(ceiling)


def test_a_feature_whose_meter_changes_its_kind_is_counted_anew_without_mixing(local, now):
    calls = ceilings(local, 100.0)
    local.spend(event(70) for _ in range(3))
    assert left(local, calls) == 97

    local.learn(catalog("LATEST"))
    now[0] += 1
    seats = ceilings(local, 100.0, usage=0.0)
    assert left(local, seats) == 100, "three calls are no seats"
    local.spend([event(70)])
    assert left(local, seats) == 30

    local.learn(catalog("UNIQUE_COUNT"))
    now[0] += 1
    users = ceilings(local, 100.0)
    assert left(local, users) == 100, "neither calls nor seats are users"
    local.spend(event(n) for n in (1, 2, 2))
    assert left(local, users) == 98

    local.learn(catalog("COUNT"))
    assert left(local, calls) == 97, "and what was counted of the first is still there, and only that"


def test_what_was_held_under_the_old_kind_is_given_back_there(local, now):
    hold = local.take(ceilings(local, 100.0), ("f",), {"f": 40.0})
    local.learn(catalog("UNIQUE_COUNT"))
    users = ceilings(local, 100.0)
    assert left(local, users) == 100
    assert isinstance(hold, Hold)
    hold.release()
    assert left(local, users) == 100
    local.learn(catalog("COUNT"))
    assert left(local, ceilings(local, 100.0)) == 100


def test_an_answer_of_the_old_kind_does_not_tell_the_new_one_of_more(local):
    ceilings(local, 10.0)
    local.learn(catalog("UNIQUE_COUNT"))
    values = [FeatureValue("f", True, balance=1000.0, usage=0.0)]
    assert local.tells_of_more(local.ask("acme"), values) == {}
