"""JSON bodies: one document, or an array whose elements are told apart while they come; bounded both."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metergate.streams import Body
from metergate.streams.documents import MOST_MENDED, Elements, mended

texts = st.text(alphabet='ab"\\{}[],: ü\n', max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 999) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)


def fed(body: bytes, at: list[int], most: int = 1_000_000) -> list[bytes]:
    splitter = Body(most)
    chunks = [body[begin:end] for begin, end in zip([0, *at], [*at, len(body)], strict=True)]
    return [found for chunk in chunks for found in splitter.feed(chunk)] + splitter.finish()


@settings(max_examples=50)
@given(st.lists(objects, max_size=4), st.sampled_from([None, 2]), st.booleans(), st.data())
def test_an_array_has_the_same_elements_wherever_it_is_cut(elements, indent, escaped, data):
    body = b" \n" + json.dumps(elements, indent=indent, ensure_ascii=escaped).encode()
    at = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    assert [json.loads(element) for element in fed(body, at)] == elements
    every = sorted([*range(len(body)), *range(len(body))])  # and an empty chunk between any two
    assert [json.loads(element) for element in fed(body, every)] == elements


@settings(max_examples=50)
@given(objects, st.data())
def test_anything_but_an_array_is_one_document(value, data):
    body = json.dumps(value).encode()
    at = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    assert fed(b"\xef\xbb\xbf\r\n" + body, []) == [body]
    assert fed(body, at) == [body]


@settings(max_examples=50)
@given(st.dictionaries(texts, values, min_size=1, max_size=4), st.data())
def test_a_document_that_was_cut_off_mends_to_a_part_of_it(value, data):
    body = json.dumps(value).encode()
    as_seen = mended(body[: data.draw(st.integers(1, len(body)))])
    assert as_seen is not None
    assert is_part(json.loads(as_seen), value)


def is_part(seen: object, value: object) -> bool:
    if isinstance(seen, dict) and isinstance(value, dict):
        return all(key in value and is_part(item, value[key]) for key, item in seen.items())
    if isinstance(seen, list) and isinstance(value, list):
        return len(seen) <= len(value) and all(map(is_part, seen, value))
    return seen == value


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        (b'{"a":12', b"{}"),
        (b'{"a":12,', b'{"a":12}'),
        (b'{"a":{"b":1,"c":"x, {', b'{"a":{"b":1}}'),
        (b'{"a":[1,{"b":2}', b'{"a":[1,{"b":2}]}'),
        (b'{"a":1}  garbage,{', b'{"a":1}'),
        (b'"only a str', None),
        (b"", None),
    ],
)
def test_mending_leaves_out_what_is_incomplete(cut, whole):
    assert mended(cut) == whole


def test_a_large_document_is_not_mended_because_that_would_take_long():
    assert mended(b'{"a":1,' + b" " * MOST_MENDED) is None


def test_a_document_over_the_bound_is_counted_and_nothing_of_it_is_held():
    splitter, chunk = Body(most=100_000), b"x" * 10_000
    tracemalloc.start()
    try:
        splitter.feed(b'{"a":"')
        for _ in range(2_000):
            assert splitter.feed(chunk) == []
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()
    assert (splitter.finish(), splitter.skipped) == ([], 1)


@pytest.mark.parametrize("size", [1, 13, 100_000])
def test_an_element_over_the_bound_is_skipped_and_counted_and_the_next_is_read(size):
    body = b'[{"a":1},{"b":"' + b'\\"}' * 4_000 + b'"},[{"c":3}],7,{"d":4}]'
    elements = Elements(most=1_000)
    found = [one for at in range(0, len(body), size) for one in elements.feed(body[at : at + size])]
    assert found == [b'{"a":1}', b'[{"c":3}]', b'{"d":4}']
    assert elements.skipped == 1
    assert elements.finish() == []


def test_what_is_no_json_at_all_gives_no_elements():
    assert fed(b"[]]]}}}{{[ ]", list(range(1, 12))) in ([], [b"{{[ ]"])
