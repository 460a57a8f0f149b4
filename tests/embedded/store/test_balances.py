"""Usage by phase: one query each and one query by the minute give the same, for every aggregation."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metergate.embedded.domain.grants import Phase
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.store import balances, events
from metergate.embedded.store.balances import Usage
from metergate.embedded.store.database import Database
from metergate.embedded.store.rollups import Measure, Rollups
from metergate.embedded.store.sums import measured

START = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def cursor(tmp_path_factory):
    database = Database.open(Path(tmp_path_factory.mktemp("data")), events.SCHEMA)
    yield database._connection
    database.close()


def meter(aggregation):
    return Meter(
        id="m",
        slug="m",
        name="m",
        aggregation=aggregation,
        event_type="request",
        created_at=START,
        updated_at=START,
        value_property=None if aggregation is Aggregation.COUNT else "$.v",
    )


def fill(cursor, rows):
    cursor.execute("DELETE FROM events")
    for seq, (second, value, subject) in enumerate(rows):
        time = (START + timedelta(seconds=second)).replace(tzinfo=None)
        row = [seq, seq, "s", str(seq), "request", subject, time, f'{{"v": {value}}}', time, time]
        cursor.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def expected(aggregation, rows, phase):
    """By definition: what the phase adds to its period, of LATEST what the period's last value is at its end."""

    def within(start, end):
        return [
            (second, seq, value)
            for seq, (second, value, subject) in enumerate(rows)
            if subject in ("a", "b") and start <= START + timedelta(seconds=second) < end
        ]

    if aggregation is Aggregation.COUNT:
        return len(within(phase.start, phase.end))
    if aggregation is Aggregation.SUM:
        return sum(value for _, _, value in within(phase.start, phase.end))
    if aggregation is Aggregation.LATEST:
        return max(within(phase.period_start, phase.end), default=(0, 0, 0))[2]
    ends = [{value for _, _, value in within(phase.period_start, end)} for end in (phase.end, phase.start)]
    return len(ends[0]) - len(ends[1])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([Aggregation.SUM, Aggregation.COUNT, Aggregation.LATEST, Aggregation.UNIQUE_COUNT]),
    st.lists(st.tuples(st.integers(0, 1200), st.integers(-5, 9), st.sampled_from("abc")), max_size=12),
    st.sets(st.integers(1, 20), min_size=1, max_size=9),
    st.sets(st.integers(1, 20), max_size=3),
)
def test_both_ways_of_asking_give_what_the_definition_says(cursor, aggregation, rows, cuts, resets):
    fill(cursor, rows)
    phases, start, period = [], START, START
    for cut in sorted(cuts | resets):
        end = START + timedelta(minutes=cut)
        phases.append(Phase(start, end, period))
        start, period = end, end if cut in resets else period
    usage = Usage(Measure(meter(aggregation), {}, ("a", "b")), Rollups(lambda: START))
    wanted = [Decimal(expected(aggregation, rows, phase)) for phase in phases]
    few = balances.FEW_PHASES
    try:
        for balances.FEW_PHASES in (100, 0):
            assert usage.scan(cursor, phases) == wanted
            assert usage.read(cursor, phases) == wanted
    finally:
        balances.FEW_PHASES = few


def test_nobody_has_used_nothing(cursor):
    fill(cursor, [(1, 1, "a")] * 3)
    phase = Phase(START, START + timedelta(minutes=1), START)
    usage = Usage(Measure(meter(Aggregation.COUNT), {}, ()), Rollups(lambda: START))
    assert usage.scan(cursor, [phase] * 10) == usage.scan(cursor, [phase] * 2) * 5 == [0] * 10
    assert usage.known([phase]) == [0]


@pytest.mark.parametrize(
    ("value", "text"), [(0.1 + 0.2, "0.3"), (1e16, "10000000000000000"), (2.5, "2.5"), (-0.7, "-0.7")]
)
def test_a_measured_value_is_the_number_it_stands_for(value, text):
    assert measured(value) == Decimal(text)
