"""Roll-ups: whatever comes in which order, they give what reading all events gives."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from metergate.embedded.domain.cloudevents import Event
from metergate.embedded.domain.filters import StringFilter, one_of
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.store import events, rollups
from metergate.embedded.store.database import Database
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.rollups import Measure, Rollups, Span
from metergate.embedded.store.usage import read_usage

START = datetime(2026, 3, 15, 12, tzinfo=UTC)
NO_FILTER: Mapping[str, StringFilter] = {}
numbers = itertools.count()


class NoCursor:
    """For questions that need nothing of the database."""

    def execute(self, *_: Any) -> Any:
        raise AssertionError("nothing was to be read")


class Stage:
    """The events' table under a clock that is set, and the meters of one event type that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.database = Database.open(folder, events.SCHEMA)
        self.store = EventStore(self.database, lambda: self.now)
        self.runner = asyncio.Runner()
        self.type = ""

    @property
    def rollups(self) -> Rollups:
        return self.store.rollups

    def begin(self) -> dict[Aggregation, Meter]:
        """Meters of a new event type, and no roll-ups."""
        self.now = START
        self.type = f"type-{next(numbers)}"
        self.rollups.forget(-1)
        return {
            aggregation: Meter(
                id=f"{self.type}-{aggregation}",
                slug="m",
                name="m",
                aggregation=aggregation,
                event_type=self.type,
                created_at=START,
                updated_at=START,
                event_from=START + timedelta(seconds=10) if aggregation is Aggregation.COUNT else None,
                value_property=None if aggregation is Aggregation.COUNT else "$.v",
                group_by={"model": "$.m"},
            )
            for aggregation in Aggregation
        }

    def append(self, *given: tuple[int, str, str, str], kind: str | None = None) -> None:
        self.runner.run(self.store.append([self.event(*each, kind=kind) for each in given], START))

    def event(
        self, second: int, value: str, subject: str, model: str = "x", *, kind: str | None = None
    ) -> Event:
        data = f'{{"v": {value}, "m": "{model}"}}'
        return Event(
            "s", str(next(numbers)), kind or self.type, subject, int(START.timestamp()) + second, data
        )

    def ask(self, measure: Measure, *spans: Span) -> list[Decimal]:
        """From memory where it is known, else built first, else scanned: as entitlements ask."""
        known = self.rollups.totals(measure, spans)
        if known is not None:
            return known

        def read(cursor: Any) -> list[Decimal]:
            self.rollups.build(cursor, measure, spans)
            return self.rollups.totals(measure, spans) or [
                self._scan(cursor, measure, span) for span in spans
            ]

        return self.runner.run(self.database.reading(read))

    def prepare(self, *asked: tuple[Measure, list[Span]]) -> None:
        for group in self.rollups.prepare(asked):
            self.runner.run(
                self.database.reading(lambda cursor, group=group: self.rollups.build_all(cursor, group))
            )  # type: ignore[misc]

    def scan(self, measure: Measure, *spans: Span) -> list[Decimal]:
        """Out of the events alone."""
        return self.runner.run(
            self.database.reading(lambda cursor: [self._scan(cursor, measure, span) for span in spans])
        )

    @staticmethod
    def _scan(cursor: Any, measure: Measure, span: Span) -> Decimal:
        return read_usage(cursor, measure.meter, measure.filters, measure.subjects, span.start, span.end)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("data"))
    with made.runner:
        yield made
    made.database.close()


@pytest.fixture
def stage(opened: Stage) -> Stage:
    opened.begin()
    return opened


def span(first: float, last: float, *, closed: bool = False) -> Span:
    return Span(START + timedelta(minutes=first), START + timedelta(minutes=last), closed)


values = st.integers(-500, 10**8).map(lambda cents: str(cents / 100)) | st.sampled_from(
    ["null", '"7.5"', '"x"', "true", "{}", '""', '"NaN"', '"1e400"', '"\\t5"', '"+-5"', '"1_0"', '" 8"', "5"]
)
batches = st.lists(
    st.tuples(st.integers(-60, 1300), values, st.sampled_from("abc"), st.sampled_from("xy")),
    min_size=1,
    max_size=5,
)
minutes = st.integers(-1, 22)
filters = st.sampled_from(
    [
        NO_FILTER,
        {"model": one_of("x")},
        {"model": StringFilter("$ne", "x")},
        {"model": StringFilter("$like", "x%")},
        {"model": StringFilter("$or", (StringFilter("$eq", "y"), StringFilter("$gt", "x")))},
    ]
)
spans = st.builds(span, st.sampled_from([0, 0, 3, 0.5]), minutes, closed=st.booleans())
questions = st.tuples(
    st.sampled_from(Aggregation),
    filters,
    st.sampled_from([("a",), ("a", "b"), ()]),
    st.lists(spans, min_size=1, max_size=3),
)
steps = st.lists(
    batches
    | questions
    | st.just("prepare")
    | st.integers(-3, 15).map(lambda minute: timedelta(minutes=minute)),
    max_size=25,
)

