"""Processes of a host meet in a folder: places are the same for all, a column belongs to one alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time

import pytest

from metergate.entitlements.usage.column import NEVER
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.places import Place
from metergate.entitlements.usage.watermark import Watermark

TAKER = """
import json, sys, time
from pathlib import Path
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.watermark import Watermark
ledger = Ledger(Folder(Path(sys.argv[1])), Watermark(lambda: [(1, 0)]), time.monotonic, visibility=5)
place = ledger.place("acme", "calls")
print("ready", flush=True)
sys.stdin.readline()
taken = held = 0
while held < 200 and taken + held < 100_000:
    if ledger.take(place, None, float(sys.argv[2])) is not None:
        ledger.spend(place, 1)
        ledger.give_back(place, 1)
        taken += 1
    else:
        held += 1
print(json.dumps([taken, place.number, ledger.folder.own]), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def small_disk(tmp_path):
    """``small_disk(size)``: the path of a disk of so many bytes."""
    disk = tmp_path / "disk"
    mounted = []

    def mount(size):
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a disk of its own cannot be mounted here")
        mounted.append(disk)
        return disk

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def ledger_in(folder, clock=time.monotonic, **options):
    return Ledger(Folder(folder, **options), Watermark(lambda: [(1, 0)]), clock, visibility=5)


@pytest.fixture
def taker(tmp_path):
    """Starts a process that takes until nothing is left; it waits for a line before it begins and before it ends."""
    running = []

    def start(ceiling):
        process = subprocess.Popen(
            [sys.executable, "-c", TAKER, str(tmp_path / "usage"), str(ceiling)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def test_processes_that_take_at_the_same_time_take_what_there_is_and_not_one_more(taker):
    processes = [taker(5_000) for _ in range(3)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.stdout.readline()) for process in processes]
    assert sum(taken for taken, _, _ in results) == 5_000
    assert {place for _, place, _ in results} == {0}
    assert sorted(own for _, _, own in results) == [0, 1, 2]


def test_a_killed_process_leaves_its_sums_and_its_column_to_the_next(taker, tmp_path):
    process = taker(500)
    process.stdin.write("go\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())[0] == 500
    process.kill()
    process.wait()
    heir = ledger_in(tmp_path / "usage")
    place = heir.place("acme", "calls")
    assert (heir.folder.own, heir.committed(place)) == (0, 500)
    assert heir.take(place, None, 500) is None
    heir.folder.close()


def test_what_a_dead_process_held_is_given_back(tmp_path):
    dead = ledger_in(tmp_path)
    assert dead.take(dead.place("acme", "calls"), 7, 10) == 7
    dead.folder.close()
    heir = ledger_in(tmp_path)
    assert heir.committed(heir.place("acme", "calls")) == 0
    heir.folder.close()


def test_a_column_of_somebody_alive_is_not_taken_over(tmp_path):
    first, second = ledger_in(tmp_path), ledger_in(tmp_path)
    assert (first.folder.own, second.folder.own) == (0, 1)
    with first.folder.borrowed(1) as dead:
        assert not dead
    second.folder.close()
    with first.folder.borrowed(1) as dead:
        assert dead
        third = Folder(tmp_path)
        assert third.own == 2  # not while it is borrowed
        third.close()
    first.folder.close()


def test_a_process_that_started_later_is_counted_at_once(tmp_path):
    first = ledger_in(tmp_path)
    place = first.place("acme", "calls")
    second = ledger_in(tmp_path)
    second.spend(second.place("acme", "calls"), 3)
    assert first.committed(place) == 3
    assert len(first.seen()) == 2
    for ledger in (first, second):
        ledger.folder.close()


def test_what_was_counted_before_the_machine_started_is_forgotten(tmp_path):
    before = ledger_in(tmp_path)
    before.spend(before.place("acme", "calls"), 3)
    before.folder.close()
    boot = tmp_path / "boot"
    boot.write_text(boot.read_text().replace("layout", "another boot's layout"))
    after = ledger_in(tmp_path)
    assert after.committed(after.place("acme", "calls")) == 0
    assert after.folder.is_new
    after.folder.close()


def test_a_folder_is_new_to_the_first_that_opens_it_only(tmp_path):
    first, second = Folder(tmp_path), Folder(tmp_path)
    assert (first.is_new, second.is_new) == (True, False)
    first.close()
    second.close()


def test_without_a_folder_the_count_is_the_process_s_own():
    one, other = ledger_in(None), ledger_in(None)
    one.spend(one.place("acme", "calls"), 3)
    assert one.committed(one.place("acme", "calls")) == 3
    assert other.committed(other.place("acme", "calls")) == 0


# --- places


def test_a_pair_has_one_place_and_different_pairs_have_different_ones(tmp_path):
    one, other = ledger_in(tmp_path), ledger_in(tmp_path)
    pairs = [(f"s{n}", f"f{m}") for n in range(300) for m in range(3)] + [
        ("s1f", "0"),
        ("s", "1f0"),
        ("ß\ud800", ""),
    ]
    places = [(one if n % 2 else other).place(*pair) for n, pair in enumerate(pairs)]
    assert len(set(places)) == len(pairs)
    assert [(other if n % 2 else one).place(*pair) for n, pair in enumerate(pairs)] == places
    for ledger in (one, other):
        ledger.folder.close()


def test_when_all_places_are_taken_an_idle_one_makes_room_and_who_remembers_it_notices():
    now = [1000.0]
    ledger = ledger_in(None, lambda: now[0], most_places=8)
    ledger._watermark = Watermark(lambda: [(1, 1)])
    old = [ledger.place(f"s{n}", "f") for n in range(8)]
    for place in old[1:]:
        ledger.spend(place, 1)
    assert ledger.place("new", "f") == Place(0, 1), "it was never used"
    assert not ledger.is_current(old[0])
    ledger.spend(Place(0, 1), 1)
    assert ledger.place("newer", "f") is None, "all others were used just now"
    now[0] += 700
    assert ledger.place("newer", "f") is None, "nobody knows whether OpenMeter has their events"
    ledger.tend(left_behind=False)
    now[0] += 10
    newer = ledger.place("newer", "f")
    assert newer is not None
    assert ledger.place("newer", "f") == newer
    assert ledger.base(newer, ledger.seen()) == ledger.committed(newer), (
        "what others spent there is no concern"
    )


def test_places_come_and_go_without_two_ever_sharing_one():
    now = [1000.0]
    ledger = ledger_in(None, lambda: now[0], most_places=64)
    current = {}
    for number in range(2000):
        now[0] += 700
        place = ledger.place(f"s{number}", "f")
        assert place is not None
        current = {name: known for name, known in current.items() if ledger.is_current(known)}
        assert place not in current.values()
        current[f"s{number}"] = place
    assert len(current) == 64
    assert all(ledger.place(name, "f") == place for name, place in current.items())


def test_a_held_place_is_never_given_away():
    now = [1000.0]
    ledger = ledger_in(None, lambda: now[0], most_places=2)
    held = ledger.place("long stream", "f")
    ledger.take(held, 1, 10)
    for number in range(5):
        now[0] += 700
        assert ledger.place(f"s{number}", "f").number == 1
    assert ledger.is_current(held)


def test_nothing_is_seen_before_anything_was_said():
    ledger = ledger_in(None)
    assert ledger.seen() == (NEVER,)


def test_a_full_disk_counts_no_more_subjects_and_ends_no_process(small_disk):
    """A write into a mapped file that has no blocks on a full disk is a SIGBUS."""
    disk = small_disk(34 << 20)
    ledger = ledger_in(disk / "usage")
    known = ledger.place("acme", "calls")
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    places = [ledger.place(f"s{number}", "calls") for number in range(10_000)]
    for place in places:
        if place is not None:
            ledger.spend(place, 1)
    assert places[0] is not None
    assert places[-1] is None
    ledger.spend(known, 1)
    assert ledger.committed(known) == 1
    filler.unlink()
    assert ledger.place("s9999", "calls") is not None
    ledger.folder.close()


def test_a_folder_on_a_full_disk_cannot_be_opened(small_disk):
    with pytest.raises(OSError, match="space"):
        Folder(small_disk(1 << 20) / "usage")
