"""A model that notices nothing proves nothing: each part of the rule is broken once, and the model has to see it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from metergate.entitlements.usage.column import CELL, FLOOR, HEAD, LAST, MARKED, MARKED_AT, Column
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.watermark import Watermark


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Host = load("test_ledger_model").Host
LOOSE, FOR_EVER = "more was let in than is left", "something counts for ever"


class SeenAtOnce(Ledger):
    def seen(self):
        return tuple(column.seen(self.now()) for column in self._columns())


class SeenTooEarly(Ledger):
    def seen(self):
        return tuple(column.seen(self.now() - 0.7 * self.visibility) for column in self._columns())


class HeldByOthersOnly(Ledger):
    def take(self, place, reserve, ceiling, own=0.0):
        if self.committed(place) - self._own.numbers[HEAD + CELL * place.number + 1] >= ceiling:
            return None
        self.give_back(place, -1)
        return 1


class OwnColumnOnly(Ledger):
    def _columns(self):
        self._numbers = [self._own_numbers]
        return [self._own]


class NoNewColumns(Ledger):
    def _columns(self):
        return self.folder.columns


class HeirThatDoesNotWait(Ledger):
    def tend(self, *, left_behind):
        return super().tend(left_behind=False)


class DeadTendedTooEarly(Ledger):
    def tend_the_dead(self, mark_unsent):
        super().tend_the_dead(lambda: lambda: True)


class DeadNeverTended(Ledger):
    def tend_the_dead(self, mark_unsent):
        pass


class AcknowledgedAtOnce(Watermark):
    def advance(self, now):
        self.before = now
        return now


class AcknowledgedWhenNoticed(Watermark):
    def advance(self, now):
        before = self.before
        super().advance(now)
        if self.before != before:
            self.before = now
        return self.before


def spends_without_time(column, place, cost, now, seen, spacing):
    column.numbers[HEAD + CELL * place] += cost


def spends_with_a_young_floor(column, place, cost, now, seen, spacing):
    numbers, cell = column.numbers, HEAD + CELL * place
    column._mark(cell, now, numbers[cell], numbers[cell])
    numbers[cell + LAST] = now
    numbers[cell] += cost


def spends_and_moves_an_unseen_mark(column, place, cost, now, seen, spacing):
    numbers, cell = column.numbers, HEAD + CELL * place
    if seen > numbers[cell + LAST]:
        column._mark(cell, now, numbers[cell], numbers[cell])
    elif now - numbers[cell + MARKED_AT] >= spacing:
        column._mark(cell, now, numbers[cell], numbers[cell + MARKED])
    numbers[cell + LAST] = now
    numbers[cell] += cost


def base_of_all(column, place, seen):
    return column.numbers[HEAD + CELL * place]


def base_of_the_mark(column, place, seen):
    numbers, cell = column.numbers, HEAD + CELL * place
    return numbers[cell] if seen > numbers[cell + LAST] else numbers[cell + MARKED]


def base_with_equal_times(column, place, seen):
    numbers, cell = column.numbers, HEAD + CELL * place
    if seen >= numbers[cell + LAST]:
        return numbers[cell]
    return numbers[cell + MARKED] if seen >= numbers[cell + MARKED_AT] else numbers[cell + FLOOR]


def ignored(column, *arguments):
    pass


class BaseTakenAfterTheAnswer(Host):
    @rule(process=st.integers(0, 1), answers=st.booleans())
    def a_worker_asks(self, process, answers):
        worker = self.workers[process]
        if worker is not None and answers and worker.asking is not None:
            worker.answer, worker.asking = (worker.asking, self.base(worker)), None
        elif worker is not None:
            worker.asking = self.balance()


QUICK = [
    (LOOSE, Host, {"ledger": SeenAtOnce}, {}),
    (LOOSE, Host, {"ledger": HeldByOthersOnly}, {}),
    (LOOSE, Host, {"ledger": OwnColumnOnly}, {}),
    (LOOSE, Host, {"watermark": AcknowledgedAtOnce}, {}),
    (LOOSE, Host, {}, {"base": base_of_all}),
    (LOOSE, Host, {}, {"spend": spends_with_a_young_floor}),
    (FOR_EVER, Host, {}, {"publish": ignored}),
]
LONG = [
    (FOR_EVER, Host, {}, {"drop_held": ignored}),
    (LOOSE, Host, {"ledger": SeenTooEarly}, {}),
    (LOOSE, Host, {"ledger": NoNewColumns}, {}),
    (LOOSE, Host, {"ledger": HeirThatDoesNotWait}, {}),
    (LOOSE, Host, {"ledger": DeadTendedTooEarly}, {}),
    (FOR_EVER, Host, {"ledger": DeadNeverTended}, {}),
    (LOOSE, Host, {"watermark": AcknowledgedWhenNoticed}, {}),
    (LOOSE, Host, {}, {"base": base_of_the_mark}),
    (LOOSE, Host, {}, {"base": base_with_equal_times}),
    (LOOSE, Host, {}, {"spend": spends_and_moves_an_unseen_mark}),
    (LOOSE, Host, {}, {"spend": spends_without_time}),
    (LOOSE, BaseTakenAfterTheAnswer, {}, {}),
]


def notices(complaint, host, parts, changes, monkeypatch):
    for name, change in changes.items():
        monkeypatch.setattr(Column, name, change)
    search = settings(
        max_examples=3000,
        stateful_step_count=60,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError, match=complaint):
        run_state_machine_as_test(type("Broken", (host,), parts), settings=search)


def named(broken):
    _, host, parts, changes = broken
    return next((part.__name__ for part in (*parts.values(), *changes.values())), host.__name__)


@pytest.mark.no_cover  # it takes four times as long
@pytest.mark.parametrize("broken", QUICK, ids=named)
def test_a_broken_rule_is_noticed(broken, monkeypatch):
    notices(*broken, monkeypatch)


@pytest.mark.chaos
@pytest.mark.parametrize("broken", LONG, ids=named)
def test_a_rule_that_is_broken_a_little_is_noticed(broken, monkeypatch):
    notices(*broken, monkeypatch)