ASKED = (Aggregation.SUM, NO_FILTER, ("a",), [span(0, 1)])


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
@example([ASKED, [(5, '"\\t5"', "a", "x"), (6, '"+-5"', "a", "x"), (7, '"1_0"', "a", "x")], ASKED])
def test_a_rollup_gives_what_reading_all_events_gives(opened, steps):
    meters = opened.begin()
    questions = [
        (Measure(meters[step[0]], step[1], step[2]), step[3]) for step in steps if isinstance(step, tuple)
    ]
    for step in steps:
        if isinstance(step, list):
            opened.append(*step)
        elif step == "prepare":
            opened.prepare(*questions)
        elif isinstance(step, timedelta):
            opened.now = START + step
        else:
            aggregation, filters, subjects, asked = step
            measure = Measure(meters[aggregation], filters, subjects)
            got, wanted = opened.ask(measure, *asked), opened.scan(measure, *asked)
            if aggregation is Aggregation.AVG:  # its last digit depends on the order of adding
                assert [float(each) for each in got] == pytest.approx(
                    [float(each) for each in wanted], rel=1e-14
                )
            else:
                assert got == wanted


@pytest.mark.parametrize("aggregation", Aggregation)
def test_what_was_asked_once_is_known_ever_after(opened, aggregation):
    measure = Measure(opened.begin()[aggregation], NO_FILTER, ("a",))
    opened.append((10, "3", "a", "x"), (320, "5", "a", "x"))
    assert opened.rollups.totals(measure, [span(0, 5)]) is None
    opened.ask(measure, span(0, 5))
    opened.append((10, "4", "a", "x"), kind="something else")
    opened.append((11, "1", "a", "x"), (400, "1", "a", "x"), (15, "9", "b", "x"))
    expected = {
        "SUM": (4, 9),
        "COUNT": (2, 3),
        "LATEST": (1, 5),
        "UNIQUE_COUNT": (2, 3),
        "MIN": (1, 1),
        "MAX": (3, 5),
    }
    expected["AVG"] = (2, 3)
    for minute, wanted in zip((5, 6), expected[aggregation], strict=True):
        assert opened.rollups.totals(measure, [span(0, minute)]) == [wanted]
    assert opened.rollups.statistics().rollups == 1


def test_what_was_prepared_is_known_with_a_scan_for_many_subjects(stage):
    meters = stage.begin()
    stage.append(*((number, str(number), "abc"[number % 3], "x") for number in range(30)))
    asked = [(Measure(meters[Aggregation.SUM], NO_FILTER, (subject,)), [span(0, 1)]) for subject in "abcd"]
    asked.append((Measure(meters[Aggregation.SUM], NO_FILTER, ("a", "b")), [span(0, 1)]))
    (group,) = stage.rollups.prepare(asked)
    stage.append((30, "30", "a", "x"))
    stage.runner.run(stage.database.reading(lambda cursor: stage.rollups.build_all(cursor, group)))
    totals = [stage.rollups.totals(*each) for each in asked]
    a, b, c = (sum(range(first, 30, 3)) for first in range(3))
    assert totals == [[a + 30], [b], [c], [0], [a + b + 30]]
    assert stage.rollups.prepare(asked) == []


def test_a_level_of_several_subjects_is_not_told_from_each_of_them(stage):
    meter = stage.begin()[Aggregation.LATEST]
    stage.append((10, "1", "a", "x"), (10, "2", "b", "x"))
    both, one = (Measure(meter, NO_FILTER, subjects) for subjects in (("b", "a"), ("a",)))
    stage.prepare((both, [span(0, 1)]), (one, [span(0, 1)]))
    assert stage.rollups.totals(both, [span(0, 1)]) is None
    assert stage.ask(both, span(0, 1)) == [2]
    assert stage.rollups.totals(one, [span(0, 1)]) == [1]


