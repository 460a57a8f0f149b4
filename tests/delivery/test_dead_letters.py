from __future__ import annotations

import json

import pytest

from metergate.delivery import dead_letters, redrive
from metergate.delivery.dead_letters import DeadLetterFiles, new_letter
from metergate.delivery.destination import describe, make_folder
from metergate.delivery.files import Files
from metergate.delivery.memory import DeadLettersInMemory

NOON = 1_795_348_800.25


@pytest.fixture
def folder(spool):
    return make_folder(spool, describe("http://openmeter.test", "key"), Files(), 1.0)


def letter(event, number, offset=None):
    return new_letter(
        event(number).rstrip(), 400, "no", ("w.000001", number if offset is None else offset), NOON
    )


def test_a_letter_holds_the_exact_bytes_and_is_readable_json(folder, event):
    odd = b'{"id": "e1",  "n": 1.0e2, "s": "\\u00e4"}'
    graves = DeadLetterFiles(Files(), folder)
    graves.bury(new_letter(odd, 422, "too odd", ("w.000001", 7), NOON))
    (path,) = folder.dead.glob("*.jsonl")
    assert path.name == "2026-11-22.jsonl"
    assert odd in path.read_bytes()
    assert json.loads(path.read_text()) == {
        "time": "2026-11-22T12:00:00.250Z",
        "status": 422,
        "detail": "too odd",
        "segment": "w.000001",
        "offset": 7,
        "event": json.loads(odd),
    }
    assert [each.event_bytes for each in graves.read()] == [odd]


@pytest.mark.parametrize("line", [b"{\xff\0}", b'{"a":' + b"[" * 100_000 + b"}"])
def test_a_line_that_is_no_json_is_kept_as_it_is(folder, line):
    graves = DeadLetterFiles(Files(), folder)
    graves.bury(new_letter(line, 0, "damaged", ("w.000001", 0), NOON))
    (kept,) = graves.read()
    assert (kept.event_bytes, kept.is_damaged) == (line, True)


def test_an_event_buried_twice_by_a_crash_is_listed_once(folder, event):
    graves = DeadLetterFiles(Files(), folder)
    for number in (1, 2, 1):
        graves.bury(letter(event, number))
    assert [each.offset for each in graves.read()] == [1, 2]


def test_half_a_letter_spoils_nothing_but_itself(folder, event):
    graves = DeadLetterFiles(Files(), folder)
    graves.bury(letter(event, 1))
    (path,) = folder.dead.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"time":"2026')
    graves.bury(letter(event, 2))
    assert [each.offset for each in graves.read()] == [1, 2]


def test_letters_are_counted_over_all_processes(folder, event):
    one, other = DeadLetterFiles(Files(), folder), DeadLetterFiles(Files(), folder)
    assert one.count() == 0
    one.bury(letter(event, 1))
    assert (one.count(), other.count()) == (1, 1)
    other.bury(letter(event, 2))
    assert one.count() == 2


def test_letters_that_are_driven_again_arrive_with_the_same_bytes(
    deliver, event, openmeter, spool, ids, eventually
):
    openmeter.refuse(lambda each: each["id"] in {"e1", "e3"})
    delivery = deliver(batch_size=10)
    delivery.start()
    for number in range(5):
        delivery.record(event(number), 1)
    assert delivery.flush(10)
    assert len(dead_letters(spool)) == 2
    openmeter.refuse(lambda _: False)
    assert redrive(spool) == 2
    openmeter.wait_for_events(5)
    assert sorted(ids(openmeter.received)) == ["e0", "e1", "e2", "e3", "e4"]
    assert dead_letters(spool) == []
    assert redrive(spool) == 0
    now = eventually(lambda: (now := delivery.statistics()).dead_letters == 0 and now)
    assert now.buried == 2


def test_only_the_selected_letters_are_driven_again(folder, event, spool):
    graves = DeadLetterFiles(Files(), folder)
    for number in range(4):
        graves.bury(letter(event, number))
    graves.bury(new_letter(b"damaged", 0, "damaged", ("w.000001", 99), NOON))
    assert redrive(spool, lambda _folder, each: each.offset != 2) == 3
    assert [each.offset for each in graves.read()] == [2, 99]
    (segment,) = folder.segments.glob("*.jsonl")
    assert segment.read_bytes() == event(0) + event(1) + event(3)


def test_letters_that_are_driven_again_while_nobody_runs_are_sent_at_the_next_start(
    deliver, event, openmeter, spool
):
    openmeter.refuse(lambda _: True)
    first = deliver()
    first.start()
    first.record(event(1), 1)
    assert first.flush(10)
    first.close(5)
    openmeter.refuse(lambda _: False)
    assert redrive(spool) == 1
    deliver().start()
    openmeter.wait_for_events(1)


def test_a_crash_amid_driving_again_leaves_no_letter_behind(folder, event, spool):
    class Crash(Files):
        def unlink(self, path):
            if path.parent.name == "dead":
                raise OSError("crash")
            super().unlink(path)

    DeadLetterFiles(Files(), folder).bury(letter(event, 1))
    with pytest.raises(OSError, match="crash"):
        redrive(spool, files=Crash())
    assert len(dead_letters(spool)) == 1
    (segment,) = folder.segments.glob("*.jsonl")
    assert segment.read_bytes() == event(1)


def test_in_memory_the_oldest_letters_are_forgotten_and_counted(event):
    graves = DeadLettersInMemory()
    for number in range(1002):
        graves.bury(letter(event, number))
    assert (graves.count(), graves.forgotten, graves.letters[0].offset) == (1000, 2, 2)
