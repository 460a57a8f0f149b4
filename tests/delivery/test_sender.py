"""A sender against an OpenMeter that misbehaves: everything arrives, each event once, whatever is answered."""

from __future__ import annotations

import email.utils
import json
import threading
import time

import pytest

from metergate.delivery import dead_letters
from metergate.testing.disk import FullDisk
from metergate.testing.faulty import answer, cut, half_stored, page, throttle


def record_all(delivery, event, numbers):
    for number in numbers:
        delivery.record(event(number), 1)


def test_events_arrive_as_the_bytes_that_were_recorded(deliver, event, openmeter):
    delivery = deliver(batch_size=2)
    delivery.start()
    odd = '{"id":"ü\\u0000 \\"}{", "source" : "s","specversion":"1.0","type":"t","subject":"x",  "n":1.0e2}\n'.encode()
    record_all(delivery, event, [1, 2])
    delivery.record(odd, 1)
    assert delivery.flush(10)
    sent = b",".join(request.body[1:-1] for request in openmeter.requests)
    assert sent == b",".join(line.rstrip(b"\n") for line in (event(1), event(2), odd))
    headers = openmeter.requests[0].headers
    assert headers["content-type"] == "application/cloudevents-batch+json"
    assert headers["authorization"] == "Bearer secret-key"


def test_a_full_batch_goes_out_without_waiting(deliver, event, openmeter):
    delivery = deliver(batch_size=10, max_delay_ms=3_600_000)
    delivery.start()
    openmeter_has = openmeter.wait_for_events
    record_all(delivery, event, range(10))
    openmeter_has(10)
    assert [request.events for request in openmeter.requests] == [10]


def test_a_batch_that_does_not_fill_goes_out_after_the_delay(deliver, event, openmeter):
    delivery = deliver(batch_size=1000, max_delay_ms=30)
    delivery.start()
    record_all(delivery, event, range(3))
    openmeter.wait_for_events(3)


def test_flush_does_not_wait_for_the_delay(deliver, event, openmeter):
    delivery = deliver(batch_size=1000, max_delay_ms=3_600_000)
    delivery.start()
    record_all(delivery, event, range(3))
    assert delivery.flush(10)
    assert len(openmeter.events) == 3


@pytest.mark.parametrize(
    "faults",
    [
        (answer(500), answer(502), answer(503)),
        (cut(stored=False), cut(stored=True)),
        (half_stored(), half_stored()),
        (answer(408),),
    ],
    ids=["5xx", "cut connections", "half a batch stored", "timeouts"],
)
def test_an_outage_loses_nothing_and_doubles_nothing(deliver, event, openmeter, ids, faults):
    openmeter.script(*faults)
    delivery = deliver()
    delivery.start()
    record_all(delivery, event, range(100))
    assert delivery.flush(15)
    assert sorted(ids(openmeter.events)) == sorted(f"e{number}" for number in range(100))
    now = delivery.statistics()
    assert (now.delivered, now.retries, now.pending_events, now.state) == (100, len(faults), 0, "ok")
    bodies = [request.body for request in openmeter.requests]
    assert bodies[1].startswith(bodies[0][:-1]), "a retry sends the same bytes, and perhaps more events"


def test_while_openmeter_is_away_events_wait_and_then_arrive(deliver, event, openmeter, eventually):
    openmeter.go_away()
    delivery = deliver()
    delivery.start()
    record_all(delivery, event, range(50))
    now = eventually(lambda: (now := delivery.statistics()).state == "retrying" and now)
    assert (now.pending_events, now.recorded, now.delivered) == (50, 50, 0)
    assert now.pending_bytes == sum(len(event(number)) for number in range(50))
    assert "refused" in now.last_error
    openmeter.come_back()
    assert delivery.flush(15)
    assert len(openmeter.received) == 50
    assert delivery.statistics().oldest_pending_seconds == 0.0


def test_the_age_of_the_oldest_waiting_event_is_known(deliver, event, openmeter, eventually, clock):
    openmeter.go_away()
    delivery = deliver(clock=clock)
    delivery.start()
    record_all(delivery, event, range(3))
    eventually(lambda: delivery.statistics().oldest_pending_seconds > 0)
    clock.ahead += 500
    record_all(delivery, event, range(3, 6))
    assert 500 <= delivery.statistics().oldest_pending_seconds < 530


