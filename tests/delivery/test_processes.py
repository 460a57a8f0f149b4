"""Real processes, really killed and really forked: the promise of ``process``."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from metergate.delivery import Delivery
from metergate.delivery.files import Files

WRITER = """
import json, pathlib, sys
from metergate.delivery import Delivery
url, folder, name, durability, start = sys.argv[1:]
delivery = Delivery(url, "secret-key", directory=pathlib.Path(folder), durability=durability, max_delay_ms=1, batch_size=7)
if start == "start":
    delivery.start()
number = 0
while True:
    event = {"specversion": "1.0", "id": f"{name}-{number}", "source": "test", "type": "t", "subject": "s"}
    done = delivery.record(json.dumps(event).encode() + b"\\n", 1)
    if done is not None:
        done.result()
    assert delivery.statistics().dropped == {}
    sys.stdout.write(f"{name}-{number}\\n")
    sys.stdout.flush()
    number += 1
"""


class Writer:
    """A process that records without end and says each id after ``record`` has returned."""

    def __init__(self, url, spool, name, durability="process", start="start"):
        self.said = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(spool), name, durability, start],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        self.said.extend(line.strip() for line in self._process.stdout if line.endswith("\n"))

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        return self.said


def test_every_event_that_a_killed_process_recorded_arrives_once(deliver, openmeter, spool, ids, eventually):
    chance = random.Random(20261122)  # noqa: S311  # a test that can be repeated
    recorded = []
    for life in range(3):
        writers = [Writer(openmeter.url, spool, f"life{life}-{number}") for number in range(2)]
        for writer in writers:
            enough = chance.randint(50, 800)
            eventually(lambda writer=writer, enough=enough: len(writer.said) > enough)
        for writer in writers:
            recorded += writer.kill()
    heir = deliver()
    heir.start()
    openmeter.wait_until(lambda: set(recorded) <= set(ids(openmeter.events)))
    extra = set(ids(openmeter.events)) - set(recorded)
    assert len(extra) <= 6, "at most the one event of each process that was being recorded at the kill"
    assert len(recorded) > 600


def test_what_a_process_without_a_sender_recorded_is_sent_by_a_live_one(
    deliver, openmeter, spool, eventually, ids
):
    heir = deliver()
    heir.start()
    heir.flush(5)
    writer = Writer(openmeter.url, spool, "lonely", start="no")
    eventually(lambda: len(writer.said) > 300)
    assert openmeter.events == []
    recorded = writer.kill()
    openmeter.wait_until(lambda: len(openmeter.events) >= len(recorded))
    assert ids(openmeter.received)[: len(recorded)] == recorded
    now = eventually(
        lambda: (now := heir.statistics()).delivered >= len(recorded) and now.pending_bytes == 0 and now
    )
    assert now.adopted_segments == 1
    assert now.delivered - len(recorded) in (0, 1)


@pytest.mark.parametrize("times", [3])
def test_an_adopter_that_is_killed_is_adopted_from_in_turn(deliver, openmeter, spool, eventually, ids, times):
    openmeter.go_away()
    recorded = []
    for life in range(times):
        writer = Writer(openmeter.url, spool, f"life{life}")
        eventually(lambda writer=writer: len(writer.said) > 100)
        recorded += writer.kill()
    openmeter.come_back()
    heir = deliver()
    heir.start()
    openmeter.wait_until(lambda: set(recorded) <= set(ids(openmeter.events)))
    assert len(openmeter.received) == len(openmeter.events), (
        "nobody had sent anything before, so nothing is repeated"
    )
    eventually(lambda: heir.statistics().pending_bytes == 0)
    heir.close(5)
    assert list(spool.glob("*/segments/*.jsonl")) == []


def in_child(work):
    """Runs ``work`` in a forked child and returns the first byte that it answers."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a child that hangs is a test that fails, not one that hangs
        answer = b"!"
        try:
            answer = work()
        finally:
            os.write(writing, answer)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@pytest.fixture
def fork(monkeypatch):
    """Forking with threads alive is what a pre-forking server does; Python 3.12 and later warn of it."""
    import warnings

    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    return in_child


def test_a_forked_child_sends_its_own_events_and_nothing_of_its_parents(deliver, event, openmeter, fork, ids):
    delivery = deliver(max_delay_ms=3_600_000)
    delivery.start()
    delivery.record(event("parent"), 1)

    def work():
        delivery.record(event("child"), 1)
        now = delivery.statistics()
        assert (now.recorded, now.pending_events) == (1, 1)
        delivery.close(10)
        return b"y" if delivery.statistics().delivered == 1 else b"n"

    assert fork(work) == b"y"
    assert ids(openmeter.received) == ["echild"]
    assert delivery.flush(10)
    assert ids(openmeter.received) == ["echild", "eparent"]


def test_a_forked_child_begins_to_count_anew_and_leaves_its_parents_events_alone(
    deliver, event, openmeter, fork
):
    delivery = deliver(max_delay_ms=3_600_000)
    delivery.start()
    delivery.record(event("sent"), 1)
    assert delivery.flush(10)
    delivery.record(event("waiting"), 1)
    parents = (delivery.recorded, delivery.settled)
    is_sent = delivery.mark_unsent()
    assert parents == (len(event("sent") + event("waiting")), len(event("sent")))

    def work():
        assert (delivery.recorded, delivery.settled) == (0, 0)
        delivery.record(event("child"), 1)
        assert (delivery.recorded, delivery.settled) == (len(event("child")), 0)
        assert delivery.flush(10)
        assert delivery.settled == len(event("child"))
        return b"n" if is_sent() else b"y"

    assert fork(work) == b"y"
    assert (delivery.recorded, delivery.settled) == parents


