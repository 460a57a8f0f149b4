"""Named members of a JSON document, and nothing else of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.streams import Members

keys = st.sampled_from(["a", "b", "c", "", "a b", "ü", "a.b"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)
paths = st.lists(st.lists(keys, min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)


def walked(value: object, path: tuple[str, ...]) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


@given(values, paths)
def test_members_are_those_that_a_walk_over_the_whole_document_finds(value, wanted):
    found = Members(wanted).read(json.dumps(value).encode())
    assert found == {path: walked(value, path) for path in wanted if walked(value, path) is not None}


def test_zero_false_and_the_empty_string_are_there_and_null_is_not():
    members = Members([("zero",), ("no",), ("empty",), ("null",)])
    found = members.read(b'{"zero":0,"no":false,"empty":"","null":null}')
    assert found == {("zero",): 0, ("no",): False, ("empty",): ""}


@pytest.mark.parametrize(
    "broken", [b"", b"{", b'{"a":', b"[DONE]", b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"a":1}}']
)
def test_what_is_not_json_is_refused(broken):
    with pytest.raises(ValueError):
        Members([("a",)]).read(broken)


def test_what_is_nested_too_deep_is_refused():
    with pytest.raises(RecursionError):
        Members([("a",)]).read(b'{"b":' * 200_000)
