"""The memory of keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.store import keys
from metergate.embedded.store.keys import SeenKeys, event_key

numbers = st.integers(0, 2**64 - 1)


@given(st.lists(numbers), st.lists(numbers), st.lists(numbers))
def test_exactly_the_keys_that_were_loaded_or_added_are_there(loaded, added, others):
    seen = SeenKeys()
    seen.load_sorted(sorted(set(loaded)))
    for key in added:
        seen.add(key)
    known = {*loaded, *added}
    assert all(key in seen for key in known)
    assert [key in seen for key in others] == [key in known for key in others]


def test_keys_are_found_after_they_were_merged_into_the_sorted_part(monkeypatch):
    monkeypatch.setattr(keys, "MIN_FRESH", 4)
    seen = SeenKeys()
    added = [event_key("source", str(number)) for number in range(20_000)]
    for key in added:
        seen.add(key)
    assert all(key in seen for key in added)
    assert not any(event_key("other", str(number)) in seen for number in range(20_000))
    assert len(seen) == 20_000


def test_where_the_source_ends_matters():
    assert event_key("a", "bc") != event_key("ab", "c")
