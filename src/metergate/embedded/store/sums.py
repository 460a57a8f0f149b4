"""Sums of float64 numbers that no order and no size can change: what a value says before a restart it says after it.

A sum of float64 numbers that is rounded at every step depends on the order of its steps, and beyond the largest of
them it is no number at all. So they are added as whole numbers of ``UNIT``, of which every float64 is a multiple, and
what comes out is rounded once.

DuckDB adds the whole parts and the fractions apart, as 128 bit integers; the few numbers that do not fit into these
(very large ones, and very small ones with many digits) it lists.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeAlias

Units: TypeAlias = int
"""A number as a multiple of ``UNIT``."""

_BITS = 1074
UNIT = 2.0**-_BITS
"""The smallest float64 above zero."""
_FRACTION_BITS = 90
_LARGE = repr(2.0**80)
_FRACTIONS = repr(2.0**_FRACTION_BITS)
LARGEST = sys.float_info.max


def units(value: float) -> Units:
    """The finite number, exactly."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_BITS + 1 - denominator.bit_length())


def quotient(total: Units, number: int = 1) -> Decimal:
    """The total, or its share of so many, to the 15 digits that a float64 is good for; beyond float64 as a whole number."""
    try:
        return measured(total / (number << _BITS))
    except OverflowError:
        return Decimal(total // (number << _BITS))


def measured(value: float) -> Decimal:
    """A meter's value as the number it stands for: 15 digits, which is what a sum of doubles is good for."""
    return Decimal(int(value)) if value.is_integer() else Decimal(f"{value:.15g}")


def nearest(value: Decimal) -> float:
    """The nearest number that JSON's readers know: beyond float64 the largest one, never an infinity."""
    return max(-LARGEST, min(LARGEST, float(value)))


def sum_column(number: str) -> str:
    """The SQL of the sum of this column of DOUBLE, NULL being passed over, for ``read_sum``. A column, and no expression:
    it is written so often that planning would take longer than adding.
    """
    whole, fraction = f"trunc({number})", f"({number} - trunc({number})) * {_FRACTIONS}"
    fits = f"abs({number}) < {_LARGE} AND {fraction} = trunc({fraction})"
    return (
        f"{{'wholes': sum(TRY_CAST({whole} AS HUGEINT)) FILTER ({fits}), "
        f"'fractions': sum(TRY_CAST({fraction} AS HUGEINT)) FILTER ({fits}), "
        f"'others': list({number}) FILTER (NOT ({fits})), 'number': count({number})}}"
    )


def read_sum(column: dict[str, Any]) -> tuple[Units, int] | None:
    """The sum and of how many numbers; None where there were none."""
    if not column["number"]:
        return None
    total: int = (column["wholes"] or 0) << _BITS
    total += (column["fractions"] or 0) << (_BITS - _FRACTION_BITS)
    return total + _sum(column["others"] or ()), column["number"]


def _sum(values: Iterable[float]) -> Units:
    return sum(map(units, values))
