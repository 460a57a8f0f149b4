"""The promise of ``power``: what a Future said is on disk is there after the power went."""

from __future__ import annotations

import errno
import os
import random
import threading
from concurrent.futures import CancelledError

import pytest

from metergate.delivery import Delivery, dead_letters
from metergate.delivery.commit import GroupCommit
from metergate.delivery.files import Files
from metergate.testing.disk import PowerCutFiles


class Gate(Files):
    """Syncs wait at a gate, so that a test knows who shares one."""

    def __init__(self):
        self.opened = threading.Event()
        self.waiting = threading.Event()
        self.syncs = 0
        self.folders = 0

    def sync(self, fd):
        self.waiting.set()
        assert self.opened.wait(20)
        self.syncs += 1

    def sync_folder(self, path):
        self.folders += 1


@pytest.fixture
def commit(tmp_path):
    made = []

    def make(files, on_failure=lambda fd: None):
        made.append(GroupCommit(files, tmp_path, on_failure))
        return made[-1]

    yield make
    for each in made:
        each.stop(10)


def test_all_who_record_during_a_sync_share_the_next_one(commit):
    gate = Gate()
    group = commit(gate)
    first = group.join(1, 1)
    assert gate.waiting.wait(20)
    others = [group.join(1, 1) for _ in range(100)]
    assert not first.done()
    assert len({id(future) for future in others}) == 1
    gate.opened.set()
    assert [future.result(20) for future in (first, *others)] == [None] * 101
    assert gate.syncs == 2


def test_one_waiter_cannot_cancel_the_others(commit):
    gate = Gate()
    future = commit(gate).join(1, 1)
    assert not future.cancel()
    gate.opened.set()
    try:
        assert future.result(20) is None
    except CancelledError:
        pytest.fail("cancelled")


def test_the_name_of_a_new_segment_is_synced_with_its_first_events(commit):
    gate = Gate()
    gate.opened.set()
    group = commit(gate)
    group.new_name()
    group.join(1, 1).result(20)
    group.join(1, 1).result(20)
    assert gate.folders == 1


def test_a_segment_is_synced_before_it_is_closed(commit, tmp_path, eventually):
    disk = PowerCutFiles()
    group = commit(disk)
    fd = disk.open_to_append(tmp_path / "s")
    os.write(fd, b"x")
    group.leave(fd)

    def closed():
        try:
            os.fstat(fd)
        except OSError as error:
            return error.errno == errno.EBADF
        return False

    eventually(closed)
    assert disk.syncs == 1


def test_a_sync_that_fails_is_counted_and_its_file_left_and_nobody_waits_for_ever(commit, caplog, tmp_path):
    disk = PowerCutFiles()
    left = []
    group = commit(disk, left.append)
    fd = disk.open_to_append(tmp_path / "s")
    disk.fail_syncs = 1
    assert group.join(fd, 7).result(20) is None
    assert (group.unsynced, left) == (7, [fd])
    assert "7 events" in caplog.text
    os.close(fd)


def test_a_stopped_commit_starts_again_when_it_is_needed(commit):
    gate = Gate()
    gate.opened.set()
    group = commit(gate)
    group.join(1, 1).result(20)
    group.stop(20)
    group.join(1, 1).result(20)
    assert gate.syncs == 2


def test_many_events_cost_few_syncs(deliver, event):
    disk = PowerCutFiles()
    delivery = deliver(durability="power", files=disk)
    futures = [delivery.record(event(number), 1) for number in range(2000)]
    for future in futures:
        future.result(20)
    assert disk.syncs < 1000


@pytest.mark.parametrize("seed", range(6))
def test_every_event_whose_future_was_done_survives_a_power_cut(spool, openmeter, event, ids, seed):
    chance = random.Random(seed)  # noqa: S311  # a test that can be repeated
    disk = PowerCutFiles()
    before = Delivery(
        openmeter.url,
        "key",
        directory=spool,
        durability="power",
        files=disk,
        segment_bytes=chance.choice([300, 5000]),
    )
    count = chance.randint(1, 60)
    waits = [number for number in range(count) if chance.random() < 0.5]
    futures = {number: before.record(event(number), 1) for number in range(count)}
    for number in waits:
        futures[number].result(20)
    disk.cut_power(spool, torn=chance if seed % 2 else None)
    done = [number for number in range(count) if futures[number].done() and number <= max(waits, default=-1)]

    after = Delivery(openmeter.url, "key", directory=spool, durability="power", max_delay_ms=1)
    after.start()
    after.record(event("last"), 1).result(20)
    assert after.flush(20)
    openmeter.wait_until(lambda: {f"e{number}" for number in done} <= set(ids(openmeter.events)))
    after.close(10)
    assert len(openmeter.received) == len(openmeter.events)
    assert set(ids(openmeter.events)) <= {f"e{number}" for number in range(count)} | {"elast"}
    assert all(each["type"] == "api-request" for each in openmeter.events)
    before.close(0)


def test_process_durability_does_not_survive_a_power_cut_so_the_test_above_can_fail(spool, openmeter, event):
    disk = PowerCutFiles()
    before = Delivery(openmeter.url, "key", directory=spool, durability="process", files=disk)
    before.record(event(1), 1)
    disk.cut_power(spool)
    assert list(spool.rglob("*.jsonl")) == []
    before.close(0)


def test_what_openmeter_acknowledged_before_a_power_cut_is_not_sent_again(
    spool, openmeter, event, eventually
):
    disk = PowerCutFiles()
    options = {"directory": spool, "durability": "power", "max_delay_ms": 1, "files": disk}
    before = Delivery(openmeter.url, "key", **options)
    before.start()
    for number in range(50):
        before.record(event(number), 1)
    assert before.flush(20)
    disk.cut_power(spool)
    after = Delivery(openmeter.url, "key", **options | {"files": Files()})
    after.start()
    after.record(event("last"), 1).result(20)
    assert after.flush(20)
    eventually(lambda: after.statistics().adopted_segments == 1 and after.statistics().pending_bytes == 0)
    after.close(10)
    assert len(openmeter.received) == 51
    before.close(0)


def test_a_dead_letter_survives_a_power_cut(spool, openmeter, event):
    openmeter.refuse(lambda _: True)
    disk = PowerCutFiles()
    before = Delivery(openmeter.url, "key", directory=spool, files=disk, max_delay_ms=1)
    before.start()
    before.record(event(1), 1)
    assert before.flush(20)
    disk.cut_power(spool)
    assert [letter.event_bytes for _, letter in dead_letters(spool)] == [event(1).rstrip()]
    before.close(0)


def test_a_failing_disk_delays_no_response_and_the_events_are_sent(deliver, openmeter, event):
    disk = PowerCutFiles()
    delivery = deliver(durability="power", files=disk)
    delivery.record(event(1), 1).result(20)
    disk.fail_syncs = 1
    assert delivery.record(event(2), 1).result(20) is None
    delivery.record(event(3), 1).result(20)
    now = delivery.statistics()
    assert (now.unsynced, now.recorded, now.dropped) == (1, 3, {})
    delivery.start()
    assert delivery.flush(20)
    assert len(openmeter.received) == 3
