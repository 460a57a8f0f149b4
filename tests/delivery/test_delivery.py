from __future__ import annotations

import gc
import shutil
import threading
import weakref
from pathlib import Path

import pytest

from metergate.delivery import Delivery, dead_letters, sent_events
from metergate.errors import UsageError
from metergate.testing.faulty import answer


def segments(spool):
    return sorted(path.name for path in spool.glob("*/segments/*.jsonl"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"durability": "eternal"},
        {"directory": None},
        {"directory": None, "durability": "power"},
        {"batch_size": 0},
        {"max_delay_ms": -1},
        {"max_bytes": 0},
        {"url": "openmeter.cloud"},
    ],
)
def test_an_argument_that_cannot_be_right_is_refused_where_it_is_given(tmp_path, wrong):
    options = {"url": "http://openmeter.test", "api_key": "k", "directory": tmp_path} | wrong
    with pytest.raises(UsageError):
        Delivery(options.pop("url"), options.pop("api_key"), **options)


def test_before_the_start_events_are_kept_and_nothing_is_sent(deliver, event, openmeter, spool):
    delivery = deliver()
    assert delivery.record(event(1), 1) is None
    assert not delivery.flush(0)
    assert openmeter.requests == []
    assert len(segments(spool)) == 1


def test_starting_twice_starts_one_sender(deliver, event, openmeter):
    others = set(threading.enumerate())
    delivery = deliver()
    delivery.start()
    delivery.start()
    senders = [thread for thread in threading.enumerate() if thread.name == "metergate-sender"]
    assert len(set(senders) - others) == 1


def test_an_orderly_stop_sends_what_waits_and_leaves_nothing_to_do(deliver, event, openmeter, spool):
    delivery = deliver(max_delay_ms=3_600_000)
    delivery.start()
    for number in range(20):
        delivery.record(event(number), 1)
    delivery.close(10)
    assert len(openmeter.events) == 20
    assert list(spool.glob("*/segments/*")) == []
    assert [line + b"\n" for _, line in sent_events(spool)] == [event(number) for number in range(20)]


def test_a_stop_during_an_outage_ends_at_its_deadline_and_the_next_start_sends_the_rest(
    deliver, event, openmeter, spool, ids
):
    openmeter.go_away()
    delivery = deliver()
    delivery.start()
    for number in range(20):
        delivery.record(event(number), 1)
    delivery.close(0.3)
    assert len(segments(spool)) == 1
    openmeter.come_back()
    following = deliver()
    following.start()
    openmeter.wait_for_events(20)
    following.close(10)
    assert ids(openmeter.received) == [f"e{number}" for number in range(20)]
    assert following.statistics().adopted_segments == 1
    assert list(spool.glob("*/segments/*")) == []


def test_a_stop_does_not_wait_for_a_try_that_comes_too_late(deliver, event, openmeter, eventually, clock):
    openmeter.script(answer(401))
    delivery = deliver(clock=clock)
    delivery.start()
    delivery.record(event(1), 1)
    eventually(lambda: delivery.statistics().state == "unauthorized")
    before = clock()
    delivery.close(4)
    assert clock() - before < 3


def test_a_request_in_flight_at_the_stop_is_not_sent_by_somebody_else_meanwhile(
    deliver, event, openmeter, eventually, spool
):
    openmeter.hold()
    delivery = deliver()
    delivery.start()
    delivery.record(event(1), 1)
    openmeter.wait_for_requests(1)
    other = deliver()
    other.start()
    stopper = threading.Thread(target=delivery.close, args=(10,))
    stopper.start()
    assert other.statistics().adopted_segments == 0
    openmeter.let_go()
    stopper.join()
    assert len(openmeter.received) == 1
    assert segments(spool) == []


def test_an_event_recorded_after_the_stop_is_kept_for_the_next_start(deliver, event, openmeter, ids):
    delivery = deliver()
    delivery.start()
    delivery.close(5)
    delivery.record(event(1), 1)
    assert openmeter.events == []
    delivery.start()
    openmeter.wait_for_events(1)
    delivery.record(event(2), 1)
    assert delivery.flush(10)
    assert ids(openmeter.received) == ["e1", "e2"]


def test_a_stop_without_a_start_lets_go_of_the_spool(deliver, event, openmeter):
    first = deliver()
    first.record(event(1), 1)
    first.close(1)
    second = deliver()
    second.start()
    openmeter.wait_for_events(1)


def test_at_the_bound_it_counts_and_when_openmeter_takes_events_again_it_keeps_new_ones(
    deliver, event, openmeter, eventually
):
    openmeter.go_away()
    delivery = deliver(max_bytes=20 * len(event(10)))
    delivery.start()
    for number in range(10, 60):
        delivery.record(event(number), 1)
    now = delivery.statistics()
    assert now.recorded + now.dropped["spool_full"] == 50
    assert 10 <= now.recorded <= 20
    openmeter.come_back()
    assert delivery.flush(15)

    def kept_again():
        before = delivery.statistics().recorded
        delivery.record(event(99), 1)
        return delivery.statistics().recorded > before

    eventually(kept_again)


