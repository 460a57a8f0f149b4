"""What a killed process leaves is sent by the next one: every line that ``record`` returned for, and nothing else."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from metergate.delivery.adoption import Adoption
from metergate.delivery.batch import Limits
from metergate.delivery.destination import describe
from metergate.delivery.files import Files
from metergate.delivery.sent import SentOptions, sent_events
from metergate.delivery.source import SegmentSource
from metergate.delivery.spool import Spool, SpoolOptions
from metergate.delivery.wake import Wake

DESTINATION = describe("http://openmeter.test", "key")
SENT = SentOptions()

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.integers(1, 4)),
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.just("send and be killed before the cursor moves"), st.integers(1, 3)),
        st.tuples(st.just("send what was adopted"), st.integers(1, 3)),
        st.tuples(st.just("be killed"), st.just(0)),
        st.tuples(st.just("be killed amid a write"), st.integers(1, 60)),
        st.tuples(st.just("be killed amid a cursor write"), st.integers(1, 25)),
    ),
    max_size=25,
)


@dataclass
class Host:
    """Processes that come and go on one spool, without their threads: every step is one that a sender takes."""

    root: Path
    recorded: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    may_repeat: set[str] = field(default_factory=set)
    torn: int = 0
    cut: int = 0

    def __post_init__(self):
        self.start()

    def start(self):
        files = Files()
        self.spool = Spool(
            SpoolOptions(self.root, DESTINATION, segment_bytes=150),
            files=files,
            wake=Wake(),
            clock=time.monotonic,
            wall_clock=time.time,
        )
        folder = self.spool.open()
        self.own = SegmentSource(
            files, folder, self.spool.segments, self.spool.retired, durable=False, sent=SENT
        )
        self.adoption = Adoption(
            files, self.root, folder, durable=False, sent=SENT, inherit_after=None, clock=time.monotonic
        )
        self.adoption.scan(self.spool.writer)

    def kill(self):
        """What the system does: every descriptor is closed, and with it every lock. Nothing is written."""
        self.cut += self.adoption.torn_tails
        self.own.close()
        self.adoption.abandon()
        self.spool.abandon()

    def step(self, what, count):
        if what == "record":
            ids = [f"e{len(self.recorded) + number}" for number in range(count)]
            self.spool.record(b"".join(line(each) for each in ids), count)
            self.recorded += ids
        elif what == "send":
            self.send(self.own, count)
        elif what == "send what was adopted":
            for adopted in list(self.adoption.adopted.values()):
                self.send(adopted.source, count)
            self.adoption.scan(self.spool.writer)
        elif what == "send and be killed before the cursor moves":
            batch = self.own.next_batch(Limits(count))
            if batch is not None:
                self.sent += ids_of(batch)
                self.may_repeat.update(ids_of(batch))
            self.kill()
            self.start()
        else:
            open_segments = [segment for segment in self.spool.segments if not segment.closed]
            cursors = sorted(self.root.glob("*/segments/*.cursor"))
            self.kill()
            if what == "be killed amid a write" and open_segments:
                with open_segments[0].path.open("ab") as file:
                    file.write(line("never-recorded")[: min(count, 40)])
                self.torn += 1
            if what == "be killed amid a cursor write" and cursors:
                with cursors[-1].open("ab") as file:
                    file.write(b"0000000000ffffff deadbeef\n"[:count])
            self.start()

    def send(self, source, count):
        batch = source.next_batch(Limits(count))
        if batch is not None:
            self.sent += ids_of(batch)
            source.settle(batch)

    def finish(self):
        self.kill()
        self.start()
        while self.adoption.adopted:
            self.step("send what was adopted", 500)
        self.kill()


def line(event_id):
    return json.dumps({"id": event_id, "data": {"text": "x" * 20}}).encode() + b"\n"


def ids_of(batch):
    return [event["id"] for event in json.loads(batch.body)]


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_every_recorded_event_is_sent_and_only_those_in_flight_at_a_kill_are_sent_again(
    tmp_path_factory, steps
):
    host = Host(tmp_path_factory.mktemp("spool"))
    for step in steps:
        host.step(*step)
    host.finish()
    assert set(host.sent) == set(host.recorded)
    repeated = {each for each in host.sent if host.sent.count(each) > 1}
    assert repeated <= host.may_repeat
    assert host.cut == host.torn
    left = [path.name for path in host.root.glob("*/segments/*") if not path.name.endswith(".lock")]
    assert left == []
    assert sorted(json.loads(each)["id"] for _, each in sent_events(host.root)) == sorted(host.recorded)


@settings(max_examples=40, deadline=None)
@given(settled=st.integers(0, 6), damage=st.data())
def test_a_damaged_cursor_sends_again_and_skips_nothing(tmp_path_factory, settled, damage):
    host = Host(tmp_path_factory.mktemp("spool"))
    host.spool._options = SpoolOptions(host.root, DESTINATION)
    host.step("record", 4)
    host.step("record", 3)
    for _ in range(settled):
        host.send(host.own, 1)
    host.kill()
    for cursor in host.root.glob("*/segments/*.cursor"):
        data = bytearray(cursor.read_bytes())
        for position in damage.draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
            data[position] ^= damage.draw(st.integers(1, 255))
        cursor.write_bytes(bytes(data[: damage.draw(st.integers(0, len(data)))]))
    host.start()
    host.finish()
    assert set(host.sent) == set(host.recorded)


def test_a_cursor_without_its_segment_is_cleared_away(tmp_path):
    host = Host(tmp_path)
    host.step("record", 2)
    host.send(host.own, 2)
    path = host.spool.segments[0].path
    host.kill()
    path.unlink()
    host.start()
    assert list(tmp_path.glob("*/segments/*.cursor")) == []
    assert host.adoption.adopted == {}
    host.kill()


def test_a_segment_shorter_than_its_cursor_says_is_settled(tmp_path):
    host = Host(tmp_path)
    host.spool._options = SpoolOptions(tmp_path, DESTINATION)
    host.step("record", 3)
    host.send(host.own, 3)
    path = host.spool.segments[0].path
    host.kill()
    path.write_bytes(line("e0"))  # a power cut took the rest, which OpenMeter has
    host.start()
    host.finish()
    assert host.sent == ["e0", "e1", "e2"]


def test_of_two_live_processes_only_one_adopts(tmp_path):
    first = Host(tmp_path)
    first.step("record", 3)
    first.kill()
    second, third = Host(tmp_path), Host(tmp_path)
    assert len(second.adoption.adopted) == 1
    assert third.adoption.adopted == {}
    second.kill()  # an adopter that dies is adopted from in turn
    third.adoption.scan(third.spool.writer)
    third.finish()
    assert third.sent == ["e0", "e1", "e2"]


def test_a_live_process_is_never_adopted_from(tmp_path):
    first, second = Host(tmp_path), Host(tmp_path)
    first.step("record", 3)
    second.adoption.scan(second.spool.writer)
    assert second.adoption.adopted == {}
    assert second.adoption.other_bytes == first.spool.own_bytes > 0
    first.kill()
    second.kill()


def test_a_segment_that_somebody_removed_is_counted_and_the_rest_goes_on(tmp_path, caplog):
    host = Host(tmp_path)
    for _ in range(3):
        host.step("record", 3)
    host.spool.segments[0].path.unlink()
    while (batch := host.own.next_batch(Limits())) is not None:
        host.sent += ids_of(batch)
        host.own.settle(batch)
    assert host.own.lost_events == 3
    assert host.sent == [f"e{number}" for number in range(3, 9)]
    assert "was removed with up to 3 events" in caplog.text
    host.kill()
