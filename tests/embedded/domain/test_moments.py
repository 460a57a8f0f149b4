"""RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.moments import EPOCH, format_rfc3339, parse_rfc3339, parse_seconds, truncate


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T09:30:00Z", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31t09:30:00.25z", datetime(2026, 1, 31, 9, 30, 0, 250_000, tzinfo=UTC)),
        ("2026-01-31T09:30:00.123456999Z", datetime(2026, 1, 31, 9, 30, 0, 123_456, tzinfo=UTC)),
        ("2026-01-31T01:30:00+05:30", datetime(2026, 1, 30, 20, 0, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_date_time_is_read_as_a_moment_of_utc(text, moment):
    assert parse_rfc3339(text) == moment
    assert parse_seconds(text) == (moment - EPOCH) // timedelta(seconds=1)


@pytest.mark.parametrize(
    "text",
    ["", "2026-01-31", "2026-01-31T09:30:00", "2026-01-31 09:30:00Z", "2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z",
     "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00+0100", "2026-01-01T00:00:00+24:00", "0000-01-01T00:00:00Z",
     "0001-01-01T00:00:00+01:00", "２０２６-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n", "2026-W01-1T00:00:00Z"],
)  # fmt: skip
def test_anything_else_is_an_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)
    with pytest.raises(ValueError, match=r"."):
        parse_seconds(text)


@given(st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC)))
def test_what_is_written_is_read_again(moment):
    text = format_rfc3339(moment)
    assert text.endswith("Z")
    assert not text.endswith("0Z") or "." not in text
    assert parse_rfc3339(text) == moment
    assert parse_seconds(text) == (moment - EPOCH) // timedelta(seconds=1)


@given(st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC)), st.sampled_from([1, 60, 3600]))
def test_truncating_goes_down_to_a_multiple(moment, seconds):
    unit = timedelta(seconds=seconds)
    down = truncate(moment, unit)
    assert timedelta(0) <= moment - down < unit
    assert (down - EPOCH) % unit == timedelta(0)
