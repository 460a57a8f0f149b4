"""Local usage: what events cost, what is left, and what a request holds."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.holds import Hold, UsedUp
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue

CATALOG = Catalog(
    tuple(Feature(name, name, name) for name in ("calls", "tokens", "users", "seats", "odd")),
    (
        Meter("calls", "1", "call", "COUNT"),
        Meter("tokens", "2", "call", "SUM", "$.tokens"),
        Meter("users", "3", "call", "UNIQUE_COUNT", "$.user"),
        Meter("seats", "4", "seat", "LATEST", "$.seats"),
        Meter("odd", "5", "call", "AVG", "$.tokens"),
    ),
)


@pytest.fixture
def local():
    """``local("calls", …)`` counts for these features."""

    def make(*features, most_places=64, clock=lambda: 1000.0):
        folder = Folder(None, most_places=most_places)
        made = LocalUsage(Ledger(folder, Watermark(lambda: [(1, 0)]), clock, visibility=5))
        made.watch(features)
        made.learn(CATALOG)
        return made

    return make


def call(subject="acme", kind="call", **data):
    return SimpleNamespace(type=kind, subject=subject, data=data or None)


def answer(local, balances, subject="acme", usage=0.0):
    values = [
        FeatureValue(name, True, balance=left, usage=usage, overage=0.0) for name, left in balances.items()
    ]
    return local.ceilings(local.ask(subject), values)


def left(local, ceilings):
    return {ceiling.feature: local.left(ceiling) for ceiling in ceilings}


def test_a_flow_costs_what_its_events_say_and_nothing_of_another_subject(local):
    counted = local("calls", "tokens")
    ceilings = answer(counted, {"calls": 10.0, "tokens": 100.0})
    counted.spend([call(tokens=30), call(tokens="12.5"), call("other", tokens=9), call(kind="else")])
    assert left(counted, ceilings) == {"calls": 8.0, "tokens": 57.5}


def test_a_value_that_comes_again_costs_a_unique_feature_nothing(local):
    counted = local("users")
    ceilings = answer(counted, {"users": 10.0})
    counted.spend([call(user="a"), call(user="b"), call(user="a"), call(user=None)])
    assert left(counted, ceilings) == {"users": 8.0}


def test_a_value_that_comes_again_costs_once_it_is_seen_but_not_at_the_end_of_a_period():
    now = [1000.0]
    ledger = Ledger(Folder(None, most_places=8), Watermark(lambda: [(1, 1)]), lambda: now[0], visibility=5)
    counted = LocalUsage(ledger)
    counted.watch(["users"])
    counted.learn(CATALOG)

    def ceiling(*, early):
        value = FeatureValue("users", True, balance=9.0, usage=1.0)
        (made,) = counted.ceilings(counted.ask("acme"), [value], ["users"] if early else [])
        return made

    ceiling(early=False)
    counted.spend([call(user="a")])
    for _ in range(60):
        now[0] += 0.2
        ledger.tend(left_behind=False)
    before = counted.left(ceiling(early=False))
    last = ceiling(early=True)
    for _ in range(3):
        counted.spend([call(user="a")])
    assert counted.left(last) == before, "it is in the balance that the answers before have shown"
    counted.spend([call(user="b")])
    assert counted.left(last) == before - 1
    first = ceiling(early=False)
    counted.spend([call(user="a")])
    assert counted.left(first) == counted.left(last) == before - 2, "a new period counts it anew"


def test_a_level_does_not_add_up(local):
    counted = local("seats")
    ceilings = answer(counted, {"seats": 6.0}, usage=4.0)
    counted.spend([call(kind="seat", seats=7), call(kind="seat", seats=5)])
    assert left(counted, ceilings) == {"seats": 3.0}, "10 in all, of which 7 are taken"
    assert isinstance(counted.take(ceilings, ("seats",), {}), Hold)
    counted.spend([call(kind="seat", seats=10)])
    assert counted.take(ceilings, ("seats",), {}) == UsedUp("seats", 0.0)


def test_a_reserve_has_to_be_left_whole_and_without_one_anything_is_enough(local):
    counted = local("tokens")
    ceilings = answer(counted, {"tokens": 10.0})
    counted.spend([call(tokens=4)])
    assert counted.take(ceilings, ("tokens",), {"tokens": 7.0}) == UsedUp("tokens", 6.0)
    first = counted.take(ceilings, ("tokens",), {"tokens": 4.0})
    assert left(counted, ceilings) == {"tokens": 2.0}
    second = counted.take(ceilings, ("tokens",), {})
    assert left(counted, ceilings) == {"tokens": -2.0}, "it holds what the last event cost"
    first.release()
    second.release()
    second.release()
    assert left(counted, ceilings) == {"tokens": 6.0}


def test_of_several_features_all_are_held_or_none(local):
    counted = local("calls", "tokens")
    ceilings = answer(counted, {"calls": 10.0, "tokens": 3.0})
    assert counted.take(ceilings, ("calls", "tokens"), {"tokens": 4.0}) == UsedUp("tokens", 3.0)
    assert left(counted, ceilings) == {"calls": 10.0, "tokens": 3.0}
    assert isinstance(counted.take(ceilings, ("calls",), {"tokens": 4.0}), Hold), "the other is not needed"


def test_a_place_that_went_to_somebody_else_leaves_nothing_until_openmeter_is_asked_again(local):
    now = [1000.0]
    counted = local("calls", most_places=2, clock=lambda: now[0])
    ceilings = answer(counted, {"calls": 10.0})
    for number in range(4):
        now[0] += 700
        counted.spend([call(f"s{number}")]) if not number else counted.ask(f"s{number}")
    assert isinstance(counted.take(ceilings, ("calls",), {}), UsedUp)
    assert isinstance(counted.take(answer(counted, {"calls": 10.0}), ("calls",), {}), Hold)


def test_who_is_crowded_out_is_counted_each_time_and_said_once(local, caplog):
    counted = local("calls", most_places=2)
    counted.spend([call(f"s{number}") for number in range(5)])
    assert answer(counted, {"calls": 10.0}, subject="s4") == ()
    statistics = counted.statistics()
    assert (statistics.places, statistics.evicted, statistics.crowded_out) == (2, 0, 4)
    assert caplog.text.count("the local count is full") == 1


def test_a_meter_that_cannot_be_counted_by_is_said_once_and_counts_nothing(local, caplog):
    with caplog.at_level(logging.WARNING):
        counted = local("odd")
        counted.learn(CATALOG)
    assert caplog.text.count("feature odd is not counted here") == 1
    assert answer(counted, {"odd": 10.0}) == ()


def test_a_feature_is_counted_from_the_moment_it_is_watched(local):
    counted = local("calls")
    counted.spend([call(tokens=5)])
    counted.watch(["tokens"])
    ceilings = answer(counted, {"calls": 10.0, "tokens": 10.0})
    counted.spend([call(tokens=3)])
    assert left(counted, ceilings)["tokens"] == 7.0


def test_an_answer_with_a_balance_that_was_never_learnt_is_noticed(local):
    counted = local("calls")
    assert not counted.lacks
    counted.watch(["new"])
    answer(counted, {"new": 1.0})
    assert counted.lacks


def test_what_was_recorded_before_it_was_learnt_how_events_count_is_counted_then():
    early = LocalUsage(
        Ledger(Folder(None, most_places=64), Watermark(lambda: [(1, 0)]), lambda: 1000.0, visibility=5)
    )
    early.watch(["calls", "tokens"])
    early.spend([call(tokens=7), call(kind="other")])
    early.spend([call(tokens=5)])
    early.learn(CATALOG)
    assert left(early, answer(early, {"calls": 10.0, "tokens": 100.0})) == {"calls": 8.0, "tokens": 88.0}
    early.learn(CATALOG)
    assert left(early, answer(early, {"calls": 10.0})) == {"calls": 8.0}, "once"
