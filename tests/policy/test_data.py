"""An event's data: a copy of its own, and JSON or a refusal that says where."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.policy.data import copied, encoded

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values, max_size=5)


@given(objects)
def test_json_goes_through_unchanged(data):
    line = encoded(data)
    assert json.loads(line) == data
    assert b"\n" not in line


@given(objects)
def test_a_copy_is_equal_and_shares_nothing_that_can_change(data):
    copy = copied(data)
    assert copy == data
    assert not _containers(copy) & _containers(data)


def _containers(value) -> set[int]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return set() if inside is None else {id(value)}.union(*(_containers(item) for item in inside))


class Plan(StrEnum):
    PRO = "pro"


class Size(IntEnum):
    BIG = 3


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({}, b"{}"),
        ({"tokens": 150, "model": "gpt-4"}, b'{"tokens":150,"model":"gpt-4"}'),
        ({"n": 2**64}, b'{"n":18446744073709551616}'),
        ({"t": (1, 2)}, b'{"t":[1,2]}'),
        ({7: "a", None: "b", True: "c", 1.5: "d"}, b'{"7":"a","null":"b","true":"c","1.5":"d"}'),
        ({"plan": Plan.PRO, "size": Size.BIG}, b'{"plan":"pro","size":3}'),
        ({"inner": OrderedDict(a=1)}, b'{"inner":{"a":1}}'),
        ({"inner": MappingProxyType({"a": [MappingProxyType({"b": 1})]})}, b'{"inner":{"a":[{"b":1}]}}'),
        ({"text": "naïve “☕” \u2028"}, '{"text":"naïve “☕” \u2028"}'.encode()),
        ({"half": "a\ud800b", "\udfff": 1}, '{"half":"a\ufffdb","\ufffd":1}'.encode()),
    ],
)
def test_what_python_has_for_json_is_written_as_json(data, line):
    assert encoded(copied(data)) == line


class Loop(dict):
    """A mapping that holds itself, twice."""

    def __init__(self) -> None:
        super().__init__(me=self, again=self)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tokens": math.nan}, "data.tokens is NaN, which JSON cannot hold"),
        ({"a": [1, {"b c": math.inf}]}, 'data.a[1]["b c"] is infinity, which JSON cannot hold'),
        ({"a": -math.inf}, "data.a is infinity, which JSON cannot hold"),
        ({"a": {1, 2}}, "data.a is a Python set, which JSON cannot hold"),
        ({"a": b"x"}, "data.a is a Python bytes, which JSON cannot hold"),
        ({"a": datetime.now(UTC)}, "data.a is a Python datetime, which JSON cannot hold"),
        ({"a": Decimal("1.5")}, "data.a is a Python Decimal, which JSON cannot hold"),
        ({"a": object()}, "data.a is a Python object, which JSON cannot hold"),
        ({"a": 5, (1, 2): 3}, "data is an object with a key that is a Python tuple, which JSON cannot hold"),
        ({math.nan: 3}, "data is an object with a key that is NaN, which JSON cannot hold"),
        (Loop(), "data holds itself, or is too deep, which JSON cannot hold"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_its_place(data, message):
    with pytest.raises(ValueError) as refusal:
        encoded(copied(data))
    assert str(refusal.value) == message


def test_an_integer_with_more_digits_than_python_writes_is_refused():
    with pytest.raises(ValueError):
        encoded({"n": 10**5000})


def test_data_that_is_too_deep_for_python_is_refused_not_fatal():
    data: dict = {}
    inner = data
    for _ in range(100_000):
        inner["a"] = {}
        inner = inner["a"]
    with pytest.raises(ValueError):
        encoded(copied(data))
    while data:  # from the outside in: freed as a whole it would go deep once more
        data = data.pop("a", {})
