"""Exact sums: in any order, of any size, in memory and in the database the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import duckdb
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metergate.embedded.store.sums import measured, nearest, quotient, read_sum, sum_column, units

floats = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**9), 10**9).map(lambda cents: cents / 100),
    st.sampled_from([1e308, -1e308, sys.float_info.max, 5e-324, 1e17, -1e17, 2.0**80, 1e-9, 7e-12, 0.1, 1.0]),
)


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    with duckdb.connect() as connection:
        yield connection


@given(st.lists(floats, max_size=20))
@example([1e308] * 3)
@example([1e308, 1e308, -1e308, -1e308, 1.5])
@example([1e17, 1.0, -1e17])
@example([0.1] * 10)
def test_the_database_and_memory_add_exactly(cursor, values):
    statement = f"SELECT {sum_column('v')} FROM (SELECT unnest($1::DOUBLE[]) AS v)"  # noqa: S608
    (column,) = cursor.execute(statement, [[*values, None]]).fetchone()
    total = sum(map(units, values))
    assert read_sum(column) == ((total, len(values)) if values else None)
    exact = sum(map(Fraction, values), Fraction(0))
    assert Fraction(total, 2**1074) == exact
    shown = quotient(total)
    if abs(exact) < Fraction(sys.float_info.max):
        assert shown == measured(float(exact))
    else:
        assert abs(Fraction(shown) - exact) <= max(abs(exact) / 10**14, 1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1e400", sys.float_info.max), ("-1e400", -sys.float_info.max), ("0.1", 0.1), ("12", 12.0)],
)
def test_what_is_beyond_float64_is_shown_as_its_largest_number(value, expected):
    assert nearest(Decimal(value)) == expected


def test_a_mean_is_the_sum_by_the_number():
    assert quotient(sum(map(units, [1e308, 1e308, 1e308])), 3) == Decimal(int(1e308))
    assert quotient(sum(map(units, [0.1, 0.2])), 2) == Decimal("0.15")
