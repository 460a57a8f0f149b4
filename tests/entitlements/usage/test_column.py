"""A column is read while its owner writes; what is read then is on the strict side."""

from __future__ import annotations

from metergate.entitlements.usage.column import (
    CELL,
    FLOOR,
    HEAD,
    LAST,
    MARKED,
    MARKED_AT,
    VERSION,
    Column,
    bytes_for,
)


def column():
    return Column(memoryview(bytearray(bytes_for(2))).cast("d"))


def marked():
    """3 recorded at 10, marked at 20 when all of that was seen, 4 more at 20 and 30."""
    made = column()
    made.spend(0, 3, 10, -1, 1)
    made.spend(0, 2, 20, 15, 1)
    made.spend(0, 2, 30, 15, 1)
    return made


def test_what_is_seen_is_the_newest_sum_that_is_surely_earlier():
    made = marked()
    assert [made.base(0, seen) for seen in (9, 20, 25, 30, 31)] == [3, 3, 3, 3, 7]
    assert made.committed(0) == 7
    assert made.base(1, 100) == 0


def test_a_mark_that_is_being_changed_counts_as_its_floor():
    made = marked()
    made.numbers[HEAD + VERSION] += 1  # the owner is amid a change, or was killed in it
    made.numbers[HEAD + MARKED] = 1000
    made.numbers[HEAD + MARKED_AT] = 0
    assert made.base(0, 25) == 3


class Torn:
    """Numbers that the owner changes just after a reader has looked at the floor."""

    def __init__(self, numbers, change):
        self.numbers, self.change = numbers, change

    def __getitem__(self, index):
        value = self.numbers[index]
        if index == HEAD + FLOOR and self.change is not None:
            change, self.change = self.change, None
            change()
        return value


def test_a_change_amid_a_reading_is_noticed():
    made = marked()

    def change():
        made._mark(HEAD, 21, 500, 400)

    assert Column(Torn(made.numbers, change)).base(0, 25) == 3, "the floor of before, which is still right"


def test_who_reads_a_new_sum_reads_its_time_too():
    made = marked()
    written = []

    class Watched:
        def __getitem__(self, index):
            return made.numbers[index]

        def __setitem__(self, index, value):
            written.append(index)
            made.numbers[index] = value

    Column(Watched()).spend(0, 1, 40, 15, 1000)
    assert written.index(HEAD + LAST) < written.index(HEAD)


def test_what_a_dead_process_held_is_dropped_and_what_it_recorded_stays():
    made = marked()
    made.numbers[HEAD + 1] = made.numbers[HEAD + CELL + 1] = 9
    made.drop_held(2)
    assert (made.committed(0), made.committed(1)) == (7, 0)
