"""What is unsent on disk: exact while others send, adopt and die, and without being in their way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest

from metergate.delivery.batch import Limits
from metergate.delivery.destination import describe
from metergate.delivery.files import Files
from metergate.delivery.segment import claim, writer_of
from metergate.delivery.sent import SentOptions
from metergate.delivery.source import SegmentSource
from metergate.delivery.spool import Spool, SpoolOptions
from metergate.delivery.unsent import are_settled, unsent_ends, unsent_events
from metergate.delivery.wake import Wake


def ids_of(lines):
    return [json.loads(line)["id"] for line in lines]


@pytest.fixture
def segments(spool):
    """The one folder of segments."""
    return lambda: next(spool.glob("*/segments"))


def test_before_anything_is_recorded_there_is_nothing(deliver, spool):
    delivery = deliver()
    assert delivery.mark_unsent()()
    assert list(delivery.unsent_events()) == []
    assert not spool.exists(), "looking makes no folder"


def test_memory_leaves_nothing_on_disk(deliver, event):
    delivery = deliver(durability="memory")
    delivery.record(event(1), 1)
    assert delivery.mark_unsent()()
    assert list(delivery.unsent_events()) == []


def test_what_is_unsent_stays_so_until_its_last_event_is_settled(deliver, event, openmeter):
    first, second = deliver(max_delay_ms=3_600_000), deliver()
    for number in range(3):
        first.record(event(number), 1)
    questions = [first.mark_unsent(), second.mark_unsent()]
    assert [question() for question in questions] == [False, False], "its own, and another's"
    openmeter.hold()
    first.start()
    assert not first.flush(0.1)
    openmeter.wait_for_requests(1)
    assert [question() for question in questions] == [False, False], "stored there, and not yet acknowledged"
    openmeter.let_go()
    assert first.flush(10)
    assert [question() for question in questions] == [True, True]
    first.record(event(3), 1)
    assert not second.mark_unsent()()
    assert [question() for question in questions] == [True, True], "of what was unsent then"


def test_what_waits_for_the_same_openmeter_with_another_key_is_unsent_too(deliver, event):
    deliver(api_key="another").record(event(1), 1)
    delivery = deliver()
    assert not delivery.mark_unsent()()
    assert ids_of(delivery.unsent_events()) == ["e1"]


def test_what_waits_for_another_openmeter_is_none_of_ours(deliver, event):
    deliver(url="http://127.0.0.2:9").record(event(1), 1)
    delivery = deliver()
    assert delivery.mark_unsent()()
    assert list(delivery.unsent_events()) == []


def test_the_events_of_all_writers_are_read_from_their_cursors_on(deliver, event, openmeter):
    first = deliver(max_delay_ms=3_600_000, segment_bytes=4 * len(event(10)))
    second = deliver()
    for number in range(10, 13):
        first.record(event(number), 1)
    first.start()
    assert first.flush(10)
    for number in range(13, 20):
        first.record(event(number), 1)
    second.record(event(20) + event(21), 2)
    lines = list(deliver().unsent_events())
    assert lines == [event(number).rstrip() for number in range(13, 22)]


def test_torn_and_damaged_lines_are_passed_over(deliver, event, segments):
    writer = deliver()
    writer.record(event(1) + b"\0\0garbage\n" + event(2), 3)
    assert ids_of(deliver().unsent_events()) == ["e1", "e2"]
    (path,) = segments().glob("*.jsonl")
    with path.open("ab") as file:
        file.write(event(3)[:20])
    assert ids_of(deliver().unsent_events()) == ["e1", "e2"]
    path.write_bytes(event(3)[:20])
    assert deliver().mark_unsent()(), "half a line is no event"


def test_looking_changes_nothing_and_is_in_nobodys_way(deliver, event, segments, spool):
    def files():
        return {
            path: (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino)
            for path in spool.rglob("*")
        }

    gone = deliver()
    gone.record(event(1) + event(2), 2)
    gone.close(0)
    path = next(segments().glob("*.jsonl"))
    with path.open("ab") as file:
        file.write(b'{"torn')
    before = files()
    looking = deliver()
    lines = looking.unsent_events()
    next(lines)
    is_settled = looking.mark_unsent()
    assert not is_settled()
    lock = claim(segments(), writer_of(path.name))
    assert lock is not None, "whoever wants to adopt it can, amid the reading"
    lock.close()
    assert len(list(lines)) == 1
    assert files() == before


def test_a_segment_that_is_settled_amid_the_reading_is_read_to_its_end(deliver, event, openmeter):
    writer = deliver()
    for number in range(10):
        writer.record(event(number), 1)
    lines = deliver().unsent_events()
    first = next(lines)
    writer.start()
    writer.close(10)
    assert ids_of([first, *lines]) == [f"e{number}" for number in range(10)]


def test_reading_takes_little_memory_however_much_there_is(deliver, event):
    writer = deliver()
    for _ in range(20):
        writer.record(event(1) * 4000, 4000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in deliver().unsent_events()) == 80_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_nothing_that_was_recorded_before_the_question_is_unsent_once_the_answer_is_yes(spool, event):
    files = Files()
    options = SpoolOptions(spool, describe("http://openmeter.test", "key"), segment_bytes=1)
    writer = Spool(options, files=files, wake=Wake(), clock=time.monotonic, wall_clock=time.time)
    folder = writer.open()
    source = SegmentSource(
        files, folder, writer.segments, writer.retired, durable=False, sent=SentOptions(keep_seconds=0)
    )
    writer.record(event(0), 1)
    recorded = [0]
    stop = threading.Event()

    def numbers(lines):
        return [int(name[1:]) for name in ids_of(lines)]

    def go_on():
        number = 1
        while not stop.is_set():
            writer.record(event(number), 1)  # in the next segment, and only then is the one before settled
            recorded.append(number)
            source.settle(source.next_batch(Limits(1)))
            number += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        answers = set()
        for _ in range(500):
            before = recorded[-1]
            answers.add(yes := are_settled(unsent_ends(folder.segments)))
            if yes:
                late = [number for number in numbers(unsent_events(folder.segments)) if number <= before]
                assert late == []
    finally:
        stop.set()
        thread.join()
    assert False in answers, "something is unsent at any moment"
    source.close()
    writer.close(5)


PROCESS = """
import json, pathlib, sys
from metergate.delivery import Delivery
url, folder, events, name = sys.argv[1:]
delivery = Delivery(url, "secret-key", directory=pathlib.Path(folder), max_delay_ms=1, batch_size=7)
for number in range(int(events)):
    event = {"specversion": "1.0", "id": f"{name}{number}", "source": "test", "type": "t", "subject": "s"}
    delivery.record(json.dumps(event).encode() + b"\\n", 1)