def test_a_minute_that_is_over_is_counted_once_more_when_an_event_comes_late(stage):
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    stage.append((10, "1", "a", "x"))
    assert stage.ask(measure, span(0, 1)) == [1]
    stage.now = START + timedelta(days=1)
    end = span(0, 24 * 60 + 1)
    assert stage.rollups.totals(measure, [end]) == [1]
    stage.append((20, "0.1", "a", "x"), (20, "0.2", "a", "x"))
    assert stage.rollups.totals(measure, [end]) == [Decimal("1.3")]
    assert stage.rollups.totals(measure, [span(0, 2)]) is None  # earlier than what is kept by the minute
    assert stage.ask(measure, span(0, 2)) == [Decimal("1.3")]


def test_writers_at_the_same_time_are_counted_once_each_while_a_rollup_is_built(stage):
    measure = Measure(stage.begin()[Aggregation.COUNT], NO_FILTER, ("a", "b"))
    batches = [[stage.event(30, "1", "ab"[number % 2]) for number in range(7)] for _ in range(60)]
    written = False

    async def write(number: int) -> None:
        for batch in batches[number::3]:
            await stage.store.append(batch, START)

    async def read() -> None:
        while not written:
            stage.rollups.forget(-1)
            known = stage.rollups.totals(measure, [span(0, 1)])
            assert known is None
            await stage.database.reading(lambda cursor: stage.rollups.build(cursor, measure, [span(0, 1)]))
            (total,) = stage.rollups.totals(measure, [span(0, 1)]) or [None]
            assert total is None or 0 <= total <= 420

    async def together() -> None:
        nonlocal written
        reading = asyncio.ensure_future(read())
        try:
            await asyncio.gather(*map(write, range(3)))
        finally:
            written = True
            await reading

    stage.runner.run(together())
    assert stage.ask(measure, span(0, 1)) == stage.scan(measure, span(0, 1)) == [420]


def test_events_stored_between_the_question_and_its_scan_are_counted_once(stage):
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    stage.append((10, "1", "a", "x"))
    assert stage.rollups.totals(measure, [span(0, 1)]) is None
    stage.append((11, "2", "a", "x"))
    stage.runner.run(
        stage.database.reading(lambda cursor: stage.rollups.build(cursor, measure, [span(0, 1)]))
    )
    assert stage.rollups.totals(measure, [span(0, 1)]) == [3]


def test_a_reading_that_began_too_early_builds_nothing(stage):
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    stage.append((10, "1", "a", "x"))
    assert stage.rollups.totals(measure, [span(0, 1)]) is None

    def read(cursor: Any) -> None:
        cursor.execute("SELECT count(*) FROM events").fetchall()  # it sees what there is now
        asyncio.run(stage.store.append([stage.event(11, "2", "a")], START))
        stage.rollups.forget(-1)
        groups = stage.rollups.prepare([(measure, [span(0, 1)])])
        stage.rollups.build(cursor, measure, [span(0, 1)])
        stage.rollups.build_all(cursor, groups[0])

    stage.runner.run(stage.database.reading(read))
    assert stage.rollups.totals(measure, [span(0, 1)]) is None
    assert stage.ask(measure, span(0, 1)) == [3]


def test_rollups_are_begun_anew_after_a_mistake_in_them(stage, monkeypatch, caplog):
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    assert stage.ask(measure, span(0, 1)) == [0]
    with monkeypatch.context() as patched:
        patched.setattr(rollups._Rollup, "add", lambda *_: [].pop())
        stage.append((10, "1", "a", "x"))
    assert "begun anew" in caplog.text
    assert stage.ask(measure, span(0, 1)) == [1]


def test_a_meter_made_anew_under_the_same_key_has_a_rollup_of_its_own(stage):
    old, new = stage.begin()[Aggregation.SUM], stage.begin()[Aggregation.SUM]
    for meter, value in ((old, "1"), (new, "5"), (old, "1")):
        stage.append((10, value, "a", "x"), kind=meter.event_type)
        assert stage.ask(Measure(meter, NO_FILTER, ("a",)), span(0, 1)) == stage.scan(
            Measure(meter, NO_FILTER, ("a",)), span(0, 1)
        )


def test_questions_within_a_minute_and_filters_by_pattern_are_left_to_a_scan(stage):
    meter = stage.begin()[Aggregation.COUNT]
    pattern = {"model": StringFilter("$and", (StringFilter("$ilike", "X"),))}
    for filters, asked in ((NO_FILTER, span(0.5, 2)), (NO_FILTER, span(0, 1.5)), (pattern, span(0, 1))):
        measure = Measure(meter, filters, ("a",))
        assert stage.rollups.totals(measure, [asked]) is None
        stage.rollups.build(NoCursor(), measure, [asked])
    assert stage.rollups.statistics().rollups == 0


