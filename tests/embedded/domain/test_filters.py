"""String filters."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.filters import StringFilter, matches, one_of, parse_filter
from metergate.embedded.store.statements import Statement, filter_clause


@pytest.mark.parametrize(
    ("written", "passing", "failing"),
    [
        ({"$eq": "a"}, ["a"], ["A", ""]),
        ({"$ne": "a"}, ["A", ""], ["a"]),
        ({"$in": ["a", "b"]}, ["a", "b"], ["c"]),
        ({"$nin": ["a", "b"]}, ["c"], ["a"]),
        ({"$like": "gpt-_%"}, ["gpt-4", "gpt-4o"], ["gpt-", "GPT-4", "xgpt-4"]),
        ({"$nlike": "gpt%"}, ["claude"], ["gpt"]),
        ({"$like": r"100\%"}, ["100%"], ["1000"]),
        ({"$ilike": "GPT%"}, ["gpt-4"], ["claude"]),
        ({"$nilike": "GPT%"}, ["claude"], ["gpt-4"]),
        ({"$contains": "5%"}, ["is 5% off", "5%"], ["5 percent"]),
        ({"$ncontains": "PT"}, ["a"], ["gpt"]),
        ({"$gt": "b"}, ["c", "ba"], ["b", "a"]),
        ({"$gte": "b"}, ["b"], ["a"]),
        ({"$lt": "b"}, ["a", "B"], ["b"]),
        ({"$lte": "b"}, ["b"], ["c"]),
        ({"$exists": True}, ["", "a"], []),
        ({"$exists": False}, [], ["", "a"]),
        ({"$and": [{"$gt": "a"}, {"$lt": "c"}]}, ["b"], ["a", "c"]),
        ({"$or": [{"$eq": "a"}, {"$and": [{"$eq": "b"}]}]}, ["a", "b"], ["c"]),
        ({"$eq": "a", "$ne": None}, ["a"], ["b"]),
    ],
)
def test_each_operator_passes_what_it_says(written, passing, failing):
    condition = parse_filter(written)
    assert [value for value in passing + failing if matches(condition, value)] == passing


@pytest.mark.parametrize(
    ("written", "passes"),
    [
        ({"$eq": "a"}, False),
        ({"$ne": "a"}, False),
        ({"$in": ["a"]}, False),
        ({"$nin": ["a"]}, False),
        ({"$ncontains": "a"}, False),
        ({"$exists": True}, False),
        ({"$exists": False}, True),
        ({"$or": [{"$exists": False}, {"$eq": "a"}]}, True),
        ({"$and": [{"$exists": False}, {"$ne": "a"}]}, False),
    ],
)
def test_a_missing_value_passes_no_comparison(written, passes):
    assert matches(parse_filter(written), None) is passes


@pytest.mark.parametrize(
    "written",
    [
        [],
        "a",
        {"$eq": ""},
        {"$eq": 1},
        {"$eq": "a", "$ne": "b"},
        {"$near": "a"},
        {"$in": "a"},
        {"$in": [1]},
        {"$and": []},
        {"$or": {"$eq": "a"}},
        {"$exists": "yes"},
    ],
)
def test_what_is_no_filter_is_turned_down(written):
    with pytest.raises(ValueError, match="filter"):
        parse_filter(written)


def test_groups_may_be_nested_only_so_deep():
    nested = {"$and": [{"$or": [{"$eq": "a"}]}]}
    assert parse_filter(nested, depth=2) is not None
    with pytest.raises(ValueError, match="complexity"):
        parse_filter(nested, depth=1)


def test_an_empty_filter_filters_nothing():
    assert parse_filter({}) is None
    assert one_of("a", "b") == StringFilter("$in", ("a", "b"))


texts = st.text("abAB%_\\é.*", min_size=1, max_size=5)
filters = st.recursive(
    st.tuples(
        st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$contains", "$ncontains"]), texts
    ).map(lambda pair: {pair[0]: pair[1]})
    | st.tuples(
        st.sampled_from(["$like", "$nlike", "$ilike", "$nilike"]), st.text("abAB%_é.", min_size=1, max_size=5)
    ).map(lambda pair: {pair[0]: pair[1]})
    | st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(texts, max_size=3)).map(
        lambda pair: {pair[0]: pair[1]}
    )
    | st.booleans().map(lambda value: {"$exists": value}),
    lambda children: st.tuples(
        st.sampled_from(["$and", "$or"]), st.lists(children, min_size=1, max_size=3)
    ).map(lambda pair: {pair[0]: pair[1]}),
    max_leaves=4,
)


@given(filters, st.lists(texts | st.just(""), min_size=1, max_size=8))
def test_the_databases_filter_passes_the_same_values(written, values):
    condition = parse_filter(written)
    statement = Statement()
    source = f"(SELECT unnest({statement.add(values)}::VARCHAR[]) AS value)"
    clause = filter_clause(statement, "value", condition)
    sql = f"SELECT value FROM {source} WHERE {clause}"  # noqa: S608
    rows = duckdb.execute(sql, statement.parameters).fetchall()
    assert sorted(row[0] for row in rows) == sorted(value for value in values if matches(condition, value))


@pytest.mark.parametrize("operator", ["$like", "$nlike", "$ilike", "$nilike"])
@pytest.mark.parametrize("pattern", ["\\", "a%\\", "\\\\\\"])
def test_an_escape_character_that_escapes_nothing_is_refused(operator, pattern):
    """DuckDB would refuse it when it is used: in every value of a feature that was accepted with it."""
    with pytest.raises(ValueError, match="escapes nothing"):
        parse_filter({operator: pattern})
    assert parse_filter({operator: pattern + "\\"}) is not None
