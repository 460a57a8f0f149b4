"""Meters set at run time: what is taken, copied, warned about and refused, and how they join the configured ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import UsageError
from metergate.policy import Meter, merge, runtime_meters
from metergate.policy.meters import _warn_once


@pytest.fixture(autouse=True)
def _every_warning_is_new() -> Iterator[None]:
    _warn_once.cache_clear()
    yield
    _warn_once.cache_clear()


@pytest.mark.parametrize(
    ("value", "meters"),
    [
        ({"type": "a"}, (Meter("a"),)),
        ({"type": "a", "data": {"n": 1}}, (Meter("a", {"n": 1}),)),
        ({"type": "a", "data": {}}, (Meter("a", {}),)),
        (Meter("a", {"n": 1}), (Meter("a", {"n": 1}),)),
        (MappingProxyType({"type": "a", "data": MappingProxyType({"n": 1})}), (Meter("a", {"n": 1}),)),
        ([{"type": "a"}, Meter("b")], (Meter("a"), Meter("b"))),
        (({"type": "a"}, {"type": "a"}), (Meter("a"), Meter("a"))),
        (({"type": name} for name in "ab"), (Meter("a"), Meter("b"))),
        ([], ()),
        (
            {"type": "a", "id": "x", "subject": "s", "source": "src", "time": "2026-01-31T13:00:00+01:00"},
            (Meter("a", None, "s", "src", "x", "2026-01-31T12:00:00.000Z"),),
        ),
        ({"type": "a", "subject": 42}, (Meter("a", subject="42"),)),
        (
            {"type": "a", "time": datetime(2026, 1, 31, 12, tzinfo=UTC)},
            (Meter("a", time="2026-01-31T12:00:00.000Z"),),
        ),
        (
            {"type": "a", "data": None, "subject": None, "source": None, "id": None, "time": None},
            (Meter("a"),),
        ),
        ({"type": "a", "specversion": "1.0"}, (Meter("a"),)),
    ],
)
def test_every_form_of_a_meter_is_taken(value, meters):
    assert runtime_meters(value) == meters


def test_data_is_copied_when_it_is_set():
    data = {"tags": ["a"], "inner": {"n": 1}}
    one, other = runtime_meters([{"type": "a", "data": data}, Meter("b", data)])
    data["tags"].append("b")
    data["inner"]["n"] = 2
    data["more"] = True
    assert one.data == other.data == {"tags": ["a"], "inner": {"n": 1}}


def test_data_that_json_cannot_hold_is_refused_when_it_is_sent_not_when_it_is_set():
    assert runtime_meters({"type": "a", "data": {"n": math.inf}})[0].data == {"n": math.inf}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "api-call",
            (
                'A meter is a mapping such as {"type": "api-request", "data": {"count": 1}} or a list of them, '
                'not the string "api-call".'
            ),
        ),
        (
            None,
            (
                'A meter is a mapping such as {"type": "api-request", "data": {"count": 1}} or a list of them, '
                "not null."
            ),
        ),
        (
            5,
            (
                'A meter is a mapping such as {"type": "api-request", "data": {"count": 1}} or a list of them, '
                "not the number 5."
            ),
        ),
        (
            {"data": {"n": 1}},
            (
                'meter.type: A meter needs a "type", the event type that OpenMeter counts. '
                'Write "type": "api-request".'
            ),
        ),
        (
            {"type": ""},
            (
                'meter.type: A meter\'s "type" has to be a non-empty string, not an empty string. '
                'Write "type": "api-request".'
            ),
        ),
        (
            Meter(""),
            (
                'meter.type: A meter\'s "type" has to be a non-empty string, not an empty string. '
                'Write "type": "api-request".'
            ),
        ),
        (
            {"type": "a\ud800"},
            (
                'meter.type: A meter\'s "type" has to be a non-empty string, not a string with a lone surrogate, '
                'which UTF-8 cannot carry. Write "type": "api-request".'
            ),
        ),
        (
            [{"type": "a"}, {"type": "b", "data": [1]}],
            (
                'meters[1].data: A meter\'s "data" has to be an object, not a list. '
                'Write "data": {"value": 1}, or leave it out.'
            ),
        ),
        (
            [{"type": "a"}, "b"],
            'meters[1]: A meter has to be an object, not the string "b". Write {"type": "b"}.',
        ),
        (
            {"type": "a", "subject": ""},
            'meter.subject: A meter\'s "subject" has to be a non-empty string, not an empty string.',
        ),
        (
            {"type": "a", "subject": True},
            'meter.subject: A meter\'s "subject" has to be a non-empty string, not the boolean true.',
        ),
        (
            {"type": "a", "id": 5, "source": " "},
            (
                'meter.source: A meter\'s "source" has to be a non-empty string, not the string " ". '
                'meter.id: A meter\'s "id" has to be a non-empty string, not the number 5.'
            ),
        ),
        (
            {"type": "a", "time": datetime(2026, 1, 31)},  # noqa: DTZ001 - what is refused
            (
                'meter.time: A meter\'s "time" is a datetime without a time zone; '
                "give it one, such as datetime.UTC."
            ),
        ),
        (
            {"type": "a", "time": 1769860800},
            'meter.time: A meter\'s "time" is a Python int; give an aware datetime or an RFC 3339 string.',
        ),
        (
            [{"type": 5}, {"type": "b", "data": 1}],
            (
                'meters[0].type: A meter\'s "type" has to be a non-empty string, not the number 5. '
                'Write "type": "api-request". '
                'meters[1].data: A meter\'s "data" has to be an object, not the number 1. '
                'Write "data": {"value": 1}, or leave it out.'
            ),
        ),
    ],
)
def test_a_bad_argument_is_refused_where_it_is_given(value, message):
    with pytest.raises(UsageError) as refusal:
        runtime_meters(value)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("meter", "message"),
    [
        (
            {"type": "a", "specversion": "0.3"},
            'set_meters: meter.specversion: The meter key "specversion" has no effect. It is always "1.0".',
        ),
        (
            {"type": "a", "value": 17},
            (
                'set_meters: meter.value: The meter key "value" has no effect. '
                'Usage is counted from the data: write "data": {"value": ...}.'
            ),
        ),
        (
            {"type": "a", "subjects": "x"},
            (
                'set_meters: meter.subjects: The meter key "subjects" is not known and has no effect. '
                'Did you mean "subject"?'
            ),
        ),
    ],
)
def test_a_key_without_effect_is_ignored_with_one_warning_however_often_it_comes(meter, message, caplog):
    with caplog.at_level(logging.WARNING, "metergate.policy"):
        for _ in range(3):
            assert runtime_meters(meter) == (Meter("a"),)
    assert caplog.messages == [message]


types = st.sampled_from(["api-call", "api-request", "llm-usage", "egress"])
meters = st.builds(Meter, types, st.none() | st.fixed_dictionaries({"n": st.integers()}))


@given(st.lists(meters).map(tuple), st.none() | st.lists(meters).map(tuple))
def test_a_run_time_meter_replaces_the_configured_ones_of_its_type_and_no_others(configured, runtime):
    merged = merge(configured, runtime)
    set_types = {meter.type for meter in runtime or ()}
    assert [meter for meter in merged if meter.type in set_types] == list(runtime or ())
    assert [meter for meter in merged if meter.type not in set_types] == [
        meter for meter in configured if meter.type not in set_types
    ]


@given(st.lists(meters).map(tuple))
def test_an_empty_list_clears_what_was_set_so_that_the_configured_meters_count_again(configured):
    assert merge(configured, runtime_meters([])) == configured == merge(configured, None)
