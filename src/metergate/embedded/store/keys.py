"""Which events may have been seen before: hashes of (source, id), kept in memory, small and quick.

A hash that is not here is surely new, which is the usual case and costs no query. A hash that is here is
*maybe* a duplicate: the events' table decides. So an entry too many (of an insert that was rolled back, of
two ids with one hash, of an event older than the window) costs a query, never an event. As long as not all
that the table has is loaded, what is missing is *maybe* there as well.

Of the 64 bits of a hash the upper 48 are kept: 16 choose the shard, 32 lie in it, in order. A million keys are
5 MB, the shards themselves at most 9 MB.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

SHARDS = 1 << 16
ALL = 1 << 64
PARTS = 16
"""In so many steps the table's keys are loaded; of 10 million events one is 625,000 keys, and 40 MB for a moment."""
_LOW = (1 << 32) - 1


def event_key(source: str, id: str) -> int:  # noqa: A002 - the attribute's name
    """64 bits for (source, id); the separator keeps ("a", "bc") and ("ab", "c") apart."""
    digest = hashlib.blake2b(f"{source}\0{id}".encode(), digest_size=8)
    return int.from_bytes(digest.digest())


class SeenKeys:
    """Used by one thread. Nothing of the table is loaded yet where ``loaded`` is 0, all of it at ``ALL``."""

    def __init__(self, loaded: int = 0) -> None:
        self._shards: list[array[int] | None] = [None] * SHARDS
        self.loaded = loaded
        """Of the keys below it all are here."""

    def load(self, shards: Iterable[tuple[int, array[int]]], loaded: int) -> None:
        """Take these shards, which with those before are all the table has below ``loaded``."""
        for number, keys in shards:
            since = self._shards[number]
            self._shards[number] = array("I", sorted({*keys, *since})) if since else keys
        self.loaded = loaded

    def add(self, key: int) -> bool:
        """Remember the key. True where it may have been seen before: it is here, or not all is loaded."""
        shard, low = self._shards[key >> 48], key >> 16 & _LOW
        if shard is None:
            self._shards[key >> 48] = array("I", [low])
            return key >= self.loaded
        place = bisect_left(shard, low)
        if place < len(shard) and shard[place] == low:
            return True
        shard.insert(place, low)
        return key >= self.loaded

    def __contains__(self, key: int) -> bool:
        if key >= self.loaded:
            return True
        shard, low = self._shards[key >> 48], key >> 16 & _LOW
        if shard is None:
            return False
        place = bisect_left(shard, low)
        return place < len(shard) and shard[place] == low

    def __len__(self) -> int:
        return sum(len(shard) for shard in self._shards if shard is not None)


def part(number: int) -> tuple[int, int]:
    """The first key of a part and the first one behind it."""
    return number * (ALL // PARTS), (number + 1) * (ALL // PARTS)


def shards_of(keys: Sequence[int]) -> Iterator[tuple[int, array[int]]]:
    """Keys in ascending order as shards to load."""
    start = 0
    while start < len(keys):
        number = keys[start] >> 48
        end = bisect_left(keys, (number + 1) << 48, start)
        yield number, array("I", [key >> 16 & _LOW for key in keys[start:end]])
        start = end
