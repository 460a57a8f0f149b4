"""What may happen to the shared files, and to what is counted in them: full disks, garbage, heirs, absurd costs."""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
import sys

import pytest

from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.holds import Hold
from metergate.entitlements.usage.ledger import MOST, Ledger
from metergate.entitlements.usage.watermark import Watermark

READER = """
import contextlib, sys, time
from pathlib import Path
from metergate.entitlements.usage.folder import Folder, ROOM
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.watermark import Watermark

disk, other_starts = Path(sys.argv[1]), sys.argv[2]

def start():
    folder = Folder(disk / "usage", most_places=2 * ROOM)
    return Ledger(folder, Watermark(lambda: [(1, 0)]), time.monotonic, visibility=5)

one = start()
other = start() if other_starts == "before" else None
subjects = [f"s{number}" for number in range(ROOM + 100)]
places = [one.place(subject, "calls") for subject in subjects]
other = other or start()
with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))
assert sum(one.committed(place) for place in places) == 0
assert [other.place(subject, "calls") for subject in subjects] == places
assert sum(other.committed(place) for place in places) == 0
print("alive", flush=True)
"""


@pytest.fixture
def disk(tmp_path):
    """A disk of its own of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def ledger_in(path, clock=lambda: 1000.0, *, visibility=5.0, counts=lambda: [(1, 0)], most_places=16):
    return Ledger(Folder(path, most_places=most_places), Watermark(counts), clock, visibility=visibility)


# --- files


@pytest.mark.parametrize("other_starts", ["before", "after"])
def test_a_process_that_reads_another_s_column_on_a_full_disk_is_not_killed(disk, other_starts):
    """Also to read a hole of a mapped file a page is needed: without one it is a SIGBUS."""
    command = [sys.executable, "-c", READER, str(disk), other_starts]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.parametrize("garbage", [b"\xff", b"<html>not a table</html>", bytes(range(1, 256))])
def test_a_table_of_garbage_is_made_anew_with_its_columns_and_said(tmp_path, caplog, garbage):
    before = ledger_in(tmp_path)
    before.spend(before.place("acme", "calls"), 3)
    before.folder.close()
    table = tmp_path / "places"
    table.write_bytes((garbage * table.stat().st_size)[: table.stat().st_size])
    with caplog.at_level(logging.ERROR, "metergate.entitlements"):
        after = ledger_in(tmp_path)
    (said,) = caplog.messages
    assert str(table) in said
    assert "damaged" in said
    place = after.place("acme", "calls")
    assert (after.folder.is_new, after.committed(place)) == (True, 0)
    assert after.take(place, 2.0, 3.0) == 2
    next_one = ledger_in(tmp_path)
    assert (next_one.folder.is_new, next_one.committed(place)) == (False, 2), "and is a table from then on"
    for ledger in (after, next_one):
        ledger.folder.close()


def test_without_its_table_the_columns_are_of_no_use_and_the_folder_is_new(tmp_path):
    before = ledger_in(tmp_path)
    before.spend(before.place("acme", "calls"), 3)
    before.folder.close()
    (tmp_path / "places").unlink()
    after = ledger_in(tmp_path)
    assert (after.folder.is_new, after.committed(after.place("other", "calls"))) == (True, 0)
    after.folder.close()


@pytest.mark.parametrize("garbage", [None, b"garbage " * 1000])
def test_a_folder_stays_new_if_the_process_dies_that_makes_it_anew(tmp_path, garbage):
    """What is unsent has to be counted by the next: it was not yet."""
    table = tmp_path / "places"

    def dies(folder):
        raise KeyboardInterrupt

    ledger_in(tmp_path).folder.close()
    table.unlink() if garbage is None else table.write_bytes(garbage)
    with pytest.raises(KeyboardInterrupt):
        Folder(tmp_path, dies, most_places=16)
    after = Folder(tmp_path, most_places=16)
    assert after.is_new
    after.close()


def test_a_folder_that_is_removed_or_made_anew_is_noticed_by_who_uses_it(tmp_path):
    one = ledger_in(tmp_path / "usage").folder
    assert not one.is_lost()
    shutil.rmtree(tmp_path / "usage")
    assert one.is_lost()
    other = ledger_in(tmp_path / "usage").folder
    assert (one.is_lost(), other.is_lost()) == (True, False)
    for folder in (one, other):
        folder.close()


def test_what_is_in_memory_cannot_be_removed():
    assert not ledger_in(None).folder.is_lost()


# --- processes that take OpenMeter for differently slow


@pytest.mark.parametrize(("quick", "slow"), [(0.1, 5.0), (5.0, 60.0)])
def test_processes_with_different_visibility_both_find_out_that_openmeter_has_everything(
    tmp_path, quick, slow
):
    """Each stays busy with somebody else, so that it goes on to say how far OpenMeter is."""
    now = [1000.0]
    ledgers = [
        ledger_in(tmp_path, lambda: now[0], visibility=visibility, counts=lambda: [(1, 1)])
        for visibility in (quick, slow)
    ]
    for cost, ledger in enumerate(ledgers, 1):
        ledger.spend(ledger.place("acme", "calls"), cost)
    while now[0] < 1000.0 + 2 * slow:
        now[0] += 0.02
        for ledger in ledgers:
            ledger.spend(ledger.place("busy", "calls"), 1)
            ledger.tend(left_behind=False)
    for ledger in ledgers:
        place, busy = ledger.place("acme", "calls"), ledger.place("busy", "calls")
        assert ledger.base(place, ledger.seen()) == 3
        assert ledger.is_settled(place)
        assert 0 < ledger.base(busy, ledger.seen()) < ledger.spent(busy)
    for ledger in ledgers:
        ledger.folder.close()


# --- what is counted


def test_a_hold_that_is_released_after_its_column_was_taken_over_takes_nothing_from_the_heir(tmp_path):
    gone = ledger_in(tmp_path)
    place = gone.place("acme", "calls")
    hold = Hold(gone, [(place, gone.take(place, 7.0, 10.0))])
    gone.folder.close()
    heir = ledger_in(tmp_path)
    assert (heir.folder.own, heir.committed(place)) == (0, 0)
    hold.release()
    assert heir.committed(place) == 0, "not below zero: that would be units for nothing"
    assert heir.take(place, 10.0, 10.0) == 10
    heir.folder.close()


@pytest.mark.parametrize("cost", [1e300, math.inf, 2.0**60])
def test_an_absurd_cost_leaves_the_count_usable(cost):
    now = [1000.0]
    ledger = ledger_in(None, lambda: now[0], counts=lambda: [(1, 1)])
    place = ledger.place("acme", "calls")
    assert ledger.take(place, cost, MOST - 1) is None, "no more than any request may hold"
    assert ledger.committed(place) == 0, "and nothing of it stays"
    ledger.spend(place, cost)
    assert ledger.take(place, None, 1000.0) is None
    for _ in range(4):
        now[0] += 3
        ledger.tend(left_behind=False)
    base = ledger.base(place, ledger.seen())
    assert base == ledger.committed(place) == MOST, "once OpenMeter has it, it is over"
    assert ledger.take(place, 1.0, base + 2) == 1
    ledger.spend(place, 1)
    assert ledger.take(place, 1.0, base + 2) is None, "two of two are used, to the unit"


def test_a_cost_that_is_no_number_counts_nothing():
    ledger = ledger_in(None)
    place = ledger.place("acme", "calls")
    ledger.spend(place, math.nan)
    assert (ledger.committed(place), ledger.take(place, None, 1.0)) == (0, 1)


def test_the_next_owner_of_a_place_does_not_hold_what_the_last_one_s_events_cost(tmp_path):
    now = [1000.0]
    one, other = (
        ledger_in(tmp_path, lambda: now[0], counts=lambda: [(1, 1)], most_places=1) for _ in range(2)
    )
    for ledger in (one, other):
        ledger.spend(ledger.place("heavy", "tokens"), 4000)
    assert other.take(other.place("heavy", "tokens"), None, 9000.0) == 4000
    other.give_back(other.place("heavy", "tokens"), 4000)
    for _ in range(3):
        now[0] += 700
        for ledger in (one, other):
            ledger.tend(left_behind=False)
    place = one.place("light", "tokens")
    assert place.number == 0
    assert [ledger.take(place, None, 9000.0) for ledger in (one, other)] == [1, 1]
    for ledger in (one, other):
        ledger.folder.close()
