"""Windows of time in time zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.windows import (
    WindowSize,
    find_zone,
    offsets,
    window_end,
    window_start,
    windows_between,
)

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
]
zones = st.sampled_from(ZONES).map(find_zone)
moments = st.integers(157_766_400, 3_786_912_000).map(lambda second: datetime.fromtimestamp(second, UTC))


@given(moments, st.sampled_from(WindowSize), zones)
def test_every_moment_lies_in_its_window_and_its_window_begins_in_itself(moment, size, zone):
    start = window_start(moment, size, zone)
    end = window_end(start, size, zone)
    assert start <= moment < end
    assert window_start(start, size, zone) == start
    assert window_start(end - timedelta(seconds=1), size, zone) == start


CHANGES = [
    "2026-04-04T15:00",
    "2026-10-03T15:30",
    "2026-03-29T01:00",
    "2026-10-25T01:00",
    "2011-12-30T10:00",
    "2026-11-01T05:00",
]
near_changes = st.builds(
    lambda change, minutes: datetime.fromisoformat(change).replace(tzinfo=UTC) + timedelta(minutes=minutes),
    st.sampled_from(CHANGES),
    st.integers(-300, 300),
)


@given(
    moments | near_changes,
    st.integers(1, 3000),
    st.sampled_from([WindowSize.HOUR, WindowSize.DAY]),
    zones,
    st.data(),
)
def test_the_windows_of_a_time_are_those_of_its_moments_in_order_and_no_others(
    start, minutes, size, zone, data
):
    windows = windows_between(start, start + timedelta(minutes=minutes), size, zone)
    starts = [window.start for window in windows]
    assert starts == sorted(set(starts))
    assert all(window.end == window_end(window.start, size, zone) for window in windows)
    assert starts[0] == window_start(start, size, zone)
    moment = start + timedelta(minutes=data.draw(st.integers(0, minutes - 1)))
    assert window_start(moment, size, zone) in starts
    assert all(window_start(each, size, zone) == each for each in starts)


@given(moments, zones)
def test_a_day_is_the_seconds_with_one_local_date(moment, zone):
    start = window_start(moment, WindowSize.DAY, zone)
    end = window_end(start, WindowSize.DAY, zone)
    second = timedelta(seconds=1)
    date = moment.astimezone(zone).date()
    assert start.astimezone(zone).date() == (end - second).astimezone(zone).date() == date
    assert (start - second).astimezone(zone).date() < date < end.astimezone(zone).date()


@pytest.mark.parametrize(
    ("zone", "moment", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+00:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00+00:00", 25),
        ("Europe/Berlin", "2026-06-01T12:00+00:00", 24),
        ("Australia/Lord_Howe", "2026-10-04T00:00+00:00", 23.5),
        ("Africa/Cairo", "2026-04-24T12:00+00:00", 23),  # begins at 01:00, since 00:00 is skipped
        ("America/Havana", "2026-11-01T12:00+00:00", 25),  # has 00:00 to 01:00 twice
    ],
)
def test_a_day_with_a_change_of_the_clocks_is_shorter_or_longer(zone, moment, hours):
    found = find_zone(zone)
    start = window_start(datetime.fromisoformat(moment), WindowSize.DAY, found)
    assert window_end(start, WindowSize.DAY, found) - start == timedelta(hours=hours)


@given(moments, st.timedeltas(timedelta(0), timedelta(days=900)), st.floats(0, 1), zones)
def test_the_offsets_of_a_range_are_those_of_each_of_its_moments(start, length, part, zone):
    pieces = offsets(zone, start, start + length)
    moment = start + timedelta(seconds=int(length.total_seconds() * part))
    holding = [offset for since, offset in pieces if since <= moment][-1]
    assert holding == moment.astimezone(zone).utcoffset()
    assert [since for since, _ in pieces] == sorted({since for since, _ in pieces})


@pytest.mark.parametrize("name", ["Mars/Base", "../../etc/passwd", "/etc/localtime", "europe berlin", "\0"])
def test_an_unknown_zone_is_an_error(name):
    with pytest.raises(ValueError, match="unknown time zone"):
        find_zone(name)
