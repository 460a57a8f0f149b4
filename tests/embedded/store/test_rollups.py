"""Roll-ups: whatever comes in which order, they give what reading all events gives."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.filters import one_of
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.store import events, marks, rollups
from metergate.embedded.store.database import Database
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.marks import Marks
from metergate.embedded.store.rollups import Rollups
from metergate.embedded.store.usage import measured, read_usage

START = datetime(2026, 3, 15, 12, tzinfo=UTC)
AGGREGATIONS = [Aggregation.SUM, Aggregation.COUNT, Aggregation.LATEST, Aggregation.UNIQUE_COUNT]
numbers = itertools.count()


class NoCursor:
    """For questions that need nothing of the database."""

    def execute(self, *_: Any) -> Any:
        raise AssertionError("nothing was to be read")


class Stage:
    """The events' table, and the meters of one event type that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        self.database = Database.open(folder, events.SCHEMA)
        self.store = EventStore(self.database, lambda: START)
        self.cursor: Any = self.database._connection

    def meters(self) -> dict[Aggregation, Meter]:
        event_type = f"type-{next(numbers)}"
        return {
            aggregation: Meter(
                id=f"{event_type}-{aggregation}",
                slug="m",
                name="m",
                aggregation=aggregation,
                event_type=event_type,
                created_at=START,
                updated_at=START,
                value_property=None if aggregation is Aggregation.COUNT else "$.v",
                group_by={"model": "$.m"},
            )
            for aggregation in AGGREGATIONS
        }

    def append(self, event_type: str, *given: tuple[int, str, str, str]) -> None:
        """Events as (second, value as JSON, subject, model)."""
        made = [
            Event(
                "s",
                str(next(numbers)),
                event_type,
                subject,
                int(START.timestamp()) + second,
                f'{{"v": {value}, "m": "{model}"}}',
            )
            for second, value, subject, model in given
        ]
        asyncio.run(self.store.append(made, START))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("data"))
    yield made
    made.database.close()


values = st.integers(-500, 10**8).map(lambda cents: str(cents / 100)) | st.sampled_from(
    ["null", '"7.5"', '"x"', "true", "{}", '""', '"NaN"']
)
batches = st.lists(
    st.tuples(st.integers(-60, 660), values, st.sampled_from("abc"), st.sampled_from("xy")),
    min_size=1,
    max_size=5,
)
minutes = st.integers(-1, 11)
questions = st.tuples(
    st.sampled_from(AGGREGATIONS),
    st.sampled_from([{}, {"model": one_of("x")}]),
    st.sampled_from([("a",), ("a", "b"), ()]),
    st.sampled_from([0, 0, 3]),
    minutes,
    st.booleans(),
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(batches | questions, max_size=25), places=st.sampled_from([1, 1 << 16]))
def test_a_rollup_gives_what_reading_all_events_gives(stage, monkeypatch, steps, places):
    monkeypatch.setattr(marks, "PLACES", places)
    meters = stage.meters()
    made = Rollups(stage.store.marks)
    for step in steps:
        if isinstance(step, list):
            stage.append(meters[Aggregation.COUNT].event_type, *step)
            continue
        aggregation, filters, subjects, first, last, fixed = step
        meter, span = meters[aggregation], (START + timedelta(minutes=first), START + timedelta(minutes=last))
        given_ = (stage.cursor, meter, filters, subjects, *span)
        assert made.total(*given_, stage.store.marks.committed, fixed=fixed) == measured(read_usage(*given_))


@pytest.fixture
def asking(stage: Stage) -> Any:
    meters = stage.meters()
    made = Rollups(stage.store.marks)

    def ask(aggregation: Aggregation, cursor: Any = None, subjects: Any = ("a",), minute: int = 5) -> Any:
        end = START + timedelta(minutes=minute)
        upto = stage.store.marks.committed
        return made.total(cursor or stage.cursor, meters[aggregation], {}, subjects, START, end, upto)

    ask.rollups = made
    ask.type = meters[Aggregation.COUNT].event_type
    return ask


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_what_is_known_is_not_read_again(stage, asking, aggregation):
    stage.append(asking.type, (10, "3", "a", "x"), (320, "5", "a", "x"))
    known = asking(aggregation)
    stage.append("something else", (10, "4", "a", "x"))
    assert asking(aggregation, NoCursor()) == known
    later = {"SUM": 8, "COUNT": 2, "LATEST": 5, "UNIQUE_COUNT": 2}
    assert asking(aggregation, NoCursor(), minute=6) == later[aggregation]
    counted = asking.rollups.statistics()
    assert (counted.built, counted.continued, counted.unchanged) == (1, 0, 2)


def test_times_within_a_minute_and_other_aggregations_are_left_to_sql(stage, asking):
    meter = stage.meters()[Aggregation.COUNT]
    for start, end in ((START + timedelta(seconds=1), START), (START, START + timedelta(milliseconds=1))):
        assert asking.rollups.total(NoCursor(), meter, {}, ["a"], start, end, 0) is None


def test_of_too_many_rollups_the_one_not_asked_for_longest_goes(stage, asking, monkeypatch):
    monkeypatch.setattr(rollups, "MAX_ENTRIES", 5)
    stage.append(asking.type, *((1, str(value), "a", "x") for value in range(3)))
    assert asking(Aggregation.UNIQUE_COUNT) == 3
    assert asking(Aggregation.COUNT) == 3
    assert asking.rollups.statistics().entries == 5
    assert asking(Aggregation.SUM) == 3
    counted = asking.rollups.statistics()
    assert (counted.rollups, counted.entries, counted.evicted) == (2, 2, 1)
    assert asking(Aggregation.COUNT, NoCursor()) == 3
    monkeypatch.setattr(rollups, "MAX_ENTRIES", 0)
    assert asking(Aggregation.UNIQUE_COUNT) == 3
    assert asking.rollups.statistics().entries == 0


def test_events_of_a_commit_that_failed_and_is_there_nevertheless_are_counted(stage, asking):
    """As after an fdatasync that failed: the client sends again, and all of it is known already."""
    stage.append(asking.type, (10, "1", "a", "x"))
    assert asking(Aggregation.COUNT) == 1
    number = stage.store._next_seq
    time = START.replace(tzinfo=None)
    row = [number, number, "s", "doubtful", asking.type, "a", time, "{}", time, time]
    stage.cursor.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    stage.store._next_seq += 1
    stage.store.marks.doubt(number)
    stage.append("something else", (10, "1", "a", "x"))
    assert asking(Aggregation.COUNT) == 2


def test_marks_never_miss_an_event():
    made = Marks()
    made.note([(0, "t", "a"), (1, "t", "b")], 1)
    assert made.committed == 1
    assert made.last("t", ["a"]) >= 0
    assert made.last("t", ["a", "b"]) >= 1
    assert made.last("t", []) == -1
    made.doubt(5)
    assert (made.last("other", ["c"]), made.committed) == (5, 1)


def test_a_value_of_decimals_is_exact(stage, asking):
    for _ in range(10):
        stage.append(asking.type, (10, "0.1", "a", "x"))
        asking(Aggregation.SUM)
    assert asking(Aggregation.SUM) == Decimal(1)
