"""The memory of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.store.keys import ALL, PARTS, SeenKeys, event_key, part, shards_of

few = st.integers(0, 3).map(lambda number: number << 61)  # so that some share a shard
numbers = st.integers(0, 2**64 - 1) | st.builds(lambda high, low: high + low, few, st.integers(0, 5 << 16))


@given(
    st.lists(numbers, unique_by=lambda key: key >> 16),
    st.lists(numbers),
    st.lists(numbers),
    st.integers(0, PARTS),
)
def test_what_was_loaded_or_added_is_there_and_all_that_may_yet_be_loaded(table, added, others, parts):
    seen = SeenKeys()
    for number in range(parts):
        for key in added[number::PARTS]:
            seen.add(key)
        first, end = part(number)
        seen.load(shards_of(sorted(key for key in table if first <= key < end)), end)
    for key in added:
        seen.add(key)
    known = {key >> 16 for key in added} | {key >> 16 for key in table if key < seen.loaded}
    for key in [*table, *added, *others]:
        assert (key in seen) == (key >= seen.loaded or key >> 16 in known)
    assert len(seen) == len(known)


def test_the_parts_are_all_keys():
    parts = [part(number) for number in range(PARTS)]
    assert [first for first, _ in parts] == [0, *(end for _, end in parts[:-1])]
    assert parts[-1][1] == ALL


def test_different_events_have_different_keys():
    seen = SeenKeys(ALL)
    for number in range(20_000):
        seen.add(event_key("source", str(number)))
    assert len(seen) == 20_000
    assert not any(event_key("other", str(number)) in seen for number in range(20_000))


def test_where_the_source_ends_matters():
    assert event_key("a", "bc") != event_key("ab", "c")