@pytest.mark.parametrize("as_date", [False, True])
def test_a_throttled_sender_sends_nothing_before_it_is_told_to(
    deliver, event, openmeter, eventually, clock, as_date
):
    after = email.utils.formatdate(time.time() + 300, usegmt=True) if as_date else 300
    openmeter.script(throttle(after))
    delivery = deliver(clock=clock)
    delivery.start()
    record_all(delivery, event, range(3))
    eventually(lambda: delivery.statistics().state == "throttled")
    clock.ahead += 250
    assert not delivery.flush(0.3)
    assert len(openmeter.requests) == 1
    clock.ahead += 60
    assert delivery.flush(10)
    assert len(openmeter.received) == 3


def test_a_refused_key_keeps_the_events_and_says_so(
    deliver, event, openmeter, eventually, clock, caplog, ids
):
    openmeter.api_key = "the right one"
    delivery = deliver(clock=clock)
    delivery.start()
    record_all(delivery, event, range(5))
    now = eventually(lambda: (now := delivery.statistics()).state == "unauthorized" and now)
    assert (now.pending_events, now.dead_letters, now.dropped) == (5, 0, {})
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert "apiKey" in said[0].getMessage()
    assert "secret-key" not in caplog.text
    openmeter.api_key = None
    clock.ahead += 60
    assert delivery.flush(10)
    assert ids(openmeter.events) == [f"e{number}" for number in range(5)]


@pytest.mark.parametrize(
    "fault", [page(200), answer(404), answer(302, Location="http://127.0.0.1:9/"), page(400)]
)
def test_what_is_not_openmeter_gets_no_event_settled(
    deliver, event, openmeter, eventually, clock, caplog, fault
):
    openmeter.script(*[fault] * 4)
    delivery = deliver(clock=clock)
    delivery.start()
    record_all(delivery, event, range(4))
    now = eventually(lambda: (now := delivery.statistics()).state == "misdirected" and now)
    assert (now.pending_events, now.dead_letters) == (4, 0)
    assert "not OpenMeter" in caplog.text
    while not delivery.flush(0.1):
        clock.ahead += 60
    assert len(openmeter.events) == len(openmeter.received) == 4


def test_a_bad_event_is_buried_with_the_answer_and_the_others_arrive_once(
    deliver, event, openmeter, ids, spool
):
    openmeter.refuse(lambda each: each["id"] in {"e0", "e37", "e38", "e99"})
    delivery = deliver(batch_size=100, max_delay_ms=3_600_000)
    delivery.start()
    record_all(delivery, event, range(100))
    assert delivery.flush(10)
    good = [f"e{number}" for number in range(100) if number not in (0, 37, 38, 99)]
    assert ids(openmeter.received) == good
    letters = [letter for _, letter in dead_letters(spool)]
    assert [letter.event_bytes for letter in letters] == [
        event(number).rstrip() for number in (0, 37, 38, 99)
    ]
    assert {letter.status for letter in letters} == {400}
    assert "'e37'" in letters[1].detail
    now = delivery.statistics()
    assert (now.delivered, now.buried, now.dead_letters, now.pending_events) == (96, 4, 4, 0)


def test_an_outage_amid_splitting_changes_nothing(deliver, event, openmeter, ids):
    openmeter.refuse(lambda each: each["id"] == "e5")
    delivery = deliver(batch_size=20, max_delay_ms=3_600_000)
    openmeter.script(answer(400, "no"), cut(stored=False), answer(400, "no"), answer(500))
    delivery.start()
    record_all(delivery, event, range(20))
    assert delivery.flush(15)
    assert ids(openmeter.received) == [f"e{number}" for number in range(20) if number != 5]


def test_a_body_is_no_larger_than_allowed(deliver, event, openmeter):
    delivery = deliver(batch_size=1000, body_bytes=1000)
    delivery.start()
    record_all(delivery, event, range(50))
    assert delivery.flush(10)
    assert max(len(request.body) for request in openmeter.requests) <= 1001
    assert len(openmeter.received) == 50