def test_a_child_of_a_parent_that_has_sent_can_still_send(deliver, event, openmeter, fork, ids):
    delivery = deliver()
    delivery.start()
    delivery.record(event("parent"), 1)
    assert delivery.flush(10)

    def work():
        delivery.record(event("child"), 1)
        return b"y" if delivery.flush(10) else b"n"

    assert fork(work) == b"y"
    assert ids(openmeter.received) == ["eparent", "echild"]


def test_what_a_child_left_unsent_is_adopted_by_its_parent(deliver, event, openmeter, fork, ids):
    delivery = deliver()
    delivery.start()

    def work():
        delivery.close(5)
        delivery.record(event("child"), 1)
        return b"y"

    assert fork(work) == b"y"
    openmeter.wait_for_events(1)
    assert ids(openmeter.received) == ["echild"]


def test_a_child_does_not_keep_the_locks_of_a_parent_that_dies(openmeter, spool, event, deliver, ids):
    code = """
import os, pathlib, sys
from metergate.delivery import Delivery
delivery = Delivery(sys.argv[1], "secret-key", directory=pathlib.Path(sys.argv[2]))
delivery.record(sys.argv[3].encode() + b"\\n", 1)
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.read()
"""
    line = event("parent").decode().rstrip()
    parent = subprocess.Popen(
        [sys.executable, "-c", code, openmeter.url, str(spool), line],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(parent.stdout.readline())
    heir = deliver()
    heir.start()
    openmeter.wait_for_events(1)
    os.kill(child, 0)  # still there, and yet what its parent left has been sent
    parent.stdin.close()
    parent.stdout.close()
    parent.wait()
    assert ids(openmeter.received) == ["eparent"]


def test_forking_while_threads_record_leaves_both_sides_working(deliver, event, openmeter, fork, ids):
    delivery = deliver()
    delivery.start()
    stop = threading.Event()
    counted = [0]

    def record_on():
        while not stop.is_set():
            delivery.record(event(f"p{counted[0]}"), 1)
            counted[0] += 1
            if (
                counted[0] > len(openmeter.events) + 1000
            ):  # or it records without end while a child gets no time
                stop.wait(0.001)

    thread = threading.Thread(target=record_on)
    thread.start()

    def child_of(number):
        def work():
            delivery.record(event(f"c{number}"), 1)
            return b"y" if delivery.flush(10) else b"n"

        return work

    try:
        answers = [fork(child_of(number)) for number in range(3)]
    finally:
        stop.set()
        thread.join()
    assert answers == [b"y"] * 3
    assert delivery.flush(20)
    expected = {f"ep{number}" for number in range(counted[0])} | {f"ec{number}" for number in range(3)}
    assert set(ids(openmeter.received)) == expected
    assert len(openmeter.received) == len(expected)


def test_a_fork_while_the_sender_opens_the_spool_leaves_it_open(deliver, event, eventually):
    class Slow(Files):
        amid, go_on = threading.Event(), threading.Event()

        def make_folder(self, path):
            super().make_folder(path)
            if path.name == "sent" and threading.current_thread().name == "metergate-sender":
                self.amid.set()
                self.go_on.wait(20)

    files = Slow()
    delivery = deliver(files=files)
    store = delivery._life.store
    delivery.record(event(1), 1)
    delivery.start()
    assert files.amid.wait(20)
    assert store.hold(10)
    files.go_on.set()
    eventually(lambda: store.own_source() is not None)
    store.unhold()
    assert delivery.flush(10)


def test_a_fork_waits_for_none_that_another_thread_is_at_and_takes_nothing_from_it(deliver, event):
    delivery = deliver()
    delivery.start()
    delivery.record(event(1), 1)
    assert delivery.flush(10)
    delivery._before_fork()
    other = threading.Thread(target=lambda: (delivery._before_fork(), delivery._after_fork_in_parent()))
    other.start()
    other.join()
    assert not delivery._life.store.hold(0), "still held for the first"
    delivery._after_fork_in_parent()
    assert delivery._life.store.hold(0)
    delivery._life.store.unhold()


def test_a_memory_queue_is_not_sent_twice_by_a_child(openmeter, event, fork, ids):
    delivery = Delivery(openmeter.url, "k", directory=None, durability="memory", max_delay_ms=3_600_000)
    delivery.start()
    delivery.record(event("parent"), 1)

    def work():
        delivery.record(event("child"), 1)
        return b"y" if delivery.flush(10) else b"n"

    assert fork(work) == b"y"
    delivery.close(10)
    assert sorted(ids(openmeter.received)) == ["echild", "eparent"]


def test_several_processes_on_one_spool_deliver_each_event_once(deliver, openmeter, spool, eventually, ids):
    writers = [Writer(openmeter.url, spool, f"w{number}") for number in range(3)]
    eventually(lambda: all(len(writer.said) > 300 for writer in writers))
    recorded = [each for writer in writers for each in writer.kill()]
    heir = deliver()
    heir.start()
    openmeter.wait_until(lambda: set(recorded) <= set(ids(openmeter.events)))
    eventually(lambda: heir.statistics().pending_bytes == 0)
    repeated = len(openmeter.received) - len(openmeter.events)
    assert repeated <= 3 * 7, "at most one batch of each process was in flight at its kill"
