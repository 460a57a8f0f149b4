from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from metergate.entitlements.budget import TURNS, Budget, ReadQueue, Urgency


@dataclass(frozen=True)
class Waiting:
    subject: str


def drain(budget, now):
    """How many reads start at once."""
    count = 0
    while budget.take(now):
        budget.spend(now)
        count += 1
    return count


# --- the budget


def test_an_idle_budget_holds_a_small_burst_and_then_one_read_for_each_token():
    budget = Budget(25)
    assert drain(budget, 1000.0) == 5
    assert budget.wait(1000.0) == pytest.approx(0.04)
    assert drain(budget, 1000.0 + 0.039) == 0
    assert drain(budget, 1000.0 + 0.041) == 1
    assert drain(budget, 2000.0) == 5


def test_each_worker_process_has_its_share_and_at_least_a_burst_of_one():
    assert (Budget(100, 4).rate, Budget(100, 4).burst) == (25, 5)
    assert (Budget(25, 50).rate, Budget(25, 50).burst) == (0.5, 1)
    assert drain(Budget(25, 50), 0.0) == 1


def test_of_several_who_share_a_budget_the_highest_rate_counts():
    budget = Budget(25, 2)
    budget.allow(10)
    assert budget.rate == 5
    budget.allow(100)
    budget.allow(50)
    assert (budget.rate, budget.burst) == (50, 10)


def test_the_requests_of_a_read_beyond_its_first_make_the_next_read_wait():
    budget = Budget(10)
    assert budget.take(0.0)
    for _ in range(4):
        budget.spend(0.0)
    assert budget.wait(0.0) == pytest.approx(0.3)


def test_a_read_that_made_no_request_has_paid_for_another():
    budget = Budget(10)
    assert budget.take(0.0)
    assert budget.take(0.0)
    budget.spend(0.0)
    budget.spend(0.0)
    assert budget.wait(0.0) == pytest.approx(0.1)


STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5)), max_size=60)


@given(st.floats(0.5, 500), st.integers(1, 8), STEPS)
def test_in_any_time_no_more_than_the_rate_and_a_burst(rate, workers, steps):
    """Each step: time goes by, then as many reads as may start do, each making that many requests."""
    budget, now, starts, requests = Budget(rate, workers), 0.0, [], []
    for pause, each in steps:
        now += pause
        while len(starts) < 2000 and budget.take(now):
            starts.append(now)
            requests.append(each)
            for _ in range(each):
                budget.spend(now)
    for first, begun in enumerate(starts):
        for last in range(first, len(starts)):
            allowed = budget.rate * (starts[last] - begun) + budget.burst + 1e-6
            assert last - first + 1 <= allowed
            # All but those that the latest read makes beyond its first, which the next one waits for.
            assert sum(requests[first : last + 1]) - (requests[last] - 1) <= allowed


@given(st.floats(0.5, 500), st.floats(0, 1e6), st.integers(0, 50))
def test_a_read_may_start_when_the_wait_is_over(rate, now, taken):
    budget = Budget(rate)
    for _ in range(taken):
        budget.spend(now)
    wait = budget.wait(now)
    assert budget.take(now + wait + 1e-6)
    assert wait == 0 or not Budget.take(budget, now)


# --- the queue


def queue_of(limit=100, **classes):
    queue = ReadQueue(limit)
    for name, subjects in classes.items():
        for subject in subjects.split():
            assert queue.push(Waiting(subject), Urgency[name]) is None
    return queue


def popped(queue, count):
    return "".join(queue.pop().subject for _ in range(count))


def test_the_most_urgent_go_first_and_of_those_who_waited_longest_but_no_class_starves():
    queue = queue_of(STALE="s t", LIMIT="l m n o", UNKNOWN="a b c d e f g h")
    assert popped(queue, 14) == "ablcdmefnsghot"
    assert queue.pop() is None