def test_of_too_many_rollups_the_one_not_asked_for_longest_goes(stage, monkeypatch):
    monkeypatch.setattr(rollups, "MAX_ENTRIES", 6)
    meters = stage.begin()
    stage.append(*((1, str(value), "a", "x") for value in range(3)))
    unique, total, count = (
        Measure(meters[name], NO_FILTER, ("a",)) for name in ("UNIQUE_COUNT", "SUM", "COUNT")
    )
    assert stage.ask(unique, span(0, 1)) == [3]
    assert stage.ask(total, span(0, 1)) == [3]
    assert stage.rollups.statistics().entries == 6
    before = stage.rollups.statistics().evicted
    assert stage.ask(count, span(0, 1)) == [0]
    counted = stage.rollups.statistics()
    assert (counted.rollups, counted.entries, counted.evicted - before) == (2, 3, 1)
    assert stage.rollups.totals(total, [span(0, 1)]) == [3]
    assert stage.rollups.totals(unique, [span(0, 1)]) is None
    stage.append(*((1, str(value), "a", "x") for value in range(3, 10)))
    assert stage.ask(unique, span(0, 1)) == [10]
    assert stage.rollups.statistics().entries <= 6


def test_a_rollup_that_nobody_asked_for_in_an_hour_goes(stage):
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    stage.ask(measure, span(0, 1))
    stage.now = START + timedelta(minutes=61)
    stage.append((10, "1", "z", "x"))
    assert stage.rollups.statistics().rollups == 0
    assert not stage.rollups._watched


def test_a_rollup_that_is_never_built_puts_no_more_aside_than_the_bound(stage, monkeypatch):
    monkeypatch.setattr(rollups, "MAX_WAITING", 3)
    measure = Measure(stage.begin()[Aggregation.COUNT], NO_FILTER, ("a",))
    assert stage.rollups.totals(measure, [span(0, 1)]) is None
    stage.append(*((20, "1", "a", "x") for _ in range(3)))
    assert stage.rollups.statistics().rollups == 1
    stage.append((20, "1", "a", "x"))
    assert stage.rollups.statistics().rollups == 0
    assert stage.ask(measure, span(0, 1)) == [4]


def test_events_of_a_commit_that_failed_and_is_there_nevertheless_are_counted(stage, monkeypatch):
    """As after an fdatasync that failed: the client sends again, and all of it is known already."""
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    stage.append((10, "1", "a", "x"))
    assert stage.ask(measure, span(0, 1)) == [1]
    sent = [stage.event(11, "5", "a")]
    commit = stage.database._transact

    def commit_and_fail(group: Any) -> bool:
        commit(group)
        for job in group:
            job.error = OSError("the disk burns")
        return False

    monkeypatch.setattr(stage.database, "_transact", commit_and_fail)
    with pytest.raises(OSError, match="burns"):
        stage.runner.run(stage.store.append(sent, START))
    monkeypatch.undo()
    stage.runner.run(stage.store.append(sent, START))
    assert stage.ask(measure, span(0, 1)) == stage.scan(measure, span(0, 1)) == [6]


def test_events_found_on_disk_when_their_group_is_tried_again_are_counted(stage, monkeypatch):
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    assert stage.ask(measure, span(0, 1)) == [0]
    transact, tries = stage.database._transact, []

    def fail_first(group: Any) -> bool:
        done = transact(group)
        tries.append(len(group))
        return done if len(tries) > 1 else False

    release = threading.Event()
    stage.database.submit(lambda _: release.wait(10))
    monkeypatch.setattr(stage.database, "_transact", fail_first)

    async def scenario() -> None:
        appending = asyncio.ensure_future(stage.store.append([stage.event(10, "2", "a")], START))
        async with asyncio.timeout(10):
            while stage.store.statistics().waiting < 1:  # noqa: ASYNC110 - a counter has no event to wait on
                await asyncio.sleep(0)
        other = asyncio.ensure_future(stage.database.write(lambda _: None))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(appending, other)

    stage.runner.run(scenario())
    assert stage.ask(measure, span(0, 1)) == stage.scan(measure, span(0, 1)) == [2]


def test_a_value_of_decimals_is_exact(stage):
    measure = Measure(stage.begin()[Aggregation.SUM], NO_FILTER, ("a",))
    for _ in range(10):
        stage.append((10, "0.1", "a", "x"))
        stage.ask(measure, span(0, 1))
    assert stage.ask(measure, span(0, 1)) == [1]
