"""What an event costs a feature, by OpenMeter's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.entitlements.usage.conditions import holds
from metergate.entitlements.usage.costs import as_text, read_costs, read_path
from metergate.openmeter.catalog import Catalog, Feature, Filter, Meter


def costs(aggregation="COUNT", value=None, filters=None, group_by=None, event_type="call"):
    meter = Meter("m", "01", event_type, aggregation, value, group_by or {})
    return read_costs(Catalog((Feature("calls", "02", "m", {}, filters or {}),), (meter,)), ["calls"])


def cost_of(data, *args, **options):
    (cost,) = costs(*args, **options).of("call")
    return cost.amount(data) if cost.counts(data) else 0


@pytest.mark.parametrize("data", [None, {}, {"tokens": "many"}])
def test_every_event_of_the_type_counts_as_one(data):
    assert cost_of(data) == 1
    assert costs().of("other") == ()


@pytest.mark.parametrize(
    ("value", "cost"),
    [
        (5, 5),
        (2.5, 2.5),
        ("7", 7),
        (" 7 ", 7),
        ("x", 0),
        (None, 0),
        (True, 0),
        ([1], 0),
        ("nan", 0),
        (1e999, 0),
    ],
)
def test_a_sum_counts_its_number_or_a_text_of_one_and_nothing_else(value, cost):
    assert cost_of({"tokens": value}, "SUM", "$.tokens") == cost


def test_an_event_that_lowers_a_sum_counts_nothing_until_openmeter_has_it():
    assert cost_of({"tokens": -5}, "SUM", "$.tokens") == 0


def test_a_missing_value_costs_nothing():
    assert cost_of({"other": 5}, "SUM", "$.tokens") == 0


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("$.tokens", ("tokens",)),
        ("$.usage.total_tokens", ("usage", "total_tokens")),
        ("$['a b'].c", ("a b", "c")),
        ('$["a"][0]', ("a", 0)),
        ("$.a-b", ("a-b",)),
        ("$", None),
        ("tokens", None),
        ("$.a[*]", None),
        ("$..a", None),
        ("$.a[?(@.b)]", None),
    ],
)
def test_a_path_that_names_one_value_is_read(path, steps):
    assert read_path(path) == steps


def test_a_value_is_looked_up_step_by_step():
    assert cost_of({"usage": [{"n": 3}]}, "SUM", "$.usage[0].n") == 3
    assert cost_of({"usage": []}, "SUM", "$.usage[0].n") == 0


@pytest.mark.parametrize("aggregation", ["AVG", "MIN", "MEDIAN"])
def test_a_meter_that_no_balance_can_be_counted_by_counts_nothing_and_says_why(aggregation):
    read = costs(aggregation, "$.x")
    assert read.of("call") == ()
    assert aggregation in read.unknown["calls"]


def test_a_value_that_cannot_be_found_here_counts_nothing_and_says_why():
    assert "$.a[*]" in costs("SUM", "$.a[*]").unknown["calls"]


def test_a_feature_whose_meter_is_gone_says_so_and_one_without_a_meter_is_no_concern():
    catalog = Catalog((Feature("a", "01", "gone"), Feature("b", "02")), ())
    read = read_costs(catalog, ["a", "b", "c"])
    assert (dict(read.by_type), list(read.unknown)) == ({}, ["a"])


def test_several_features_of_one_type_count_each_by_its_own_filters():
    meter = Meter("m", "01", "call", "COUNT", None, {"model": "$.model"})
    features = (
        Feature("all", "02", "m"),
        Feature("large", "03", "m", {}, {"model": Filter(eq="large")}),
        Feature("not required", "04", "m"),
    )
    read = read_costs(Catalog(features, (meter,)), ["large", "all"])
    counted = [cost.feature for cost in read.of("call") if cost.counts({"model": "small"})]
    assert counted == ["all"]
    assert [cost.feature for cost in read.of("call") if cost.counts({"model": "large"})] == ["all", "large"]


def test_a_filter_on_a_dimension_that_the_meter_does_not_have_lets_through():
    assert cost_of({}, filters={"region": Filter(eq="eu")}) == 1


@pytest.mark.parametrize(
    ("condition", "through", "held"),
    [
        (Filter(eq="a"), ["a"], ["b", ""]),
        (Filter(ne="a"), ["b", ""], ["a"]),
        (Filter(in_=("a", "b")), ["a", "b"], ["c"]),
        (Filter(nin=("a", "b")), ["c"], ["a"]),
        (Filter(like="gpt-%"), ["gpt-4", "gpt-"], ["GPT-4", "xgpt-4"]),
        (Filter(nlike="gpt-%"), ["GPT-4"], ["gpt-4"]),
        (Filter(ilike="gpt-_"), ["GPT-4"], ["gpt-40"]),
        (Filter(nilike="gpt-_"), ["gpt-40"], ["GPT-4"]),
        (Filter(like="100\\%"), ["100%"], ["1000"]),
        (Filter(contains="PT"), ["gpt"], ["gp"]),
        (Filter(ncontains="PT"), ["gp"], ["gpt"]),
        (Filter(gt="b"), ["c"], ["b", "a"]),
        (Filter(gte="b"), ["b"], ["a"]),
        (Filter(lt="b"), ["a"], ["b"]),
        (Filter(lte="b"), ["b"], ["c"]),
        (Filter(exists=True), ["a"], [""]),
        (Filter(exists=False), [""], ["a"]),
        (Filter(and_=(Filter(gt="a"), Filter(lt="c"))), ["b"], ["a", "c"]),
        (Filter(or_=(Filter(eq="a"), Filter(eq="c"))), ["a", "c"], ["b"]),
        (Filter(eq="a", unknown=("$regex",)), ["a"], ["b"]),
        (Filter(unknown=("$regex",)), ["a", ""], []),
    ],
)
def test_a_filter_lets_through_what_openmeter_lets_through(condition, through, held):
    assert [text for text in (*through, *held) if holds(condition, text)] == through


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (4, "4"), (1.5, "1.5"), (True, "true"), (False, "false"), (None, "null")]
)
def test_a_value_is_compared_as_text(value, text):
    assert as_text({"a": value}, ("a",)) == text
    assert as_text({}, ("a",)) == ""


def test_a_null_is_no_value_to_count_and_a_missing_one_is():
    (cost,) = costs("UNIQUE_COUNT", "$.user").of("call")
    assert [cost.key(data) for data in ({"user": "a"}, {"user": None}, {"user": "null"}, {}, None)] == [
        "a", None, None, "", "",
    ]  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.none() | st.dictionaries(st.sampled_from("abc"), JSON, max_size=3),
    st.sampled_from(["$.a", "$.a.b", "$.a[0]"]),
)
def test_no_data_makes_a_cost_negative_infinite_or_an_exception(data, path):
    for aggregation in ("SUM", "LATEST"):
        assert 0 <= cost_of(data, aggregation, path) < float("inf")
    (cost,) = costs("UNIQUE_COUNT", path).of("call")
    assert cost.key(data) is None or isinstance(cost.key(data), str)
