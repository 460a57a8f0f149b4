"""The local count: what was recorded on this host and cannot be in OpenMeter's answer yet.

The rule (docs/limits.md says why it holds). OpenMeter is asked at a time ``t`` and answers with a balance. Of
what this host has recorded, that balance surely holds what OpenMeter had acknowledged ``visibility`` seconds
before ``t``: the *base*. Everything else counts here. So, later,

    left = balance - (recorded - base) - held

where ``held`` is what the requests hold that were let in and have not ended. ``recorded`` and ``held`` of all
processes of the host are read at that moment; the base is fixed before OpenMeter is asked. Whatever cannot be
known counts twice, never not at all: an answer may come out too strict for as long as ``visibility``, and
never too loose.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from metergate.entitlements.usage.column import CELL, HEAD, HELD, NEVER, RECENT, Column
from metergate.entitlements.usage.folder import Folder, own_memory
from metergate.entitlements.usage.places import COLUMNS, Place
from metergate.entitlements.usage.watermark import Watermark

IDLE_SECONDS = 600.0
"""A place that nobody used for so long may be given to somebody else once all are taken."""
_STEPS = 16
"""Parts of ``visibility`` in which it is known what was acknowledged when; none shorter than `_SHORTEST`."""
_SHORTEST = 0.03
MOST = 2.0**46
"""What one event counts for, or one request holds, at most: sums stay exact far beyond."""


class Ledger:
    """The count of one OpenMeter on this host, and this process's part in it.

    Whoever calls it holds ``lock``, and who records holds it until what was counted is written, too: then nothing
    is between the two when `tend` looks.
    """

    def __init__(
        self, folder: Folder, watermark: Watermark, clock: Callable[[], float], *, visibility: float
    ) -> None:
        """
        Args:
            folder: where the processes of the host meet.
            watermark: of what this process records.
            clock: seconds, the same in all processes of the host.
            visibility: seconds after which OpenMeter's answers hold what it acknowledged; also how far its
                clock may be behind ours.
        """
        self.folder = folder
        self.lock = threading.RLock()
        self.visibility = visibility
        self._watermark = watermark
        self._clock = clock
        self._own = folder.columns[folder.own]
        self._own_numbers = self._own.numbers
        self._numbers = [column.numbers for column in folder.columns]
        self._words = folder.places.words
        self._generations = folder.places.generations
        self._seen = NEVER
        self._spent_at = clock()
        self._inherits = True
        self._left_behind: dict[int, Callable[[], bool]] = {}
        self._fence = threading.Lock()

    def abandon(self) -> None:
        """In a forked child: the column is the parent's. What is still given back by way of this goes nowhere."""
        self._own_numbers = own_memory(self._own_numbers.nbytes).cast("d")
        self._own = Column(self._own_numbers)

    # --- recording

    def spend(self, place: Place, cost: float) -> None:
        """Count what is about to be recorded. Before the event is written anywhere."""
        if cost > 0:
            self._spent_at = now = self._clock()
            self._own.spend(place.number, min(cost, MOST), now, self._seen, self._spacing())

    def reach(self, place: Place, level: float) -> None:
        """Count a level that is about to be recorded: a value that does not add to others."""
        self._spent_at = now = self._clock()
        self._own.reach(place.number, level, now, self._seen, self._spacing())

    def now(self) -> float:
        """The time by which everything is counted."""
        return self._clock()

    def has_seen(self, then: float) -> bool:
        """Whether what this process recorded then is in every answer asked for from now on."""
        return self._seen > then

    def give_back(self, place: Place, amount: float) -> None:
        """A request has ended that held this."""
        numbers, cell = self._own_numbers, HEAD + CELL * place[0] + HELD
        left = numbers[cell] - amount
        if left < 0.0:  # cheaper than max()
            left = 0.0
        numbers[cell] = left

    # --- deciding

    def committed(self, place: Place) -> float:
        """What all processes have recorded and hold, as of now."""
        return sum(column.committed(place.number) for column in self._columns())

    def level(self, place: Place, seen: tuple[float, ...]) -> float:
        """The highest level that was recorded and may be missing in the answer that these times belong to."""
        levels = (
            column.level(place.number, seen[index] if index < len(seen) else NEVER)
            for index, column in enumerate(self._columns())
        )
        return max(levels)

    def take(self, place: Place, reserve: float | None, ceiling: float, own: float = 0.0) -> float | None:
        """Hold what a request may cost, if there is enough; what is held then, else None.

        Args:
            reserve: to be held, and to be left whole. None: what the last event here cost, or 1; then it is enough
                that anything is left.
            ceiling: a balance and its base together.
            own: what the same request holds of it already; then it holds what is more.

        First it holds and then it looks, so of two processes that want the last unit at the same time at least one sees
        the other. None, too, where the place belongs to somebody else by now.
        """
        number, generation = place
        if self._generations[number] != generation:
            return None
        numbers = self._own_numbers
        cell = HEAD + CELL * number
        more = (reserve or numbers[cell + RECENT] or 1.0) - own
        if more < 0.0:
            more = 0.0
        elif more > MOST:
            more = MOST
        numbers[cell + HELD] += more
        with self._fence:  # the processor, too, has to write before it reads
            pass
        if self._words[COLUMNS] != len(self._numbers):
            self._columns()
        committed = 0.0
        for each in self._numbers:
            committed += each[cell] + each[cell + HELD]
        if (committed - own - more < ceiling) if reserve is None else (committed <= ceiling):
            return more
        self.give_back(place, more)
        return None

    def is_current(self, place: Place) -> bool:
        """Whether the place still belongs to whom it was given."""
        return self._generations[place.number] == place.generation

    # --- asking

    def seen(self) -> tuple[float, ...]:
        """For each column: all that was recorded earlier is in any answer that is asked for from now on."""
        until = self._clock() - self.visibility
        return tuple(column.seen(until) for column in self._columns())

    def base(self, place: Place, seen: tuple[float, ...]) -> float:
        """What an answer surely holds of what was recorded here, by what `seen` gave before it was asked for."""
        columns = zip(self.folder.columns, seen, strict=False)
        return sum(column.base(place.number, before) for column, before in columns)

    def is_settled(self, place: Place) -> bool:
        """Whether an answer that is asked for from now on holds all that was recorded here."""
        columns = zip(self._columns(), self.seen(), strict=True)
        return all(column.is_settled(place.number, before) for column, before in columns)

    def is_quiet(self, place: Place) -> bool:
        """The same, and whether nothing is held."""
        return self.is_settled(place) and self.committed(place) == self.spent(place)

    def spent(self, place: Place) -> float:
        """What all processes have recorded."""
        return sum(column.numbers[HEAD + CELL * place.number] for column in self._columns())

    def rise_to(self, place: Place, amount: float) -> None:
        """At least this much may be used by now, counted as `spent` is, though OpenMeter's answers are early."""
        if self.is_current(place):
            self.folder.places.bounds.rise_to(place.number, amount)

    def place(self, subject: str, feature: str) -> Place | None:
        """The place of this feature of this subject; None where there is no room for another."""
        place = self.folder.places.find(subject, feature)
        is_new = place is None
        if place is None:
            place = self.folder.places.add(subject, feature, self._idle)
        if place is None or not self.folder.make_room(place.number):
            return None
        if is_new:
            for column in self._columns():
                column.forget_recent(place.number)
        return place

    def _spacing(self) -> float:
        return max(self.visibility / _STEPS, _SHORTEST)

    def _columns(self) -> list[Column]:
        """Those of all processes, also of one that started just now."""
        if self._words[COLUMNS] != len(self._numbers):
            self.folder.refresh()
            self._numbers = [column.numbers for column in self.folder.columns]
        return self.folder.columns

    def _idle(self) -> Callable[[int], bool]:
        """Whether a place may be given to somebody else, as of now."""
        since, seen = self._clock() - IDLE_SECONDS, self.seen()
        columns = list(zip(self._columns(), seen, strict=True))
        return lambda number: all(column.is_idle(number, since, before) for column, before in columns)

    # --- what OpenMeter has acknowledged

    def tend(self, *, left_behind: bool) -> bool:
        """Say how far OpenMeter has come. Some times a second, until nothing more is to be said.

        Args:
            left_behind: there are events still to be sent of a process that is dead. They may be what was
                counted in the column that we took over; so nothing is said until they are sent.

        Returns:
            Whether to come again; not once any answer holds all that this process has recorded.
        """
        with self.lock:
            now = self._clock()
            before = self._watermark.advance(now)
            self._inherits = self._inherits and left_behind
            if self._inherits:
                return True
            self._own.publish(now, before, self._spacing())
            self._seen = self._own.seen(now - self.visibility)
            return self._seen <= self._spent_at

    def tend_the_dead(self, mark_unsent: Callable[[], Callable[[], bool]]) -> None:
        """The same for columns whose process is dead and that nobody took over; every second or so.

        ``mark_unsent`` asks whether all is settled that is unsent at the time of the call, now and when the
        question is repeated. It is called when it is sure that such a process is dead.
        """
        for number, column in enumerate(self._columns()):
            with self.lock, self.folder.borrowed(number) as dead:
                if not dead:
                    self._left_behind.pop(number, None)
                    continue
                if number not in self._left_behind:
                    column.drop_held(len(self.folder.places))
                    self._left_behind[number] = mark_unsent()
                if self._left_behind[number]():
                    now = self._clock()
                    column.publish(now, now, self._spacing())
