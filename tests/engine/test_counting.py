"""The count of a process: opened once, by whichever process records, tended wherever there is something to say."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from types import SimpleNamespace

import msgspec
import pytest

from metergate.delivery import Delivery
from metergate.engine.counting import Counting
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue
from metergate.testing.faulty import FaultyOpenMeter

CATALOG = Catalog((Feature("calls", "1", "m"),), (Meter("m", "2", "call", "COUNT"),))
BALANCE = FeatureValue("calls", True, balance=10.0, usage=0.0, overage=0.0)
CALL = (SimpleNamespace(type="call", subject="acme", data=None),)


class Source:
    visibility_seconds = None

    async def catalog(self):
        return CATALOG


@pytest.fixture
def openmeter():
    with FaultyOpenMeter() as server:
        yield server


@pytest.fixture
def delivery(openmeter, tmp_path):
    made = Delivery(openmeter.url, "key", directory=tmp_path / "spool", max_delay_ms=1)
    yield made
    made.close(0.0)


@pytest.fixture
def counting(tmp_path, delivery):
    """``counting()`` opens the count; one that knows how calls count."""
    made = []

    def make(folder="usage", visibility=5.0, learn=True, **options):
        path = None if folder is None else tmp_path / folder
        made.append(Counting(path, [delivery], ["calls"], visibility=visibility, **options))
        counted = made[-1].add(Source())
        if learn:
            counted.local.learn(CATALOG)
        return made[-1]

    yield make
    for each in made:
        each.close()


def record(counting, delivery, number=1):
    event = {"specversion": "1.0", "id": f"e{number}", "source": "t", "type": "call", "subject": "acme"}
    with counting.local.lock:
        counting.local.spend(CALL)
        delivery.record(json.dumps(event).encode() + b"\n", 1)


def committed(counting):
    ledger = counting.local.ledger
    return ledger.committed(ledger.place("acme", "calls"))


def wait_until(condition, seconds=20.0):
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        pause.wait(0.005)


def in_child(work):
    """What ``work`` gives in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    said = os.read(reading, 1000)  # not to the end: a process that it has forked may still be there
    os.close(reading)
    return json.loads(said)


# --- what is unsent when the machine starts


def test_what_is_unsent_is_counted_where_the_folder_is_new_and_only_there(counting, delivery, tmp_path):
    first = counting()
    for number in range(3):
        record(first, delivery, number)
    first.close()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "catalog.json").write_bytes(catalog_file())
    assert committed(counting("new", learn=False)) == 3, "as after a start of the machine"
    assert committed(counting("new", learn=False)) == 3, "the next process finds them counted"


def test_a_crash_while_the_unsent_is_counted_leaves_a_folder_that_is_still_new(counting, delivery, tmp_path):
    record(counting(), delivery)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "catalog.json").write_bytes(catalog_file())

    class Crash(BaseException):
        pass

    def crashes():
        yield from lines()
        raise Crash

    lines, delivery.unsent_events = delivery.unsent_events, crashes
    with pytest.raises(Crash):
        counting("new")
    delivery.unsent_events = lines
    assert committed(counting("new", learn=False)) == 1, "neither forgotten nor counted twice"


def catalog_file():
    return msgspec.json.encode(CATALOG)


def test_where_the_folder_cannot_be_written_the_process_counts_for_itself_and_says_so(
    counting, delivery, tmp_path, caplog
):
    (tmp_path / "file").write_text("")
    one = counting("file/usage")
    record(one, delivery)
    assert committed(one) == 1
    assert "counted in each worker process for itself" in caplog.text


# --- tending


def test_on_an_event_loop_it_is_tended_until_any_answer_holds_everything(counting, delivery):
    delivery.start()

    async def scenario():
        one = counting(visibility=0.2)
        record(one, delivery)
        place = one.local.ledger.place("acme", "calls")
        assert not one.local.ledger.is_settled(place)
        assert one._tending._timer is not None
        await asyncio.to_thread(wait_until, lambda: one.local.ledger.is_settled(place))
        await asyncio.to_thread(wait_until, lambda: one._tending._timer is None)
        assert one._tending._thread is None

    asyncio.run(scenario())