def test_who_waits_can_become_more_urgent():
    queue = queue_of(STALE="s t", LIMIT="l")
    queue.move("t", Urgency.UNKNOWN)
    queue.move("nobody", Urgency.UNKNOWN)
    assert queue.urgency("t") == Urgency.UNKNOWN
    assert queue.urgency("nobody") is None
    assert popped(queue, 3) == "tls"


def test_a_full_queue_drops_who_waited_longest_in_the_least_urgent_class():
    queue = queue_of(3, STALE="s t", UNKNOWN="a")
    assert queue.push(Waiting("b"), Urgency.UNKNOWN).subject == "s"
    assert queue.push(Waiting("c"), Urgency.LIMIT).subject == "t"
    assert queue.push(Waiting("u"), Urgency.STALE).subject == "u"
    assert queue.push(Waiting("d"), Urgency.UNKNOWN).subject == "c"
    assert queue.push(Waiting("e"), Urgency.UNKNOWN).subject == "a"
    assert (len(queue), queue.dropped) == (3, 5)


def test_those_that_fit_are_found_in_order_and_no_class_hides_another():
    queue = queue_of(UNKNOWN="a", LIMIT="l1 l2 l3 m", STALE="s t")
    fits = lambda waiting: not waiting.subject.startswith("l")  # noqa: E731
    rest = (Urgency.LIMIT, Urgency.STALE)
    assert [each.subject for each in queue.first(fits, rest, 9, 9)] == ["m", "s", "t"]
    assert [each.subject for each in queue.first(fits, rest, 2, 9)] == ["m", "s"]
    assert [each.subject for each in queue.first(fits, rest, 9, 1)] == ["s"]
    queue.push(Waiting("b"), Urgency.UNKNOWN)
    waiting = queue.first(fits, (Urgency.UNKNOWN,), 9, 9)
    assert [each.subject for each in waiting] == ["b", "a"], (
        "of those who wait for an answer the last come first"
    )
    queue.remove("b")
    queue.remove("s")
    assert queue.urgency("s") is None
    assert len(queue) == 6


class QueueMachine(RuleBasedStateMachine):
    """Whoever waits goes within as many turns as a round has for each place in front of them in their class."""

    def __init__(self):
        super().__init__()
        self.queue = ReadQueue(30)
        self.model = {urgency: [] for urgency in Urgency}
        self.turns_left = {}
        self.number = 0

    @rule(urgency=st.sampled_from(Urgency))
    def push(self, urgency):
        self.number += 1
        subject = str(self.number)
        self.model[urgency].append(subject)
        self.turns_left[subject] = len(TURNS) * len(self.model[urgency])
        dropped = self.queue.push(Waiting(subject), urgency)
        if dropped is not None:
            least = max(urgency for urgency, waiting in self.model.items() if waiting)
            assert self.model[least].pop(0) == dropped.subject
            del self.turns_left[dropped.subject]

    @precondition(lambda self: any(self.model.values()))
    @rule()
    def pop(self):
        subject = self.queue.pop().subject
        urgency = next(urgency for urgency, waiting in self.model.items() if subject in waiting)
        assert self.model[urgency].pop(0) == subject
        del self.turns_left[subject]
        for waiting in self.turns_left:
            self.turns_left[waiting] -= 1

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data(), urgency=st.sampled_from(Urgency))
    def become_more_urgent(self, data, urgency):
        current = data.draw(st.sampled_from([each for each in Urgency if self.model[each]]))
        subject = data.draw(st.sampled_from(self.model[current]))
        if urgency >= current:
            return
        self.queue.move(subject, urgency)
        self.model[current].remove(subject)
        self.model[urgency].append(subject)
        self.turns_left[subject] = len(TURNS) * len(self.model[urgency])

    @invariant()
    def each_waits_where_it_was_put_and_none_too_long(self):
        for urgency, waiting in self.model.items():
            assert all(self.queue.urgency(subject) == urgency for subject in waiting)
        assert len(self.queue) == len(self.turns_left) <= 30
        assert all(left > 0 for left in self.turns_left.values())


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40)
