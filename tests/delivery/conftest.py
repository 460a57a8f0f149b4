"""What the tests of delivery share: events, a faulty OpenMeter, deliveries that are closed, and conditions with deadlines."""

from __future__ import annotations

import json
import threading
import time

import pytest

from metergate.delivery import Delivery
from metergate.testing.faulty import FaultyOpenMeter

DEADLINE = 20.0


class Clock:
    """Real time, plus what a test lets pass at once."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead

    def wall(self):
        return time.time() + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def event():
    """``event(7)`` is the line of an event with id e7."""

    def line(number, **fields):
        document = {
            "specversion": "1.0",
            "id": f"e{number}",
            "source": "test",
            "type": "api-request",
            "subject": "acme",
            "data": {"count": 1},
        }
        return json.dumps(document | fields, separators=(",", ":")).encode() + b"\n"

    return line


@pytest.fixture
def eventually():
    """``eventually(condition)`` returns the condition's first true value, or fails after a deadline."""

    def wait(condition, timeout=DEADLINE):
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while not (value := condition()):
            assert time.monotonic() < deadline, f"never became true: {condition.__code__.co_names}"
            pause.wait(0.005)
        return value

    return wait


@pytest.fixture
def openmeter():
    with FaultyOpenMeter() as server:
        yield server


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def deliver(openmeter, spool):
    """Makes deliveries to ``openmeter`` with short delays; closes them at the end."""
    made = []

    def make(**options):
        options = {"directory": spool, "max_delay_ms": 5, "jitter": lambda: 0.0} | options
        url = options.pop("url", openmeter.url)
        delivery = Delivery(url, options.pop("api_key", "secret-key"), **options)
        made.append(delivery)
        return delivery

    yield make
    openmeter.let_go()
    for delivery in made:
        delivery.close(0.0)


@pytest.fixture
def ids():
    """The ids of events, in order."""
    return lambda events: [each["id"] for each in events]
