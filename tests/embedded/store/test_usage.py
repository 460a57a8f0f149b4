"""What meters measure, against a slow reading of the same events in plain Python."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.filters import StringFilter, matches
from metergate.embedded.domain.jsonpath import MISSING, look_up, parse_path
from metergate.embedded.domain.meters import Aggregation, Meter, read_number
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.windows import WindowSize, find_zone, window_end, window_start
from metergate.embedded.store import events, hours
from metergate.embedded.store.database import Database
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.usage import MeterUsage, figures

NOW = datetime(2026, 3, 29, tzinfo=UTC)
PATHS = {"n": "$.n", "m": '$["a b"][0]'}

CHANGES = (3600, 6 * 86400 + 15 * 3600)
"""Seconds after NOW at which Berlin's clocks go forward and Lord Howe's back by half an hour."""

scalars = st.sampled_from(
    [
        0,
        1,
        2.5,
        -3,
        1e300,
        True,
        None,
        "",
        "x",
        "7",
        "-1.5e2",
        " 8",
        "1_0",
        "null",
        "NaN",
        "Inf",
        "{",
        "[1",
        "é",
    ]
)
values = scalars | st.sampled_from([None, "null", "1_0", " 8", {"x": 1}, [1]])
documents = st.none() | st.fixed_dictionaries(
    {"n": values}, optional={"a b": st.lists(values, max_size=1) | scalars}
)
seconds = (
    st.sampled_from([change + shift for change in CHANGES for shift in (-1800, -1, 0, 1, 1800, 3600)])
    | st.sampled_from([0, -1, -7200])
    | st.integers(-400 * 86400, 400 * 86400)
)
made_events = st.lists(st.tuples(st.sampled_from("abc"), seconds, documents), max_size=12)
questions = st.builds(
    MeterQuery,
    start=st.none() | st.integers(-50, 20).map(lambda hours: NOW + timedelta(hours=hours, seconds=7)),
    end=st.none() | st.integers(21, 200).map(lambda hours: NOW + timedelta(hours=hours)),
    window=st.none() | st.sampled_from(WindowSize),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"]).map(find_zone),
    subjects=st.sampled_from([(), ("a",), ("a", "c")]),
    filters=st.sampled_from([{}, {"m": StringFilter("$in", ("x", "7"))}, {"n": StringFilter("$ne", "")}]),
    group_by=st.sampled_from([(), ("subject",), ("m",), ("subject", "n"), ("n", "m")]),
)


def text(document: Any, path: str) -> str:
    value = look_up(document, parse_path(path))
    if value is MISSING or isinstance(value, dict | list):
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def number(document: Any, path: str) -> float | None:
    value = look_up(document, parse_path(path))
    if isinstance(value, str):
        value = read_number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def reference(meter: Meter, question: MeterQuery, sent: list[Event]) -> dict[Any, float]:
    """Per window and group: the value."""
    groups: dict[Any, list[Event]] = defaultdict(list)
    if question.window is None and not question.group_by:
        groups[None, ()] = []
    for event in sent:
        moment = datetime.fromtimestamp(event.time or 0, UTC)
        document = None if event.data is None else msgspec.json.decode(event.data)
        if question.start is not None and moment < question.start.replace(microsecond=0):
            continue
        if question.end is not None and moment >= question.end:
            continue
        if question.subjects and event.subject not in question.subjects:
            continue
        if not all(matches(filter_, text(document, PATHS[key])) for key, filter_ in question.filters.items()):
            continue
        window = question.window and window_start(moment, question.window, question.zone)
        key = tuple(
            event.subject if key == "subject" else text(document, PATHS[key]) for key in question.group_by
        )
        groups[window, key].append(event)
    values = {key: aggregate(meter, found) for key, found in groups.items()}
    return {key: value for key, value in values.items() if value is not None}


def aggregate(meter: Meter, found: list[Event]) -> float | None:
    if meter.aggregation is Aggregation.COUNT:
        return len(found)
    documents = [None if event.data is None else msgspec.json.decode(event.data) for event in found]
    assert meter.value_property is not None
    if meter.aggregation is Aggregation.UNIQUE_COUNT:
        return len({text(document, meter.value_property) for document in documents} - {"null"})
    pairs = [
        (event.time or 0, index, value)
        for index, (event, document) in enumerate(zip(found, documents, strict=True))
        if (value := number(document, meter.value_property)) is not None
    ]
    if not pairs:
        return None
    numbers = [value for _, _, value in pairs]
    return {
        Aggregation.SUM: math.fsum(numbers),
        Aggregation.AVG: math.fsum(numbers) / len(numbers),
        Aggregation.MIN: min(numbers),
        Aggregation.MAX: max(numbers),
        Aggregation.LATEST: max(pairs)[2],
    }[meter.aggregation]


def make_meter(aggregation: Aggregation) -> Meter:
    return Meter(
        id="1",
        slug="m",
        name="m",
        aggregation=aggregation,
        event_type="t",
        created_at=NOW,
        updated_at=NOW,
        value_property=None if aggregation is Aggregation.COUNT else "$.n",
        group_by=PATHS,
    )


class Stage:
    """One database for all examples, emptied for each."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runner = asyncio.Runner()
        self.examples = 0

    def store(self, sent: list[Event], rolled: int = 0, meter: Meter | None = None) -> None:
        """These events; the first ``rolled`` of them also in the meter's table of hours."""

        def begin(cursor: Any) -> None:
            cursor.execute("DELETE FROM events")
            hours.forget(cursor)

        self.database.submit(begin).result(10)
        self.examples += 1
        renamed = [msgspec.structs.replace(event, id=f"{self.examples}-{event.id}") for event in sent]
        self.runner.run(EventStore(self.database, lambda: NOW).append(renamed, NOW))
        if meter is not None and rolled:
            for size in (1, rolled - 1):  # in two steps, so that hours come together of several rows
                self.database.submit(lambda cursor, size=size: hours.roll(cursor, meter, size)).result(10)  # type: ignore[misc]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("usage")
    made = Stage(Database.open(folder, events.SCHEMA))
    with made.runner:
        yield made
    made.database.close()


