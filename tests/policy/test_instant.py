"""Instants: written in UTC with milliseconds, read from aware datetimes and RFC 3339 and from nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.policy.instant import format_instant, read_instant

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def test_an_instant_is_utc_with_milliseconds_and_z():
    assert format_instant(1_769_860_800_123) == b"2026-01-31T12:00:00.123Z"
    assert format_instant(0) == b"1970-01-01T00:00:00.000Z"
    assert format_instant(-1) == b"1969-12-31T23:59:59.999Z"


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_written_instant_reads_back_to_the_millisecond(time_ms):
    written = format_instant(time_ms).decode()
    assert datetime.fromisoformat(written) == EPOCH + timedelta(milliseconds=time_ms)
    assert read_instant(written) == written


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),  # noqa: DTZ001 - the zone is drawn
        max_value=datetime(9998, 1, 1),  # noqa: DTZ001
        timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
            lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1)))
        ),
    )
)
def test_a_datetime_and_its_rfc_3339_text_are_the_same_instant_below_the_millisecond(moment):
    read = read_instant(moment)
    assert read.endswith("Z")
    assert timedelta(0) <= moment - datetime.fromisoformat(read) < timedelta(milliseconds=1)
    assert read_instant(moment.isoformat()) == read


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31t12:00:00z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31 12:00:00Z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00.5+01:30", "2026-01-31T10:30:00.500Z"),
        ("2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00.123Z"),
        ("2026-01-31T12:00:00-00:00", "2026-01-31T12:00:00.000Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
    ],
)
def test_every_form_of_rfc_3339_is_read(text, instant):
    assert read_instant(text) == instant


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            datetime(2026, 1, 31, 12),  # noqa: DTZ001 - what is refused
            "a datetime without a time zone; give it one, such as datetime.UTC",
        ),
        ("2026-01-31", "'2026-01-31', which is not RFC 3339, such as 2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00", "'2026-01-31T12:00:00', which is not RFC 3339, such as 2026-01-31T12:00:00Z"),
        ("", "'', which is not RFC 3339, such as 2026-01-31T12:00:00Z"),
        (
            "2026-02-30T12:00:00Z",
            "'2026-02-30T12:00:00Z', which is not a date and time: day is out of range for month",
        ),
        (1769860800, "a Python int; give an aware datetime or an RFC 3339 string"),
        (None, "a Python NoneType; give an aware datetime or an RFC 3339 string"),
        ("0001-01-01T00:00:00+12:00", "outside the years 1 to 9999 in UTC"),
        ("9999-12-31T23:59:60Z", "outside the years 1 to 9999 in UTC"),
    ],
)
def test_everything_else_is_refused_in_so_many_words(value, message):
    with pytest.raises(ValueError) as refusal:
        read_instant(value)
    assert str(refusal.value) == message


def said_of(text: str) -> str:
    try:
        return read_instant(text)
    except ValueError as refusal:
        return f"refused: {refusal}"


@given(st.text())
def test_any_text_is_an_instant_or_refused(text):
    assert said_of(text).endswith("Z") or said_of(text).startswith("refused: ")
