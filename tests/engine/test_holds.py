"""What is held for a request is given back at every end of it."""

from __future__ import annotations

import pytest

from metergate.engine import Metering


class Held:
    """Stands where a hold is handed in: how often it was given back."""

    def __init__(self):
        self.released = 0

    def release(self):
        self.released += 1


@pytest.mark.parametrize("status", [200, 500])
def test_a_settled_request_holds_nothing_whether_or_not_it_was_metered(bench, status):
    holds = [Held(), Held()]
    metering = Metering("r")
    for hold in holds:
        metering.arm(bench.engine(), "acme", "", hold)
    metering.settle(status)
    assert len(bench.events()) == (2 if status == 200 else 0)
    metering.settle(status)
    metering.release()
    assert [hold.released for hold in holds] == [1, 1]


def test_a_request_that_is_never_settled_gives_back_when_it_is_released(bench):
    hold, metering = Held(), Metering("r")
    metering.arm(bench.engine(), "acme", "", hold)
    metering.release()
    assert hold.released == 1
    assert bench.events() == []


def test_a_failure_to_record_gives_back_all_the_same(bench, monkeypatch):
    hold, metering, engine = Held(), Metering("r"), bench.engine()
    metering.arm(engine, "acme", "", hold)
    monkeypatch.setattr(type(engine), "record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        metering.settle(200)
    assert hold.released == 1
