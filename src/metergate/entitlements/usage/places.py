"""Which place of the columns belongs to which feature of which subject, the same for all processes of a host.

A table in shared memory, open addressing by a hash of 104 bits. Looking up takes no lock; who adds a place
takes the file's lock for some microseconds. When all places are taken, one that was not used for long and has
nothing left to say makes room; its number then gets a new generation, so that who remembers it notices.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import NamedTuple

from metergate.entitlements.usage.bounds import Bounds

MOST_PLACES = 1 << 19
"""Places of one OpenMeter: half a million features of subjects. 32 MiB of table, used up as places are."""

_HEAD = 8
_NEXT, _HAND, COLUMNS, _MAGIC = range(4)
_IS_A_TABLE = 0x6D65746572676174
MOST_COLUMNS = 256
_FREE, _REMOVED = 0, 1
_PLACE_BITS = 24
_PLACE = (1 << _PLACE_BITS) - 1
_MOST_PROBES = 64
_MOST_LOOKS = 64


class Place(NamedTuple):
    """A place and the generation in which it belongs to whom it was given."""

    number: int
    generation: int


def bytes_for(places: int) -> int:
    """The length of the table: two words for each of twice as many entries, and four for each place."""
    return 8 * (_HEAD + 4 * places + 4 * places)


class Places:
    """The table. ``words``: `bytes_for` as many places, native unsigned 8-byte words, zero at first."""

    def __init__(
        self, words: memoryview[int], most: int, lock: Callable[[], AbstractContextManager[object]]
    ) -> None:
        """``most``: a power of two. ``lock``: makes others wait that add."""
        self.words = words
        self.most = most
        self.evicted = 0
        self._lock = lock
        self._mask = 2 * most - 1
        self.generations: memoryview[int] = words[_HEAD + 4 * most : _HEAD + 5 * most]
        self._entries = words[_HEAD + 5 * most : _HEAD + 6 * most]
        self.bounds = Bounds(words[_HEAD + 6 * most : _HEAD + 8 * most])

    def __len__(self) -> int:
        return min(int(self.words[_NEXT]), self.most)

    @property
    def columns(self) -> int:
        """How many columns there are; one word for all that every process has to look at."""
        return min(int(self.words[COLUMNS]), MOST_COLUMNS)

    @columns.setter
    def columns(self, number: int) -> None:
        self.words[COLUMNS] = number

    def is_sound(self) -> bool:
        """Whether this is a table of places, or is now: it was empty."""
        words = self.words
        if not any(words[:_HEAD]):
            words[_MAGIC] = _IS_A_TABLE
        return words[_MAGIC] == _IS_A_TABLE and words[_NEXT] <= self.most and words[COLUMNS] <= MOST_COLUMNS

    def find(self, subject: str, feature: str) -> Place | None:
        """The place of this feature of this subject, if it has one."""
        return self._find(*_hashed(subject, feature))[0]

    def add(self, subject: str, feature: str, idle: Callable[[], Callable[[int], bool]]) -> Place | None:
        """The place, given to it if it had none; None where all are taken and none of those looked at is idle.

        ``idle`` makes what says so of a place, where that has to be known.
        """
        first, second = _hashed(subject, feature)
        with self._lock():
            found, entry = self._find(first, second)
            if found is not None or entry < 0:
                return found
            number = self._next(idle)
            if number is None:
                return None
            self._entries[number] = entry
            self.words[_HEAD + 2 * entry + 1] = second | number
            self.words[_HEAD + 2 * entry] = first  # last: from here on it can be found
            return Place(number, int(self.generations[number]))

    def _find(self, first: int, second: int) -> tuple[Place | None, int]:
        """The place, and the entry that could be taken for it: -1 where there is none."""
        words, free = self.words, -1
        for step in range(_MOST_PROBES):
            entry = (first + step) & self._mask
            word = words[_HEAD + 2 * entry]
            if word == first:
                other = words[_HEAD + 2 * entry + 1]
                if other & ~_PLACE == second and other & _PLACE < self.most:
                    place = Place(other & _PLACE, int(self.generations[other & _PLACE]))
                    # Taken away meanwhile? Then the generation may be that of whoever has it next.
                    return (place, entry) if words[_HEAD + 2 * entry] == first else (None, -1)
            elif word == _FREE:
                return None, entry if free < 0 else free
            elif word == _REMOVED and free < 0:
                free = entry
        return None, free

    def _next(self, idle: Callable[[], Callable[[int], bool]]) -> int | None:
        """A place that was never given to anybody, or one taken from who does not use it. The lock is held."""
        given = self.words[_NEXT]
        if given < self.most:
            self.words[_NEXT] = given + 1
            return int(given)
        is_idle = idle()
        for _ in range(_MOST_LOOKS):
            number = self.words[_HAND] % self.most
            self.words[_HAND] = number + 1
            if is_idle(number):
                self._remove(number)
                return int(number)
        return None

    def _remove(self, number: int) -> None:
        entry = self._entries[number]
        place = _HEAD + 2 * entry
        # It may be another's entry by now, if a process was killed in these lines.
        if self.words[place] > _REMOVED and self.words[place + 1] & _PLACE == number:
            follows = self.words[_HEAD + 2 * ((entry + 1) & self._mask)]
            self.words[place] = _FREE if follows == _FREE else _REMOVED
        self.bounds.forget(number)
        self.generations[number] += 1  # last: see `_find`
        self.evicted += 1


def _hashed(subject: str, feature: str) -> tuple[int, int]:
    """Two words that together are this pair's; the lowest bits of the second are left for the place."""
    text = f"{len(subject)}:{subject}{feature}".encode("utf-8", "surrogatepass")
    digest = blake2b(text, digest_size=16).digest()
    first, second = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return first | 2, second & ~_PLACE
