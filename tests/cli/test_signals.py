"""Being asked to stop: at once where that does no harm, remembered elsewhere."""

from __future__ import annotations

import os
import signal

import pytest

from metergate.cli.signals import StopSignals

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_interrupts_where_it_may(number):
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt), signals.interruptible():
            os.kill(os.getpid(), number)
        assert signals.asked


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_comes_too_early_interrupts_as_soon_as_it_may(number):
    reached = []
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        reached.append("went on")
        with pytest.raises(KeyboardInterrupt), signals.interruptible():
            reached.append("not reached")
    assert reached == ["went on"]


def test_later_signals_interrupt_nothing():
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt), signals.interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        for number in NUMBERS:
            os.kill(os.getpid(), number)


def test_what_was_there_before_is_there_again():
    before = [signal.getsignal(number) for number in NUMBERS]
    with StopSignals():
        assert [signal.getsignal(number) for number in NUMBERS] != before
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_what_is_ignored_from_outside_stays_ignored_but_for_sigterm():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals, signals.interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.asked
    finally:
        signal.signal(signal.SIGHUP, before)
