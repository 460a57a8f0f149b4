"""Files of events: what a column of text says of an event's data is what is read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from metergate.embedded.exchange import read_file

NUMBERS = '{"a":1e2,"b":-0,"c":1.10,"d":12345678901234567890123}'


@pytest.mark.parametrize("data", [NUMBERS, NUMBERS.replace(",", ",\n  ")])
def test_numbers_in_a_csv_stay_as_they_were_written(tmp_path: Path, data):
    file = tmp_path / "events.csv"
    with file.open("w", encoding="utf-8", newline="") as output:
        rows = csv.writer(output)
        rows.writerow(["id", "source", "type", "subject", "data"])
        rows.writerow(["1", "s", "t", "a", data])
    (entry,) = read_file(file)
    assert entry.event is not None
    assert entry.event.data == NUMBERS
