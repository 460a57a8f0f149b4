from hypothesis import given
from hypothesis import strategies as st

from metergate.entitlements.snapshot import Snapshot, Snapshots
from metergate.openmeter.values import FeatureValue, SubjectAccess


def snapshot(asked_at, *values, state="found"):
    return Snapshot(asked_at, SubjectAccess(state, values))


def test_a_snapshot_gives_a_feature_by_its_key():
    one = snapshot(1.0, FeatureValue("a", True), FeatureValue("b", False))
    assert one.feature("b") == FeatureValue("b", False)
    assert one.feature("c") is None


def test_a_full_store_forgets_a_subject_that_was_idle_long():
    store = Snapshots(4)
    for number in range(4):
        store.put(f"s{number}", snapshot(float(number)))
    store.put("s0", snapshot(10.0))
    store.put("new", snapshot(11.0))
    assert set(store.entries) == {"s0", "s2", "s3", "new"}
    assert store.evictions == 1


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1000)), max_size=120))
def test_a_store_never_exceeds_its_bound_and_keeps_what_came_last(limit, puts):
    store, new = Snapshots(limit), 0
    for number, asked_at in puts:
        new += f"s{number}" not in store.entries
        store.put(f"s{number}", snapshot(float(asked_at)))
        assert len(store) <= limit
        assert store.entries[f"s{number}"].asked_at == asked_at
    assert store.evictions == new - len(store)
    assert len(store) == min(limit, len({number for number, _ in puts}))


def test_subjects_in_use_stay_while_idle_ones_go():
    store = Snapshots(100)
    busy = [f"busy{number}" for number in range(50)]
    for turn in range(40):
        for name in busy:
            store.put(name, snapshot(turn * 10.0))
        for number in range(25):
            store.put(f"once{turn}-{number}", snapshot(turn * 10.0 - 5))
    assert all(name in store.entries for name in busy)
    assert store.evictions == 40 * 25 - 50


def metered(subject, features, used=0.0):
    return [FeatureValue(f"{subject}-{number}", True, 5.5 - used) for number in range(features)]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), max_size=120))
def test_the_values_of_all_subjects_together_are_bounded_and_what_came_last_stays(puts):
    store = Snapshots(8, most_values=20)
    for asked_at, (number, features) in enumerate(puts):
        store.put(f"s{number}", snapshot(float(asked_at), *metered(number, features, asked_at)))
        held = sum(len(kept.values) for kept in store.entries.values())
        assert held == store.weight <= 20
        assert len(store.entries[f"s{number}"].values) == features


def test_a_subject_with_more_features_than_there_is_room_for_is_kept_alone():
    store = Snapshots(8, most_values=20)
    for number in range(3):
        store.put(f"s{number}", snapshot(1.0, *metered(number, 2)))
    store.put("many", snapshot(0.0, *metered("many", 50)))
    assert set(store.entries) == {"many"}
    store.put("next", snapshot(2.0, *metered("next", 2)))
    assert set(store.entries) == {"next"}
    assert (store.weight, store.evictions) == (2, 4)


def test_boolean_entitlements_that_subjects_share_take_no_room():
    store = Snapshots(8, most_values=20)
    for number in range(8):
        store.put(f"s{number}", snapshot(1.0, *(FeatureValue(f"f{feature}", True) for feature in range(15))))
    assert (len(store), store.evictions) == (8, 0)


def test_equal_boolean_entitlements_are_one_object_and_metered_ones_are_not_kept():
    store = Snapshots(10)
    for name in ("a", "b"):
        store.put(name, snapshot(1.0, FeatureValue("sso", True)))
        store.put(name + "-metered", snapshot(1.0, FeatureValue("api", True, 5.5)))
    assert store.entries["a"].values is store.entries["b"].values
    assert store.entries["a-metered"].values is not store.entries["b-metered"].values


def test_what_an_answer_grants_is_known_until_the_answer_changes():
    store = Snapshots(10)
    first = snapshot(1.0, FeatureValue("api", True, 5.5))
    store.put("a", first)
    store.remember_grant(first, ("api",))
    store.put("a", snapshot(2.0, FeatureValue("api", True, 5.5)))
    assert store.entries["a"].granted == (("api",),)
    store.put("a", snapshot(3.0, FeatureValue("api", False, 0)))
    assert store.entries["a"].granted == ()


def test_a_customer_that_comes_into_being_is_not_taken_for_one_without_entitlements():
    store = Snapshots(10)
    store.put("a", snapshot(1.0, state="absent"))
    store.put("a", snapshot(2.0))
    assert store.entries["a"].lack == "no such entitlement"


def test_the_grants_that_are_remembered_are_bounded_and_each_kept_once():
    store = Snapshots(10)
    one = snapshot(1.0)
    for number in [*range(30), *range(30)]:
        store.remember_grant(one, (f"f{number}",))
    assert len(one.granted) == len(set(one.granted)) == 8