def test_an_event_too_large_for_a_proxy_is_buried_and_the_rest_goes_on(deliver, event, openmeter, spool, ids):
    openmeter.script(page(413, "<html>"), page(413, "<html>"))
    delivery = deliver()
    record_all(delivery, event, range(2))
    delivery.start()
    assert delivery.flush(10)
    assert ids(openmeter.events) == ["e1"]
    assert [letter.status for _, letter in dead_letters(spool)] == [413]


def test_a_damaged_line_goes_to_the_dead_letters_unsent(deliver, event, openmeter, spool, ids):
    delivery = deliver()
    delivery.record(event(1) + b"\0\0\0garbage\n" + event(2), 3)
    delivery.start()
    assert delivery.flush(10)
    assert ids(openmeter.events) == ["e1", "e2"]
    ((_, letter),) = dead_letters(spool)
    assert letter.event_bytes == b"\0\0\0garbage"
    assert letter.is_damaged


def test_when_everything_is_refused_it_slows_down_and_says_so(deliver, event, openmeter, eventually, caplog):
    openmeter.refuse(lambda _: True)
    delivery = deliver(batch_size=64)
    record_all(delivery, event, range(64))
    delivery.start()
    now = eventually(lambda: (now := delivery.statistics()).state == "refusing" and now)
    assert 20 <= now.buried < 64
    assert "refuses every event" in caplog.text
    openmeter.refuse(lambda _: False)
    assert delivery.flush(15)
    now = delivery.statistics()
    assert now.delivered + now.buried == 64
    assert now.delivered == len(openmeter.received) > 0
    assert now.state == "ok"


def test_a_dead_letter_that_does_not_fit_on_the_disk_keeps_its_event(
    deliver, event, openmeter, eventually, spool
):
    disk = FullDisk(100_000)
    openmeter.refuse(lambda each: each["id"] == "e1")
    delivery = deliver(files=disk)
    record_all(delivery, event, range(3))
    disk.free = 60  # room for cursors, none for a letter
    delivery.start()
    now = eventually(lambda: (now := delivery.statistics()).state == "blocked" and now)
    assert now.pending_events == 2
    assert "No space left" in now.last_error
    disk.free = 100_000
    assert delivery.flush(15)
    assert len(openmeter.received) == 2
    assert len(dead_letters(spool)) == 1


def test_a_cursor_that_does_not_fit_on_the_disk_stops_nothing(deliver, event, openmeter):
    disk = FullDisk(100_000)
    delivery = deliver(files=disk, batch_size=1)
    record_all(delivery, event, range(5))
    disk.free = 0
    delivery.start()
    assert delivery.flush(10)
    assert len(openmeter.received) == 5
    assert delivery.statistics().cursor_errors == 5


def test_events_keep_arriving_while_others_record(deliver, event, openmeter):
    delivery = deliver(batch_size=50, max_delay_ms=1)
    delivery.start()
    threads = [
        threading.Thread(target=record_all, args=(delivery, event, range(start, start + 500)))
        for start in range(0, 2000, 500)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert delivery.flush(15)
    assert len(openmeter.received) == len(openmeter.events) == 2000
    assert delivery.statistics().delivered == 2000


def test_a_wrong_count_neither_spins_nor_stops_the_sender(deliver, event, openmeter, eventually):
    delivery = deliver(batch_size=3)
    delivery.start()
    delivery.record(event(1), 100)
    openmeter.wait_for_events(1)
    sender = [thread for thread in threading.enumerate() if thread.name == "metergate-sender"][-1]
    before = time.clock_gettime(time.pthread_getcpuclockid(sender.ident))
    assert not delivery.flush(0.5)
    assert time.clock_gettime(time.pthread_getcpuclockid(sender.ident)) - before < 0.2
    delivery.record(event(2), 1)
    openmeter.wait_for_events(2)


def test_an_error_of_the_senders_own_is_logged_and_it_goes_on(deliver, event, openmeter, caplog):
    class Broken:
        def __init__(self):
            self.left = 1

        def __call__(self):
            if self.left:
                self.left -= 1
                raise RuntimeError("boom")
            return 0.0

    delivery = deliver(jitter=Broken())
    delivery.start()
    openmeter.script(answer(500))
    record_all(delivery, event, range(3))
    assert delivery.flush(10)
    assert "boom" in caplog.text
    assert {json.loads(request.body)[0]["id"] for request in openmeter.requests} == {"e0"}