def test_a_bound_smaller_than_a_segment_does_not_stop_for_ever(deliver, event, openmeter, eventually):
    delivery = deliver(max_bytes=len(event(10)), segment_bytes=1 << 20)
    delivery.start()
    for number in range(10, 12):
        assert eventually(lambda number=number: delivery.record(event(number), 1) is None)
        eventually(
            lambda number=number: (
                delivery.record(event(number), 1)
                or any(each["id"] == f"e{number}" for each in openmeter.events)
            )
        )


def test_memory_needs_no_folder_and_leaves_none(openmeter, event, ids):
    delivery = Delivery(openmeter.url, "k", directory=None, durability="memory", max_delay_ms=5)
    delivery.start()
    for number in range(1200):
        delivery.record(event(number), 1)
    assert delivery.flush(10)
    assert ids(openmeter.received) == [f"e{number}" for number in range(1200)]
    delivery.close(5)
    delivery.record(event(1), 1)
    assert delivery.statistics().dropped == {"closed": 1}


def test_memory_is_bounded_and_counts_what_is_lost_at_the_stop(event):
    delivery = Delivery(
        "http://127.0.0.1:9", "k", directory=None, durability="memory", max_bytes=2 * len(event(1))
    )
    for number in range(5):
        delivery.record(event(number), 1)
    assert delivery.statistics().dropped == {"spool_full": 3}
    delivery.close(0)
    now = delivery.statistics()
    assert now.dropped == {"spool_full": 3, "closed": 2}
    assert (now.pending_events, now.pending_bytes) == (0, 0)


def test_memory_keeps_the_last_dead_letters_only(openmeter, event):
    openmeter.refuse(lambda each: each["id"] == "e3")
    delivery = Delivery(openmeter.url, "k", directory=None, durability="memory", max_delay_ms=5)
    delivery.start()
    for number in range(5):
        delivery.record(event(number), 1)
    assert delivery.flush(10)
    now = delivery.statistics()
    assert (now.buried, now.dead_letters, now.delivered) == (1, 1, 4)
    delivery.close(5)


def test_a_segment_that_is_sent_is_kept_compressed_and_then_removed(
    deliver, event, openmeter, spool, eventually, clock
):
    delivery = deliver(keep_sent_seconds=3600, segment_seconds=300, clock=clock, wall_clock=clock.wall)
    delivery.start()
    for number in range(5):
        delivery.record(event(number), 1)
    assert delivery.flush(10)
    clock.ahead += 301
    eventually(lambda: list(spool.glob("*/sent/*.gz")))
    assert [line + b"\n" for _, line in sent_events(spool)] == [event(number) for number in range(5)]
    clock.ahead += 3700
    eventually(lambda: not list(spool.glob("*/sent/*.gz")))


def test_keeping_nothing_of_what_was_sent_is_possible(deliver, event, openmeter, spool):
    delivery = deliver(keep_sent_seconds=0)
    delivery.start()
    delivery.record(event(1), 1)
    delivery.close(10)
    assert len(openmeter.events) == 1
    assert list(spool.glob("*/sent/*")) == []


def test_a_spool_that_is_removed_under_a_running_delivery_costs_what_was_in_it_and_no_more(
    deliver, event, openmeter, spool, eventually, ids
):
    openmeter.go_away()
    delivery = deliver()
    delivery.start()
    for number in range(5):
        delivery.record(event(number), 1)
    eventually(lambda: delivery.statistics().state == "retrying")
    shutil.rmtree(spool)
    openmeter.come_back()
    eventually(lambda: list(spool.glob("*/segments/*.lock")))
    delivery.record(event("after"), 1)
    assert delivery.flush(10)
    now = delivery.statistics()
    assert now.pending_events == 0
    assert "eafter" in ids(openmeter.events)
    assert now.delivered + now.dropped.get("removed", 0) == 6
    assert segments(spool) == [path.name for path in spool.glob("*/segments/*.jsonl")]


def test_statistics_count_everything_once(deliver, event, openmeter, spool):
    openmeter.script(answer(500))
    openmeter.refuse(lambda each: each["id"] == "e2")
    delivery = deliver(batch_size=10)
    delivery.start()
    for number in range(10):
        delivery.record(event(number), 1)
    assert delivery.flush(10)
    now = delivery.statistics()
    assert (now.recorded, now.delivered, now.buried, now.pending_events, now.pending_bytes) == (
        10,
        9,
        1,
        0,
        0,
    )
    assert now.retries == 1
    assert now.splits >= 1
    assert now.batches == sum(request.status == 204 for request in openmeter.requests)
    assert now.spool_bytes >= sum(path.stat().st_size for path in spool.glob("*/segments/*.jsonl"))
    assert len(dead_letters(spool)) == now.dead_letters == 1
    assert repr(delivery) == f"<Delivery {openmeter.url} ok, 0 pending, 9 delivered>"


def test_a_delivery_that_nobody_holds_is_forgotten(tmp_path: Path):
    delivery = Delivery("http://openmeter.test", "k", directory=tmp_path)
    gone = weakref.ref(delivery)
    del delivery
    gc.collect()
    assert gone() is None