if name == "adopter":
    delivery.start()
print("ready", flush=True)
sys.stdin.read()
"""


class Process:
    """A process that has recorded, and sends only as "adopter". It is there until it is killed."""

    def __init__(self, url, spool, events, name):
        command = [sys.executable, "-c", PROCESS, url, str(spool), str(events), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n"

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def process(openmeter, spool):
    made = []

    def start(events, name):
        made.append(Process(openmeter.url, spool, events, name))
        return made[-1]

    yield start
    for each in made:
        each.kill()


def test_what_the_dead_left_is_unsent_until_all_is_settled_also_when_their_adopter_is_killed(
    deliver, openmeter, process, eventually
):
    dead = process(50, "dead")
    looking = deliver()
    is_settled = looking.mark_unsent()
    assert not is_settled()
    dead.kill()
    assert not is_settled()
    assert ids_of(looking.unsent_events()) == [f"dead{number}" for number in range(50)]
    acknowledged = 14

    def hold_after_two_batches(_event):
        if len(openmeter.received) >= acknowledged:
            openmeter.hold()
        return False

    openmeter.refuse(hold_after_two_batches)
    adopter = process(0, "adopter")
    openmeter.wait_until(lambda: len(openmeter.received) > acknowledged)
    assert not is_settled()
    adopter.kill()
    assert not is_settled()
    assert ids_of(looking.unsent_events()) == [f"dead{number}" for number in range(acknowledged, 50)]
    watch = []
    openmeter.refuse(lambda _event: watch.append(is_settled()))
    openmeter.let_go()
    heir = deliver(batch_size=7)
    heir.start()
    openmeter.wait_for_events(50)
    assert set(watch) == {False}
    assert [each["id"] for each in openmeter.events] == [f"dead{number}" for number in range(50)]
    eventually(is_settled)
    assert list(looking.unsent_events()) == []
