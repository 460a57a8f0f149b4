"""What one process of this host has recorded and holds, readable by all the others. The rule: docs/limits.md.

A column is shared memory with one cell for each place (a subject's feature), written by one process only, so
that nothing has to be locked: a cell is a few aligned 8-byte numbers, and the order in which they are written
and read keeps every mistake on the strict side.

Times are seconds of ``time.monotonic``, which all processes of a host share.
"""

from __future__ import annotations

from collections.abc import Iterator

SPENT, HELD, LAST, MARKED_AT, MARKED, FLOOR, VERSION, RECENT = range(8)
"""The numbers of a cell.

* ``SPENT``: the cost of everything recorded, ever; ``LAST``: when that was last raised.
* ``HELD``: what requests hold that have not ended.
* ``MARKED``: what ``SPENT`` was just before ``MARKED_AT``; ``FLOOR``: what it was at an earlier moment, all of
  it seen in OpenMeter since. ``VERSION`` is odd while these change.
* ``RECENT``: the cost of the last event that cost anything.

Of a level, a value that does not add to others, ``MARKED`` is the highest since ``MARKED_AT`` and ``FLOOR``
the highest of the time before, as far as either may be missing in OpenMeter's answer; ``SPENT`` stays 0.
"""
CELL = 8
HEAD = 512
"""The numbers before the cells: pairs of a ring, then how many were ever written to it."""
RING = 240
"""Pairs. Enough for processes that take OpenMeter for differently slow: a ring reaches back 15 times as long."""
_WRITTEN = 2 * RING

NEVER = float("-inf")


def bytes_for(places: int) -> int:
    """The length of a column, sparse until it is used."""
    return 8 * (HEAD + CELL * places)


class Column:
    """One process's numbers. Only its owner calls what changes them."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: memoryview[float]) -> None:
        """``numbers``: `bytes_for` as many places, as native doubles, zero at first."""
        self.numbers = numbers

    # --- what the owner does

    def spend(self, place: int, cost: float, now: float, seen: float, spacing: float) -> None:
        """Count a cost that is recorded now. Before the event is written anywhere.

        ``seen``: all that this column recorded before is in every answer asked for from now on. ``spacing``:
        seconds between two marks; the smaller, the fewer events count twice.
        """
        numbers, cell = self.numbers, HEAD + CELL * place
        spent = numbers[cell]
        if seen > numbers[cell + LAST]:
            self._mark(cell, now, spent, spent)
        else:
            marked_at = numbers[cell + MARKED_AT]
            if now - marked_at >= spacing and seen > marked_at:
                self._mark(cell, now, spent, numbers[cell + MARKED])
        numbers[cell + LAST] = now  # first: who reads the new sum then reads the new time, too
        numbers[cell] = spent + cost
        numbers[cell + RECENT] = cost

    def reach(self, place: int, level: float, now: float, seen: float, spacing: float) -> None:
        """Count a level: the cell then keeps the highest since ``MARKED_AT`` and the highest of some time before."""
        numbers, cell = self.numbers, HEAD + CELL * place
        marked_at = numbers[cell + MARKED_AT]
        if seen > numbers[cell + LAST]:
            self._mark(cell, now, level, 0.0)
        elif now - marked_at >= spacing and seen > marked_at:
            self._mark(cell, now, level, numbers[cell + MARKED])
        elif level > numbers[cell + MARKED]:
            numbers[cell + MARKED] = level
        numbers[cell + LAST] = now

    def publish(self, at: float, before: float, spacing: float) -> None:
        """Say that at the time ``at`` all that was recorded earlier than ``before`` had been acknowledged.

        Left out where the last such word is younger than ``spacing``, so that the ring reaches far enough back.
        """
        numbers = self.numbers
        written = int(numbers[_WRITTEN])
        if written and at - numbers[2 * ((written - 1) % RING)] < spacing:
            return
        slot = 2 * (written % RING)
        numbers[slot] = at
        numbers[slot + 1] = before
        numbers[_WRITTEN] = written + 1

    def drop_held(self, places: int) -> None:
        """Forget what a process held that is dead. For who takes its column over."""
        cells = self.numbers[HEAD + HELD : HEAD + CELL * places : CELL]
        for index, held in enumerate(cells):
            if held:
                cells[index] = 0.0

    def _mark(self, cell: int, now: float, marked: float, floor: float) -> None:
        numbers = self.numbers
        numbers[cell + VERSION] += 1
        numbers[cell + MARKED_AT] = now
        numbers[cell + MARKED] = marked
        numbers[cell + FLOOR] = floor
        numbers[cell + VERSION] += 1

    # --- what everybody does

    def forget_recent(self, place: int) -> None:
        """The place goes to somebody else, whose events cost something else."""
        self.numbers[HEAD + CELL * place + RECENT] = 0.0

    # --- what everybody reads

    def committed(self, place: int) -> float:
        """What was recorded, and is held."""
        cell = HEAD + CELL * place
        return float(self.numbers[cell] + self.numbers[cell + HELD])

    def base(self, place: int, seen: float) -> float:
        """A part of what was recorded, all of it earlier than ``seen``; as much as is known of it."""
        numbers, cell = self.numbers, HEAD + CELL * place
        version = numbers[cell + VERSION]
        floor = numbers[cell + FLOOR]
        spent = numbers[cell]  # before the time of the last: see `spend`
        if seen > numbers[cell + LAST]:
            return float(spent)
        marked_at, marked = numbers[cell + MARKED_AT], numbers[cell + MARKED]
        if version % 2 or numbers[cell + VERSION] != version:
            return float(floor)  # being changed: a floor is never lowered, so any that was read is right
        return float(marked if seen > marked_at else floor)

    def level(self, place: int, seen: float) -> float:
        """The highest level recorded at ``seen`` or later, or a higher one from before; 0 where there is none."""
        numbers, cell = self.numbers, HEAD + CELL * place
        if seen > numbers[cell + LAST]:
            return 0.0
        return float(max(numbers[cell + MARKED], numbers[cell + FLOOR]))

    def seen(self, until: float) -> float:
        """All that was recorded earlier than this had been acknowledged at the time ``until``."""
        return next((before for at, before in self._published() if at <= until), NEVER)

    def is_settled(self, place: int, seen: float) -> bool:
        """Whether all that was recorded here is earlier than ``seen``."""
        last = self.numbers[HEAD + CELL * place + LAST]
        return not last or last < seen

    def is_idle(self, place: int, since: float, seen: float) -> bool:
        """Whether nothing was recorded here since then, nothing is held, and OpenMeter has all there was."""
        cell = HEAD + CELL * place
        last = self.numbers[cell + LAST]
        return not self.numbers[cell + HELD] and last < since and self.is_settled(place, seen)

    def _published(self) -> Iterator[tuple[float, float]]:
        """The ring, newest first, without the one that may be written over meanwhile."""
        numbers = self.numbers
        written = int(numbers[_WRITTEN])
        for number in range(written - 1, max(written - RING, -1), -1):
            slot = 2 * (number % RING)
            yield numbers[slot], numbers[slot + 1]
