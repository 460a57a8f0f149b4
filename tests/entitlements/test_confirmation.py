import pytest

from metergate.entitlements.confirmation import MOST_ALONE, Confirmations, confirm
from metergate.entitlements.snapshot import Snapshot, Snapshots, is_near_limit
from metergate.openmeter.values import FeatureValue, SubjectAccess

API = ("api",)
METERED = FeatureValue("api", True, 70, 30, 0)
SSO = FeatureValue("sso", True)
EMPTY = FeatureValue("off", False, 0, 10, 0)


def snapshot(*values, asked_at=10.0, state="found"):
    return Snapshot(asked_at, SubjectAccess(state, values))


def test_what_is_confirmed_is_as_young_as_the_question_and_its_balances_as_old_as_they_are():
    known = snapshot(METERED, SSO, EMPTY)
    once = confirm(known, {"api": True, "sso": True, "off": False}, ("api", "sso", "off"), 20.0)
    again = confirm(once, {"api": True}, API, 30.0)
    assert (once.asked_at, once.fresh_from, once.balances_at) == (20, 20, 10)
    assert (again.asked_at, again.fresh_from, again.balances_at) == (30, 30, 10)
    assert again.values == known.values
    assert known.asked_at == 10


@pytest.mark.parametrize(
    ("access", "features"),
    [
        ({"api": False}, ("api",)),
        ({"off": True}, ("off",)),
        ({"none": True}, ("none",)),
        ({"api": True}, ("api", "sso")),
        ({}, ("api",)),
        (None, ("api",)),
    ],
)
def test_an_answer_that_differs_or_lacks_something_confirms_nothing(access, features):
    assert confirm(snapshot(METERED, SSO, EMPTY), access, features, 20.0) is None


def test_that_there_is_no_such_entitlement_is_confirmed_as_no_access():
    assert confirm(snapshot(METERED), {"api": True, "none": False}, ("api", "none"), 20.0) is not None


def test_nothing_known_is_not_confirmed():
    assert confirm(None, {"api": True}, API, 20.0) is None


def test_a_confirmed_snapshot_takes_the_place_of_the_last_one_and_weighs_the_same():
    store = Snapshots(10)
    store.put("acme", snapshot(METERED, SSO))
    store.remember_grant(store.entries["acme"], API)
    store.put("acme", confirm(store.entries["acme"], {"api": True}, API, 20.0))
    assert (len(store), store.weight) == (1, 2)
    assert store.entries["acme"].granted == (API,)
    assert store.entries["acme"].asked_at == 20


@pytest.mark.parametrize(
    ("value", "near"),
    [
        (FeatureValue("api", True, 9.9, 90.1, 0), True),
        (FeatureValue("api", True, 10, 90, 0), False),
        (FeatureValue("api", True, 100, 0, 0), False),
        (FeatureValue("api", True, 5, None, None), False),
        (FeatureValue("api", True, 0, 100, 5), False),
        (FeatureValue("api", False, 0, 100, 5), False),
        (FeatureValue("api", True), False),
        (FeatureValue("other", True, 1, 99, 0), False),
    ],
)
def test_near_a_limit_is_who_has_less_than_a_tenth_left_of_what_is_needed(value, near):
    assert is_near_limit(snapshot(value), API) == near


def test_only_who_is_found_and_can_be_asked_for_by_key_is_fit():
    confirmations = Confirmations()
    assert confirmations.fit("acme", snapshot(METERED))
    assert not confirmations.fit("acme", snapshot(state="absent"))
    assert not confirmations.fit("a\0", snapshot(METERED))
    confirmations.leave_alone("acme")
    assert not confirmations.fit("acme", snapshot(METERED))


def test_who_is_left_alone_is_remembered_in_bounded_memory():
    confirmations = Confirmations()
    for number in range(MOST_ALONE + 1):
        confirmations.leave_alone(f"s{number}")
    assert not confirmations.fit(f"s{MOST_ALONE}", snapshot(METERED))
    assert confirmations.fit("s0", snapshot(METERED))


def test_features_are_gathered_once_each_and_too_many_end_the_query():
    confirmations = Confirmations()
    assert not confirmations.open(0.0)
    confirmations.need(("a", "b"))
    confirmations.need(("b", "c"))
    assert confirmations.features == ("a", "b", "c")
    assert confirmations.open(0.0)
    confirmations.need(tuple(f"f{number}" for number in range(98)))
    assert not confirmations.open(0.0)


def test_one_query_finds_out_whether_it_is_offered_and_then_many_may_be_under_way():
    confirmations = Confirmations()
    confirmations.need(API)
    confirmations.begin()
    assert not confirmations.open(1e9)
    confirmations.succeed()
    confirmations.begin()
    assert confirmations.open(0.0)
    confirmations.close(100.0)
    assert not confirmations.open(99.0)
    assert confirmations.open(100.0)
    confirmations.begin()
    assert not confirmations.open(100.0)