def make_events(given_events: list[tuple[str, int, Any]]) -> list[Event]:
    return [
        Event(
            source="s",
            id=str(index),
            type="t",
            subject=subject,
            time=int(NOW.timestamp()) + second,
            data=None if document is None else msgspec.json.encode(document).decode(),
        )
        for index, (subject, second, document) in enumerate(given_events)
    ]


@example(
    [("a", CHANGES[1] + shift, {"n": 1}) for shift in (-1800, -1, 0, 1, 1800)],
    MeterQuery(window=WindowSize.HOUR, zone=find_zone("Australia/Lord_Howe")),
    Aggregation.COUNT,
    3,
)
@example([("a", 0, {"n": 1}), ("b", 0, {"n": 3}), ("a", 0, {"n": 2})], MeterQuery(), Aggregation.LATEST, 2)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made_events, questions, st.sampled_from(Aggregation), st.integers(0, 12))
def test_a_meter_measures_what_the_slow_reading_finds(stage, given_events, question, aggregation, rolled):
    sent, meter = make_events(given_events), make_meter(aggregation)
    stage.store(sent, rolled, meter)
    rows = stage.runner.run(MeterUsage(stage.database).query(meter, question))
    found = {}
    for row in rows:
        key = tuple(row.subject if name == "subject" else row.group_by[name] for name in question.group_by)
        found[row.start if question.window else None, key] = row.value
        if question.window:
            assert row.end == window_end(row.start, question.window, question.zone)
    assert len(found) == len(rows)
    assert found == pytest.approx(reference(meter, question, sent))
    if question.window:
        assert [row.start for row in rows] == sorted(row.start for row in rows)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made_events, st.sampled_from([Aggregation.COUNT, Aggregation.SUM]), st.integers(0, 100))
@example([("a", 0, {"n": 1e300}), ("b", 60, {"n": 1}), ("a", 3600, {"n": -1e300})], Aggregation.SUM, 50)
def test_the_usage_of_two_spans_is_that_of_the_whole_and_of_its_minutes(
    stage, given_events, aggregation, part
):
    sent, meter = make_events(given_events), make_meter(aggregation)
    stage.store(sent)
    start, end = NOW - timedelta(hours=40), NOW + timedelta(hours=41)
    middle = start + (end - start) * part / 100

    def exact(
        since: datetime, until: datetime, window: WindowSize | None = None
    ) -> list[tuple[datetime, int]]:
        question = MeterQuery(start=since, end=until, subjects=("a", "b"), window=window)
        return stage.runner.run(stage.database.reading(lambda cursor: figures(cursor, meter, question)))

    whole = sum(value for _, value in exact(start, end))
    assert whole == sum(value for span in ((start, middle), (middle, end)) for _, value in exact(*span))
    minutes = exact(start, end, WindowSize.MINUTE)
    assert whole == sum(value for _, value in minutes)
    assert all(minute.second == 0 for minute, _ in minutes)


@pytest.mark.parametrize("rolled", [0, 4])
@pytest.mark.parametrize(
    ("amounts", "total", "mean"),
    [
        ([1e308, 1e308, 1e308], sys.float_info.max, 1e308),
        ([-1e308, -1e308], -sys.float_info.max, -1e308),
        ([1e308, 1e308, -1e308, -1e308, 1.5], 1.5, 0.3),
    ],
)
def test_a_sum_beyond_float64_is_its_largest_number_and_what_cancels_is_exact(
    stage, amounts, total, mean, rolled
):
    sent = make_events([("a", 0, {"n": amount}) for amount in amounts])
    for aggregation, expected in ((Aggregation.SUM, total), (Aggregation.AVG, mean)):
        meter = make_meter(aggregation)
        stage.store(sent, rolled, meter)
        (row,) = stage.runner.run(MeterUsage(stage.database).query(meter, MeterQuery()))
        assert row.value == expected
