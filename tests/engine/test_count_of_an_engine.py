"""The count of the engines of a process: nothing is between counting and writing, and whoever sends is asked."""

from __future__ import annotations

import logging
import shutil
import threading
import time

import pytest

from metergate.engine import Metering
from metergate.engine.counting import Counting
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.testing.faulty import FaultyOpenMeter

CATALOG = Catalog(
    (Feature("calls", "1", "calls"), Feature("tokens", "2", "tokens")),
    (Meter("calls", "3", "call", "COUNT"), Meter("tokens", "4", "call", "SUM", "$.tokens")),
)
CHECKS = {"requiredEntitlements": ["calls"]}


@pytest.fixture
def openmeter():
    with FaultyOpenMeter() as server:
        yield server


def started(bench):
    """What counts for each key, once it has begun and knows how events count."""
    bench.backends.start()
    for local in bench.backends.locals.values():
        local.learn(CATALOG)
    return bench.backends.locals


def record(engine, request_id="r"):
    metering = Metering(request_id)
    metering.arm(engine, "acme")
    metering.settle(200)


def acknowledged(ledger, feature="calls"):
    """How much of what was recorded OpenMeter has acknowledged for sure, as far as the processes say so."""
    place = ledger.place("acme", feature)
    now = ledger.now()
    return ledger.base(place, tuple(column.seen(now) for column in ledger.folder.columns))


def test_between_counting_an_event_and_writing_it_nobody_says_that_all_is_acknowledged(bench, monkeypatch):
    """Nothing is unsent then, so whoever looked would take the event that was counted for one that arrived."""
    engine = bench.engine(**CHECKS)
    (local,) = started(bench).values()
    write, tending = engine.delivery.record, []

    def while_it_is_tended(lines, count):
        tending.append(threading.Thread(target=local.ledger.tend, kwargs={"left_behind": False}))
        tending[0].start()
        tending[0].join(0.2)  # a chance to look, if nothing keeps it from doing so
        return write(lines, count)

    monkeypatch.setattr(engine.delivery, "record", while_it_is_tended)
    record(engine)
    tending[0].join(20)
    assert not tending[0].is_alive()
    place = local.ledger.place("acme", "calls")
    assert (local.ledger.spent(place), acknowledged(local.ledger)) == (1, 0)


def test_what_a_delivery_sends_that_was_made_after_the_start_is_waited_for_too(bench, openmeter):
    bench.engine(apiUrl=openmeter.url, **CHECKS)
    (local,) = started(bench).values()
    late = {"delivery": {"durability": "memory", "maxDelayMs": 3_600_000}}
    record(bench.engine("late", apiUrl=openmeter.url, **late))
    for _ in range(3):
        local.ledger.tend(left_behind=False)
    assert (local.ledger.spent(local.ledger.place("acme", "calls")), acknowledged(local.ledger)) == (1, 0)
    assert bench.backends.flush(20)
    deadline, pause = time.monotonic() + 20, threading.Event()
    while not acknowledged(local.ledger):
        assert time.monotonic() < deadline, "it never came true"
        pause.wait(0.02)
        local.ledger.tend(left_behind=False)
    assert (len(openmeter.events), acknowledged(local.ledger)) == (1, 1)


def test_a_delivery_with_a_key_that_is_new_after_the_start_is_counted_and_waited_for(bench, openmeter):
    bench.engine(apiUrl=openmeter.url, **CHECKS)
    (local,) = started(bench).values()
    late = {"apiKey": "new", "delivery": {"durability": "memory", "maxDelayMs": 3_600_000}}
    record(bench.engine("late", apiUrl=openmeter.url, **late))
    for _ in range(3):
        local.ledger.tend(left_behind=False)
    assert (local.ledger.spent(local.ledger.place("acme", "calls")), acknowledged(local.ledger)) == (1, 0)


def test_a_feature_that_is_watched_with_one_key_is_counted_with_all(bench, openmeter):
    meter = {"type": "call", "data": {"tokens": 30}}
    one, other = (bench.engine(key, apiUrl=openmeter.url, apiKey=key, meter=meter, **CHECKS) for key in "ab")
    locals_ = started(bench)
    (ledger,) = {id(local.ledger): local.ledger for local in locals_.values()}.values()
    place = ledger.place("acme", "tokens")
    record(other, "before")
    assert ledger.spent(place) == 0
    bench.backends.watch(one.policy, "tokens")
    record(other, "after")
    record(one, "with the same")
    assert ledger.spent(place) == 60


def test_files_that_are_removed_while_they_are_in_use_are_said_once(tmp_path, caplog):
    now = [1000.0]
    path = tmp_path / "usage"
    with caplog.at_level(logging.ERROR, "metergate.engine"):
        counting = Counting(path, [], ["calls"], visibility=5, clock=lambda: now[0])
        try:
            for step in range(6):
                with counting.ledger.lock:
                    counting._tend()
                if step == 2:
                    assert caplog.messages == []
                    shutil.rmtree(path)
                now[0] += 2
        finally:
            counting.close()
    (said,) = caplog.messages
    assert f"{path} was removed while it was in use" in said
