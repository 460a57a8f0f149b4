"""Which events may have been seen before: hashes of (source, id), kept in memory, small and quick.

A hash that is not here is surely new, which is the usual case and costs no query. A hash that is here is
*maybe* a duplicate: the events' table decides. So an entry too many (of an insert that was rolled back, of
two ids with one hash, of an event older than the window) costs a query, never an event.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import chain, islice

SHARDS = 256
MIN_FRESH = 4096


def event_key(source: str, id: str) -> int:  # noqa: A002 - the attribute's name
    """64 bits for (source, id); the separator keeps ("a", "bc") and ("ab", "c") apart."""
    digest = hashlib.blake2b(f"{source}\0{id}".encode(), digest_size=8)
    return int.from_bytes(digest.digest())


class _Shard:
    """A sorted array of 8 bytes a key, and a set for those since; merged now and then, in a few milliseconds."""

    __slots__ = ("fresh", "sealed")

    def __init__(self) -> None:
        self.sealed: array[int] = array("Q")
        self.fresh: set[int] = set()

    def add(self, key: int) -> None:
        self.fresh.add(key)
        if len(self.fresh) > max(MIN_FRESH, len(self.sealed) // 8):
            self.sealed = array("Q", sorted(chain(self.sealed, self.fresh)))
            self.fresh = set()

    def __contains__(self, key: int) -> bool:
        if key in self.fresh:
            return True
        place = bisect_left(self.sealed, key)
        return place < len(self.sealed) and self.sealed[place] == key


class SeenKeys:
    """All shards, chosen by the first 8 bits of a key. Used by one thread."""

    def __init__(self) -> None:
        self._shards = [_Shard() for _ in range(SHARDS)]

    def load_sorted(self, keys: Iterable[int]) -> None:
        """Take these keys, in ascending order, as they come out of the table at the start."""
        source = iter(keys)
        while batch := list(islice(source, 100_000)):
            start = 0
            while start < len(batch):
                shard = batch[start] >> 56
                end = bisect_left(batch, (shard + 1) << 56, start)
                self._shards[shard].sealed.extend(batch[start:end])
                start = end

    def add(self, key: int) -> None:
        """Remember the key."""
        self._shards[key >> 56].add(key)

    def __contains__(self, key: int) -> bool:
        return key in self._shards[key >> 56]

    def __len__(self) -> int:
        return sum(len(shard.sealed) + len(shard.fresh) for shard in self._shards)