def test_without_an_event_loop_a_thread_tends_it_and_ends_when_there_is_nothing_more_to_say(
    counting, delivery
):
    delivery.start()
    one = counting(visibility=0.2)
    record(one, delivery)
    place = one.local.ledger.place("acme", "calls")
    assert one._tending._thread.is_alive()
    wait_until(lambda: one.local.ledger.is_settled(place))
    wait_until(lambda: one._tending._thread is None)
    record(one, delivery, 2)
    assert one._tending._thread.is_alive(), "and begins again with the next event"


def test_once_closed_nobody_tends_it_and_its_column_is_free(counting, delivery):
    one = counting()
    record(one, delivery)
    thread = one._tending._thread
    one.close()
    thread.join(20)
    assert not thread.is_alive()
    assert counting().local.ledger.folder.own == 0


def test_many_threads_take_what_there_is_and_not_one_more(counting, delivery):
    one = counting()
    ceilings = one.local.ceilings(one.local.ask("acme"), [BALANCE])
    ready, taken = threading.Barrier(8), []

    def take():
        ready.wait()
        for _ in range(200):
            hold = one.local.take(ceilings, ("calls",), {})
            if hasattr(hold, "release"):
                record(one, delivery)
                hold.release()
                taken.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), committed(one)) == (10, 10)


# --- a fork


@pytest.mark.parametrize("folder", ["usage", None])
def test_a_forked_process_counts_in_a_column_of_its_own_and_leaves_its_parent_s_alone(
    counting, delivery, folder
):
    parent = counting(folder)
    record(parent, delivery)
    ceilings = parent.local.ceilings(parent.local.ask("acme"), [BALANCE])
    hold = parent.local.take(ceilings, ("calls",), {})

    def work():
        hold.release()  # of the parent's request
        for number in range(2):
            record(parent, delivery, number)
        ledger = parent.local.ledger
        return [ledger.folder.own, committed(parent)]

    own, seen = in_child(work)
    assert (own, seen) == ((1, 4) if folder else (0, 3)), "in memory each process counts for itself"
    assert committed(parent) == (4 if folder else 2), (
        "its own event, what it holds, and what the child recorded"
    )
    hold.release()
    assert committed(parent) == (3 if folder else 1)


def test_a_child_that_ends_leaves_its_parent_s_column_locked(counting, delivery):
    parent = counting()
    assert in_child(lambda: [record(parent, delivery), parent.close()]) == [None, None]
    assert counting().local.ledger.folder.own == 1, "free is the child's"


def test_a_child_that_neither_decides_nor_records_takes_no_column(counting):
    parent = counting()
    assert in_child(lambda: threading.active_count()) == 1
    assert parent.local.ledger.folder.places.columns == 1


def test_a_parent_that_ends_first_leaves_its_column_to_others_and_not_to_its_child(counting, delivery):
    """The child must not keep the lock of a file that it has inherited."""
    go_on, waiting = os.pipe()
    done, said = os.pipe()

    def parent():
        one = counting()
        child = os.fork()
        if not child:
            os.read(go_on, 1)
            record(one, delivery)
            os.write(said, json.dumps([one.local.ledger.folder.own, committed(one)]).encode())
            os._exit(0)
        record(one, delivery)
        return one.local.ledger.folder.own

    assert in_child(parent) == 0
    heir = counting()
    os.write(waiting, b"g")  # before anything can fail: the child waits for it
    assert json.loads(os.read(done, 100)) == [1, 2]
    assert (heir.local.ledger.folder.own, committed(heir)) == (0, 2)
    for each in (go_on, waiting, done, said):
        os.close(each)
