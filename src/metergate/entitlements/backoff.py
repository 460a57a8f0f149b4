"""When OpenMeter may be asked again after it failed: for one subject, and for all.

A single subject that fails (a customer whose entitlements make OpenMeter answer 500, a name that a firewall
turns down) must not stop the checks of all others; an OpenMeter that is down must not be hammered by a
hundred thousand subjects. So each failing subject waits on its own, and the *circuit* opens for all when
failures of two different subjects follow each other with no success between, or at once on a 429, which is
about our key. A firewall that turns some names down opens it only when `MOST_BLOCKED` different ones follow
each other. Open, it lets a single request through when its time is up: if that succeeds all is well, if
not it waits longer.

Pure: time and randomness are handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metergate.errors import OpenMeterBlocked, OpenMeterError, OpenMeterThrottled, OpenMeterUnauthorized

FIRST_DELAY = 0.5
"""Seconds after the first failure; doubled with each further one."""

FIRST_DELAY_REFUSED = 5.0
"""The same where our key was refused: nothing changes until an operator acts."""

LONGEST_DELAY = 30.0
MOST_BLOCKED = 8
"""So many subjects in a row that a firewall lets nobody ask for are no whim of it: it turns us down altogether."""

MOST_FAILING = 10_000


@dataclass(slots=True)
class Failing:
    """A subject that could not be asked: how often in a row, and when it may be asked again."""

    failures: int
    until: float


class Backoff:
    """Who may be asked when. ``random`` gives numbers from 0 up to 1."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._subjects: dict[str, Failing] = {}
        self._suspect: str | None = None
        self._blocked: set[str] = set()
        self._opened = 0
        self._until = self._told_until = float("-inf")
        self._probe: str | None = None
        self._last_success = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether OpenMeter as a whole counts as failing."""
        return self._opened > 0

    @property
    def is_failing(self) -> bool:
        """Whether the latest answer was none: what an operator wants to see before a second subject has proved it."""
        return self.is_open or self._suspect is not None

    def blocks(self, subject: str, now: float) -> bool:
        """Whether this subject must not be asked for now."""
        if self._opened and (self._probe is not None or now < self._until):
            return True
        if not self._subjects:
            return False
        failing = self._subjects.get(subject)
        return failing is not None and now < failing.until

    def doubts(self, subject: str) -> bool:
        """Whether a request on its way is not worth waiting for: it began before all began to fail."""
        return self.is_open and self._probe != subject

    def pause(self, now: float) -> float:
        """Seconds until anybody may be asked for; infinite while one tries for all, whose end decides."""
        if not self._opened:
            return 0.0
        return float("inf") if self._probe is not None else max(self._until - now, 0.0)

    def wait(self, subject: str, now: float) -> float:
        """Seconds until this subject may be asked for, as far as is known."""
        failing = self._subjects.get(subject)
        return max(self._until if self._opened else now, failing.until if failing else now) - now

    def begin(self, subject: str) -> None:
        """A request is on its way. With the circuit open it is the one that tries."""
        if self._opened:
            self._probe = subject

    def succeed(self, subject: str, now: float) -> bool:
        """OpenMeter answered. Returns whether this ended a failure of the whole."""
        self._subjects.pop(subject, None)
        self._suspect = None
        self._blocked.clear()
        self._last_success = now
        if not self._opened or now < self._told_until:
            return False  # an answer that was on its way when OpenMeter said to slow down takes nothing back
        self._opened, self._probe = 0, None
        return True

    def fail(self, subject: str, now: float, error: OpenMeterError) -> None:
        """OpenMeter did not."""
        failures = self._note(subject)
        self._subjects[subject] = Failing(failures, now + self._delay(failures, error))
        self._fail_all(subject, now, error)

    def slow(self, subject: str, began: float, now: float, error: OpenMeterError) -> None:
        """A request is still on its way after the longest that anybody waits.

        No sign of a failure of the whole if another subject has got its answer since.
        """
        if self._last_success < began:
            self._fail_all(subject, now, error)
        self.end(subject)

    def end(self, subject: str) -> None:
        """A request is over, however: the next may try."""
        if self._probe == subject:
            self._probe = None

    def _fail_all(self, subject: str, now: float, error: OpenMeterError) -> None:
        throttled = isinstance(error, OpenMeterThrottled)
        if not (self._accuse(subject, error) or self._opened or throttled):
            return
        if not self._opened or now >= self._until:
            # Not for each of the many that were on their way when the first failed.
            self._opened += 1
            self._until = now + self._delay(self._opened, error)
        if throttled:
            self._until = self._told_until = max(self._until, now + self._told(error))

    def _accuse(self, subject: str, error: OpenMeterError) -> bool:
        """Whether this failure and those before, of other subjects, are more than these subjects' own."""
        if isinstance(error, OpenMeterBlocked):
            self._blocked.add(subject)
            enough = len(self._blocked) >= MOST_BLOCKED
            if enough:
                self._blocked.clear()
            return enough
        suspect, self._suspect = self._suspect, subject
        return suspect is not None and suspect != subject

    def _note(self, subject: str) -> int:
        failing = self._subjects.get(subject)
        if failing is None and len(self._subjects) >= MOST_FAILING:
            self._subjects.clear()  # each may then be tried once more, which the circuit bounds
        return failing.failures + 1 if failing else 1

    def _delay(self, failures: int, error: OpenMeterError) -> float:
        refused = isinstance(error, OpenMeterUnauthorized | OpenMeterBlocked)
        first = FIRST_DELAY_REFUSED if refused else FIRST_DELAY
        delay = min(first * 2.0 ** min(failures - 1, 16), LONGEST_DELAY)
        return max(delay * (0.5 + self._random() / 2), self._told(error))

    def _told(self, error: OpenMeterError) -> float:
        """Seconds that OpenMeter said to wait: never less, and not the same for all replicas."""
        told = error.retry_after if isinstance(error, OpenMeterThrottled) else None
        return told * (1 + self._random() / 10) if told else 0.0
