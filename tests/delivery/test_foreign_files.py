"""What others put into the spool, take out of it, or keep from us, never stops the events that can be sent."""

from __future__ import annotations

import errno
import shutil

from metergate.delivery import dead_letters
from metergate.delivery.source import SegmentReader

_FOREIGN = "20261122T144100.123456Z-4711-9f86d081"


def test_a_folder_that_cannot_be_read_beside_the_destinations_stops_nothing(deliver, event, openmeter, spool):
    # As `lost+found` of a mounted volume: reading in it fails. The file as a folder fails for root as well.
    (spool / "lost+found" / "destination.json").mkdir(parents=True)
    delivery = deliver()
    delivery.start()
    delivery.record(event(1), 1)
    assert delivery.flush(10)
    assert [each["id"] for each in openmeter.events] == ["e1"]
    assert dead_letters(spool) == []


def test_a_writer_whose_lock_cannot_be_opened_stops_nobody_else(
    deliver, event, openmeter, spool, caplog, eventually
):
    first = deliver()
    first.record(event(1), 1)
    first.close(0.0)
    segments = next(spool.glob("*/segments"))
    (segments / f"{_FOREIGN}.000001.jsonl").write_bytes(event(2))
    (segments / f"{_FOREIGN}.lock").mkdir()
    delivery = deliver()
    delivery.start()
    delivery.record(event(3), 1)
    assert delivery.flush(10)
    eventually(lambda: {"e1", "e3"} == {each["id"] for each in openmeter.events})
    assert any(_FOREIGN in message for message in caplog.messages)


def test_a_folder_of_dead_letters_that_is_removed_is_made_anew(deliver, event, openmeter, spool, eventually):
    openmeter.refuse(lambda each: each["id"] == "e2")
    delivery = deliver()
    delivery.start()
    delivery.record(event(1), 1)
    assert delivery.flush(10)
    shutil.rmtree(next(spool.glob("*/dead")))
    delivery.record(event(2), 1)
    assert delivery.flush(10)
    assert [letter.event_bytes for _, letter in dead_letters(spool)] == [event(2).rstrip()]
    eventually(lambda: delivery.statistics().state == "ok")


def test_a_segment_that_the_disk_does_not_give_back_holds_up_no_other(
    deliver, event, openmeter, spool, monkeypatch, eventually
):
    for number in range(1, 4):
        dead = deliver()
        dead.record(event(number), 1)
        dead.close(0.0)
    first, *_ = sorted(path.name for path in spool.glob("*/segments/*.jsonl"))
    peek = SegmentReader.peek

    def damaged(reader, limits):
        if reader.segment.path.name == first and ailing:
            raise OSError(errno.EIO, "Input/output error")
        return peek(reader, limits)

    ailing = [True]
    monkeypatch.setattr(SegmentReader, "peek", damaged)
    delivery = deliver()
    delivery.start()
    eventually(lambda: {"e2", "e3"} <= {each["id"] for each in openmeter.events})
    for number in range(4, 24):  # nor is it slower for that than without
        delivery.record(event(number), 1)
        assert delivery.flush(0.5)
    assert delivery.statistics().pending_events == 1
    ailing.clear()
    eventually(lambda: len(openmeter.events) == 23)
