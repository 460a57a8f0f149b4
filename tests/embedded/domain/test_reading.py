"""What a meter reads from an event on its way in is what the store's SQL reads from it later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metergate.embedded.domain.filters import StringFilter
from metergate.embedded.domain.jsonpath import parse_path
from metergate.embedded.domain.reading import is_exact, number_at, text_at
from metergate.embedded.store.statements import Statement, number_value, text_value

PATHS = ["$.a", '$["b c"][0]', "$.a.x", "$"]
texts = st.text(alphabet="0123456789.+-eE_ \t\n\r\v\f\0infa\u00a0é", max_size=8) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "0"]), inner)
)


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    with duckdb.connect() as connection:
        yield connection


def in_sql(cursor: Any, data: str, path: str) -> tuple[Any, Any]:
    sql = Statement()
    columns = f"{text_value(sql, path)}, {number_value(sql, path)}"
    statement = f"SELECT {columns} FROM (SELECT {sql.add(data)}::VARCHAR AS data)"  # noqa: S608
    return cursor.execute(statement, sql.parameters).fetchone()


@settings(max_examples=300)
@given(st.fixed_dictionaries({}, optional={"a": values, "b c": values}), st.sampled_from(PATHS))
@example({"a": "\t5"}, "$.a")
@example({"a": "5\n"}, "$.a")
@example({"a": "+-5"}, "$.a")
@example({"a": "1e400"}, "$.a")
@example({"a": "-.5e+3"}, "$.a")
def test_both_read_the_same(cursor, document, path):
    data = msgspec.json.encode(document).decode()
    stored, steps = msgspec.json.decode(data), parse_path(path)
    assert in_sql(cursor, data, path) == (text_at(stored, steps), number_at(stored, steps))


@pytest.mark.parametrize(
    "number",
    ["1e2", "1E+2", "-0", "-0.0", "1.10", "1e308", "9" * 308, "9" * 400, "1e-400", "9007199254740993"],
)
def test_numbers_however_they_are_written_are_read_the_same(cursor, number):
    data = f'{{"a":{number}}}'
    stored, steps = msgspec.json.decode(data), parse_path("$.a")
    assert in_sql(cursor, data, "$.a") == (text_at(stored, steps), number_at(stored, steps))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("1.0", "1"),
        ("1", "1"),
        ("1e2", "100"),
        ("-5.0", "-5"),
        ("1.50", "1.5"),
        ('"1.0"', "1.0"),
        ("1e20", "100000000000000000000"),
    ],
)
def test_one_number_is_one_text_however_it_is_written(cursor, written, text):
    data = f'{{"a":{written}}}'
    assert in_sql(cursor, data, "$.a")[0] == text_at(msgspec.json.decode(data), parse_path("$.a")) == text


@pytest.mark.parametrize(
    ("condition", "exact"),
    [
        (StringFilter("$eq", "a"), True),
        (StringFilter("$in", ("a", "b")), True),
        (StringFilter("$exists", True), True),
        (StringFilter("$ilike", "a"), False),
        (
            StringFilter(
                "$and", (StringFilter("$ne", "a"), StringFilter("$or", (StringFilter("$like", "b"),)))
            ),
            False,
        ),
    ],
)
def test_a_pattern_anywhere_in_a_filter_makes_it_one_for_sql(condition, exact):
    assert is_exact(condition) is exact
