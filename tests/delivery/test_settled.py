"""``recorded`` and ``settled``: what was recorded up to a position is settled once ``settled`` is there, and not before."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metergate.delivery import Delivery, dead_letters
from metergate.openmeter.ingest import IngestClient
from metergate.testing.disk import FullDisk
from metergate.testing.faulty import Fault, FaultyOpenMeter, answer, cut, half_stored, page

DURABILITIES = ("memory", "process", "power")


def position(delivery):
    return delivery.recorded, delivery.settled


@pytest.fixture(params=DURABILITIES)
def delivery(request, deliver):
    """One of each durability, which sends nothing before it is told to."""
    return deliver(durability=request.param, max_delay_ms=3_600_000)


def test_what_is_recorded_counts_at_once_and_is_settled_when_openmeter_has_it(delivery, event, openmeter):
    openmeter.hold()
    delivery.start()
    delivery.record(event(1) + event(2), 2)
    size = len(event(1) + event(2))
    assert position(delivery) == (size, 0)
    assert not delivery.flush(0.1)
    openmeter.wait_for_requests(1)
    assert position(delivery) == (size, 0), "stored there, and not yet acknowledged"
    delivery.record(event(3).rstrip(), 1)
    openmeter.let_go()
    assert delivery.flush(10)
    assert position(delivery) == (size + len(event(3)),) * 2


def test_an_event_that_openmeter_refuses_is_settled_with_its_dead_letter(delivery, event, openmeter):
    openmeter.refuse(lambda each: each["id"] in ("e2", "e5"))
    for number in range(6):
        delivery.record(event(number), 1)
    delivery.start()
    assert delivery.flush(10)
    assert position(delivery) == (6 * len(event(1)),) * 2
    assert delivery.statistics().buried == 2


def test_a_count_that_is_wrong_does_not_shift_them(delivery, event):
    delivery.start()
    delivery.record(event(1), 50)
    delivery.record(event(2) + event(3), 1)
    delivery.flush(0.5)
    assert position(delivery) == (3 * len(event(1)),) * 2


def test_what_could_not_be_kept_is_not_recorded(deliver, event):
    for durability in ("memory", "process"):
        delivery = deliver(durability=durability, max_bytes=2 * len(event(1)))
        for number in range(5):
            delivery.record(event(number), 1)
        assert position(delivery) == (2 * len(event(1)), 0)


def test_what_memory_loses_at_its_stop_is_settled_as_lost(deliver, event, openmeter):
    openmeter.go_away()
    delivery = deliver(durability="memory")
    delivery.start()
    delivery.record(event(1) + event(2), 2)
    delivery.close(0.1)
    assert position(delivery) == (len(event(1) + event(2)),) * 2
    assert delivery.statistics().dropped == {"closed": 2}


def test_what_a_stop_leaves_in_the_spool_is_not_settled_and_a_new_start_begins_anew(
    deliver, event, openmeter, eventually
):
    openmeter.go_away()
    delivery = deliver()
    delivery.start()
    delivery.record(event(1), 1)
    delivery.close(0.1)
    assert position(delivery) == (len(event(1)), 0)
    openmeter.come_back()
    delivery.start()
    assert position(delivery) == (0, 0)
    openmeter.wait_for_events(1)
    delivery.record(event(2) + event(3), 2)
    assert delivery.flush(10)
    assert position(delivery) == (len(event(2) + event(3)),) * 2


def test_events_that_were_adopted_are_in_neither(deliver, event, openmeter, eventually):
    gone = deliver()
    for number in range(10):
        gone.record(event(number), 1)
    gone.close(0)
    heir = deliver()
    heir.start()
    heir.record(event("own"), 1)
    openmeter.wait_for_events(11)
    eventually(lambda: heir.statistics().delivered == 11)
    assert position(heir) == (len(event("own")),) * 2


def test_segments_that_somebody_removed_are_settled_as_lost(deliver, event, openmeter, spool):
    delivery = deliver(segment_bytes=3 * len(event(1)), max_delay_ms=3_600_000)
    for number in range(8):
        delivery.record(event(number), 1)
    shutil.rmtree(spool)
    delivery.start()
    assert delivery.flush(10)
    assert position(delivery) == (8 * len(event(1)),) * 2
    delivery.record(event(8), 1)
    assert delivery.flush(10)
    assert position(delivery) == (9 * len(event(1)),) * 2
    now = delivery.statistics()
    assert now.delivered + now.dropped["removed"] == 9


def test_a_cursor_that_cannot_be_written_does_not_hold_them_back(deliver, event):
    disk = FullDisk(100_000)
    delivery = deliver(files=disk, batch_size=1)
    for number in range(5):
        delivery.record(event(number), 1)
    disk.free = 0
    delivery.start()
    assert delivery.flush(10)
    assert position(delivery) == (5 * len(event(1)),) * 2


class Watched:
    """The client, which notes for each request where ``settled`` was before it and when it was answered."""

    def __init__(self, client, delivery, notes):
        self.send_on, self.close, self.delivery, self.notes = client.send, client.close, delivery, notes

    def send(self, body, timeout=None):
        before = self.delivery().settled
        reply = self.send_on(body, timeout)
        self.notes.append((json.loads(body)[0]["id"], before, self.delivery().settled))
        return reply


def hurried():
    """A clock on which every pause is soon over."""
    return time.monotonic() * 5000


FAULTS = st.lists(
    st.sampled_from(
        [
            *(
                answer(400, "no"),
                answer(413),
                answer(500),
                answer(401),
                Fault(202, stores="all"),
                page(400),
                page(200),
            ),
            *(cut(stored=False), cut(stored=True), half_stored()),
        ]
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(
    durability=st.sampled_from(DURABILITIES),
    records=st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=12),
    faults=FAULTS,
    refused=st.sets(st.integers(0, 20), max_size=4),
    batch_size=st.integers(1, 9),
)
def test_settled_is_exactly_what_openmeter_has_acknowledged_in_order_whatever_fails(
    tmp_path_factory, durability, records, faults, refused, batch_size
):
    def line(number):
        each = {
            "id": f"e{number}",
            "source": "s",
            "specversion": "1.0",
            "type": "t",
            "subject": "u" * (1 + number),
        }
        return json.dumps(each).encode() + b"\n"

    starts, notes, number = {}, [], 0
    with FaultyOpenMeter(*faults) as openmeter:
        openmeter.refuse(lambda each: int(each["id"][1:]) in refused)
        root = tmp_path_factory.mktemp("spool")
        delivery = Delivery(
            openmeter.url, "k", directory=root, durability=durability, batch_size=batch_size,
            segment_bytes=500, max_delay_ms=0, clock=hurried, jitter=lambda: 0.0,
            open_client=lambda: Watched(IngestClient(openmeter.url, "k"), lambda: delivery, notes),
        )  # fmt: skip
        delivery.start()
        for count, flush in records:
            lines = b""
            for _ in range(count):
                starts[f"e{number}"] = delivery.recorded + len(lines)
                lines += line(number)
                number += 1
            delivery.record(lines, count)
            if flush:
                delivery.flush(0.01)
        while not delivery.flush(0.02):
            assert delivery.settled <= delivery.recorded
        assert delivery.settled == delivery.recorded == sum(len(line(each)) for each in range(number))
        for first, before, after in notes:
            assert before == after == starts[first], (
                "all before the batch in flight is settled, and none of it"
            )
        buried = delivery.statistics().buried
        delivery.close(5)
        stored = {each["id"] for each in openmeter.events}
        if durability != "memory":
            stored |= {json.loads(letter.event_bytes)["id"] for _, letter in dead_letters(root)}
            assert stored == set(starts)
        assert len(stored) + (buried if durability == "memory" else 0) >= number
