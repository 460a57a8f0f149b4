"""Usage periods: counted from the anchor, clamped at month ends, every moment in exactly one."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.periods import (
    END,
    Interval,
    Period,
    Recurrence,
    add_months,
    advance,
    ceil_minute,
    floor_minute,
    parse_interval,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


MOMENTS = st.integers(631152000 // 60, 3786912000 // 60).map(lambda m: datetime.fromtimestamp(m * 60, UTC))
INTERVALS = st.builds(
    lambda months, hours: Interval(months, hours * 3600, "P"), st.integers(0, 14), st.integers(0, 800)
).filter(lambda interval: interval.months or interval.seconds)


@pytest.mark.parametrize(
    ("text", "months", "seconds", "name", "iso"),
    [
        ("DAY", 0, 86400, "DAY", "P1D"),
        ("week", 0, 604800, "WEEK", "P1W"),
        ("MONTH", 1, 0, "MONTH", "P1M"),
        ("YEAR", 12, 0, "YEAR", "P1Y"),
        ("P1M", 1, 0, "MONTH", "P1M"),
        ("P2W", 0, 1209600, "P2W", "P2W"),
        ("PT1H", 0, 3600, "PT1H", "PT1H"),
        ("PT1.5H", 0, 5400, "PT1.5H", "PT1.5H"),
        ("P1Y2M3DT4H5M6S", 14, 273906, "P1Y2M3DT4H5M6S", "P1Y2M3DT4H5M6S"),
        ("P0.5Y", 6, 0, "P0.5Y", "P0.5Y"),
    ],
)
def test_an_interval_is_read_as_months_and_seconds_and_keeps_how_it_was_written(
    text, months, seconds, name, iso
):
    interval = parse_interval(text)
    assert (interval.months, interval.seconds, interval.name, interval.iso) == (months, seconds, name, iso)


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1MT", "FORTNIGHT", "1D", "P-1D", "PT59M", "P0D", "P0.3M", "PT3600.5S"]
)
def test_what_is_no_interval_of_an_hour_or_more_is_refused(text):
    with pytest.raises(ValueError, match=r"interval|shorter|whole"):
        parse_interval(text)


def test_a_monthly_anchor_on_the_31st_is_clamped_in_short_months_and_returns_in_long_ones():
    monthly = Recurrence(parse_interval("MONTH"), at("2025-01-31T00:00"))
    expected = ["2025-01-31", "2025-02-28", "2025-03-31", "2025-04-30", "2025-05-31"]
    assert [monthly.boundary(number) for number in range(5)] == [at(f"{day}T00:00") for day in expected]
    assert monthly.boundary(-1) == at("2024-12-31T00:00")
    assert monthly.period_at(at("2025-03-01T12:00")) == Period(at("2025-02-28T00:00"), at("2025-03-31T00:00"))


def test_a_yearly_anchor_on_the_leap_day_falls_on_february_28_in_other_years():
    yearly = Recurrence(parse_interval("YEAR"), at("2024-02-29T06:00"))
    assert [yearly.boundary(number).date().isoformat() for number in (1, 4)] == ["2025-02-28", "2028-02-29"]


def test_the_moment_of_a_boundary_belongs_to_the_period_that_starts_there():
    daily = Recurrence(parse_interval("DAY"), at("2025-01-01T09:00"))
    assert daily.period_at(at("2025-01-05T09:00")).start == at("2025-01-05T09:00")
    assert daily.period_at(at("2025-01-05T08:59")).start == at("2025-01-04T09:00")
    assert daily.period_at(at("2024-12-31T09:00")).start == at("2024-12-31T09:00")


def test_boundaries_leave_out_the_first_moment_and_take_in_the_last():
    daily = Recurrence(parse_interval("DAY"), at("2025-01-01T00:00"))
    found = list(daily.boundaries(at("2025-01-02T00:00"), at("2025-01-04T00:00")))
    assert found == [at("2025-01-03T00:00"), at("2025-01-04T00:00")]


@given(INTERVALS, MOMENTS, MOMENTS)
def test_every_moment_lies_in_the_period_found_for_it(interval, anchor, moment):
    period = Recurrence(interval, anchor).period_at(moment)
    assert moment in period
    assert period.start < period.end


@given(INTERVALS, MOMENTS, st.integers(-300, 300))
def test_one_period_begins_where_the_one_before_ends(interval, anchor, number):
    recurrence = Recurrence(interval, anchor)
    period = recurrence.period_at(recurrence.boundary(number))
    assert period == Period(recurrence.boundary(number), recurrence.boundary(number + 1))


@given(INTERVALS, MOMENTS, MOMENTS, st.integers(0, 40))
def test_the_boundaries_between_two_moments_are_those_numbered_between_them(interval, anchor, after, steps):
    recurrence = Recurrence(interval, anchor)
    until = recurrence.boundary(recurrence.number_at(after) + steps)
    found = list(recurrence.boundaries(after, until))
    assert len(found) == steps
    assert all(after < boundary <= until for boundary in found)


@given(MOMENTS, st.integers(-1200, 1200))
def test_adding_months_lands_in_the_month_meant_on_the_same_day_or_its_last(moment, months):
    moved = add_months(moment, months)
    assert (moved.year * 12 + moved.month) - (moment.year * 12 + moment.month) == months
    assert moved.day == moment.day or (moved.day < moment.day and (moved + timedelta(days=1)).day == 1)
    assert moved.time() == moment.time()


def test_beyond_the_calendar_there_is_no_error_but_its_end():
    yearly = Recurrence(parse_interval("YEAR"), at("2025-01-01T00:00"))
    assert advance(yearly.anchor, yearly.interval, 9000) == END
    assert advance(yearly.anchor, parse_interval("P1D"), 10**9) == END
    assert yearly.period_at(at("9999-06-01T00:00")) == Period(at("9999-01-01T00:00"), END)
    assert ceil_minute(END + timedelta(seconds=30)) == END


def test_a_moment_is_rounded_up_to_the_next_full_minute_unless_it_is_one():
    assert ceil_minute(at("2025-01-01T00:00:00")) == at("2025-01-01T00:00:00")
    assert ceil_minute(at("2025-01-01T00:00:00.000001")) == at("2025-01-01T00:01:00")
    assert floor_minute(at("2025-01-01T00:00:59.999")) == at("2025-01-01T00:00:00")
