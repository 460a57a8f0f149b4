"""The counters that outlive the worker that counts: numbers in a file mapped into memory, and a list of what stands where.

To count is to add to a number of a `memoryview`, as quick as a list's. The kernel keeps what a killed worker had counted to
the last moment. The file should be on a file system in memory: on a disk, a page that is being written back can make the
next one who counts wait.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import IO

import msgspec

from metergate.gateway.metrics.samples import Histogram, Labels, Sample

_NUMBER_BYTES = 8


class Place(msgspec.Struct, frozen=True, array_like=True):
    """What stands at ``slot``: a counter, or a histogram's ``buckets`` and the sum after them."""

    name: str
    labels: Labels
    slot: int
    buckets: int = 0


class Ledger:
    """Counters of one worker, in its own memory until `open`. Room for fewer than ``size`` numbers; all begin at zero."""

    def __init__(self, size: int = 1_000) -> None:
        self.values = memoryview(bytearray(size * _NUMBER_BYTES)).cast("d")
        """Add to ``values[slot]``. Another object after `open`."""
        self._next = 1  # so that a slot is never false
        self._places: list[Place] = []
        self._list: IO[bytes] | None = None

    def counter(self, name: str, labels: Labels = ()) -> int:
        """The slot of a new counter; ``name`` has no ``_total``. Raises IndexError where there is no room left."""
        return self._reserve(Place(name, labels, self._next))

    def histogram(self, name: str, labels: Labels, buckets: int) -> int:
        """The first slot of a new histogram: its buckets, not cumulative, then the sum of what was observed."""
        return self._reserve(Place(name, labels, self._next, buckets))

    def _reserve(self, place: Place) -> int:
        after = place.slot + place.buckets + 1
        if after > len(self.values):
            raise IndexError(f"a ledger of {len(self.values)} numbers is full")
        self._next = after
        self._places.append(place)
        if self._list is not None:
            self._list.write(_line(place))
        return place.slot

    def open(self, numbers: Path, places: Path) -> None:
        """Keep the numbers in these files from now on. Raises OSError; they stay in memory then."""
        # Written, not just made that long: a page that a full file system has no room for would kill the process later.
        numbers.write_bytes(self.values.tobytes())
        with numbers.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        listed = places.open("ab", buffering=0)
        listed.write(b"".join(map(_line, self._places)))
        self.values, self._list = memoryview(mapped).cast("d"), listed

    def close(self) -> None:
        """Count in memory again; the files stay as they are."""
        if self._list is not None:
            self._list.close()
            self._list = None
            self.values = memoryview(bytearray(self.values.tobytes())).cast("d")

    def read(self) -> tuple[list[Sample], list[Histogram]]:
        """What was counted so far, without what is still zero."""
        return _read(self._places, self.values)


def read_ledger(numbers: Path, places: Path) -> tuple[list[Sample], list[Histogram]]:
    """As `Ledger.read`, of a worker that may be dead. Raises OSError, ValueError."""
    lines = places.read_bytes().split(b"\n")[:-1]  # what has no line break is half a line
    values = memoryview(numbers.read_bytes()).cast("d")
    return _read([msgspec.json.decode(line, type=Place) for line in lines], values)


def _line(place: Place) -> bytes:
    return msgspec.json.encode(place) + b"\n"


def _read(places: list[Place], values: memoryview[float]) -> tuple[list[Sample], list[Histogram]]:
    samples: list[Sample] = []
    histograms: list[Histogram] = []
    for place in places:
        end = place.slot + place.buckets
        if place.buckets:
            buckets = [int(count) for count in values[place.slot : end]]
            histograms.append(Histogram(place.name, place.labels, buckets, values[end]))
        elif values[end]:
            samples.append(Sample(place.name, place.labels, values[end], "counter"))
    return samples, histograms
