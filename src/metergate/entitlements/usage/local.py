"""Local usage as the decision needs it: for each answer of OpenMeter a ceiling per feature, and what was
recorded and is held against it. The rule itself is in `ledger`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from metergate.entitlements.usage.costs import NONE, Costs, FeatureCost, Kind, read_costs
from metergate.entitlements.usage.holds import Asked, Ceiling, Hold, UsedUp
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.places import Place
from metergate.openmeter.catalog import Catalog
from metergate.openmeter.values import FeatureValue

_log = logging.getLogger("metergate.entitlements")

MOST_REMEMBERED = 50_000


class Recorded(Protocol):
    """An event as far as it is counted here: `metergate.policy.events.RecordedEvent`."""

    @property
    def type(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def data(self) -> Mapping[str, object] | None: ...


@dataclass(frozen=True, slots=True)
class LocalStatistics:
    """``places``: features of subjects that were given one of the places, by all processes of the host. By this
    process: ``evicted``, idle ones whose place went to another; ``crowded_out``, how often something could not be
    counted because no place was free.
    """

    places: int
    evicted: int
    crowded_out: int


class LocalUsage:
    """Counts what this process records, and takes from what is left. On any thread.

    ``watch`` names the features that count; ``learn`` says how. What comes before that is counted then. Who records holds
    `lock` from before `spend` until the events are written.
    """

    def __init__(self, ledger: Ledger, wake: Callable[[], None] = lambda: None) -> None:
        """``wake``: called when something was counted, so that somebody tends the ledger."""
        self.ledger = ledger
        self._wake = wake
        self.crowded_out = 0
        """How often a feature of a subject could not be counted because all places are taken."""
        self._watched: frozenset[str] = frozenset()
        self._catalog: Catalog | None = None
        self._costs: Costs = NONE
        self._known: frozenset[str] = frozenset()
        self._offered: frozenset[str] = frozenset()
        self._lacks = False
        self._said: set[str] = set()
        self._places: dict[tuple[str, str], Place] = {}
        self._values: dict[tuple[Place, str], float] = {}
        self._ending: set[Place] = set()
        """Places whose last answer was early."""
        self._early: deque[Recorded] = deque(maxlen=MOST_REMEMBERED)

    def move_to(self, ledger: Ledger) -> None:
        """Count there from now on: in a forked child."""
        self.ledger = ledger
        self._places.clear()

    def statistics(self) -> LocalStatistics:
        """How much room the count takes, and whom it had none for."""
        with self.lock:
            places = self.ledger.folder.places
            return LocalStatistics(len(places), places.evicted, self.crowded_out)

    @property
    def lock(self) -> threading.RLock:
        """Keeps the threads of this process apart."""
        return self.ledger.lock

    @property
    def lacks(self) -> bool:
        """Whether a feature with a balance turned up that is not in what was learnt."""
        return self._lacks

    @property
    def knows(self) -> bool:
        """Whether it was learnt how events count."""
        return self._catalog is not None

    @property
    def counted(self) -> Collection[str]:
        """The features of which it is known how events count for them."""
        return self._costs.kinds.keys()

    def watch(self, features: Iterable[str]) -> None:
        """Count for these features too."""
        with self.lock:
            more = self._watched | frozenset(features)
            if more != self._watched:
                self._watched = more
                if self._catalog is not None:
                    self.learn(self._catalog)

    def learn(self, catalog: Catalog) -> None:
        """Take how events count from OpenMeter's features and meters; what was counted so far stays."""
        self._catalog = catalog
        self._costs = read_costs(catalog, self._watched)
        self._known = frozenset((*self._costs.kinds, *self._costs.unknown))
        self._offered = frozenset(feature.key for feature in catalog.features)
        self._lacks = False
        for feature, why in self._costs.unknown.items():
            if feature not in self._said:
                self._said.add(feature)
                _log.warning(
                    "feature %s is not counted here: %s. OpenMeter's own answers decide alone", feature, why
                )
        with self.lock:
            early, self._early = self._early, deque(maxlen=MOST_REMEMBERED)
        self.spend(early)

    # --- recording

    def spend(self, events: Iterable[Recorded]) -> None:
        """Count events that are about to be recorded. Before they are written anywhere."""
        with self.ledger.lock:
            if self._catalog is None:
                self._early.extend(events)
                return
            for event in events:
                for cost in self._costs.of(event.type):
                    if cost.is_constant:
                        place = self._place(event.subject, cost.feature, cost.kind)
                        if place is not None:
                            self.ledger.spend(place, 1.0)
                    elif cost.counts(event.data):
                        self._spend_by(cost, event)
                    self._wake()

    def _spend_by(self, cost: FeatureCost, event: Recorded) -> None:
        place = self._place(event.subject, cost.feature, cost.kind)
        if place is None:
            return
        if cost.kind == "flow":
            self.ledger.spend(place, cost.amount(event.data))
        elif cost.kind == "level":
            self.ledger.reach(place, cost.amount(event.data))
        elif (key := cost.key(event.data)) is not None and self._is_new(place, key):
            self.ledger.spend(place, 1.0)

    def _is_new(self, place: Place, key: str) -> bool:
        """Whether a value costs: not while one that was recorded before is counted here, nor at the end of a period, where
        no answer would say that it was none.
        """
        value, now = (place, key), self.ledger.now()
        counted_at = self._values.get(value)
        if counted_at is not None and (place in self._ending or not self.ledger.has_seen(counted_at)):
            return False
        if len(self._values) >= MOST_REMEMBERED:
            self._values.clear()
        self._values[value] = now
        return True

    # --- asking

    def ask(self, subject: str) -> tuple[Asked, ...]:
        """What an answer will surely hold. Call it just before OpenMeter is asked."""
        if not self._costs.kinds:
            return ()
        asked = []
        with self.lock:
            seen = self.ledger.seen()
            for feature, kind in self._costs.kinds.items():
                place = self._place(subject, feature, kind)
                if place is not None:
                    asked.append(Asked(feature, place, kind, self.ledger.base(place, seen), seen))
        return tuple(asked)

    def tells_of_more(
        self, asked: Iterable[Asked], values: Iterable[FeatureValue], but: Collection[str] = ()
    ) -> dict[str, float]:
        """What an answer allows where that is more than all others before: a grant, a reset, a new period."""
        balances = {value.feature: value.balance for value in values}
        bounds = self.ledger.folder.places.bounds
        return {
            one.feature: balance + one.base
            for one in asked
            if one.kind != "level"
            and one.feature not in but
            and (balance := balances.get(one.feature)) is not None
            and bounds.exceeds(one.place.number, balance + one.base)
        }

    def ceilings(
        self, asked: Iterable[Asked], values: Iterable[FeatureValue], early: Collection[str] = ()
    ) -> tuple[Ceiling, ...]:
        """What an answer allows of each feature that has a balance and is counted here.

        Access with nothing left is a soft limit, which nothing uses up. ``early``: features of which the answer tells
        more than holds already; what holds for them is what the answers before have allowed.
        """
        by_feature = {value.feature: value for value in values if value.balance is not None}
        self._lacks = self._lacks or not self._known.issuperset(self._watched.intersection(by_feature))
        ceilings = []
        with self.lock:
            for one in asked:
                value = by_feature.get(one.feature)
                if value is not None and value.balance is not None:
                    ceiling = self._ceiling(one, value, value.balance, early=one.feature in early)
                    if value.has_access and value.balance > 0:
                        ceilings.append(ceiling)
        return tuple(ceilings)

    def least_ceilings(self, asked: Iterable[Asked], features: Iterable[str]) -> tuple[Ceiling, ...] | None:
        """What an answer allows that says of these features that there is access, and not how much is left: as long as
        nothing is recorded or held here that it may lack, so one request at a time.

        None where that may be too much: it is not known how events count, or this much was used up by what the answers
        before have allowed, so that this one tells of something new.
        """
        counted = {one.feature: one for one in asked}
        bounds = self.ledger.folder.places.bounds
        ceilings = []
        for feature in features:
            if feature not in self._watched or feature not in self._offered:
                return None
            one = counted.get(feature)
            if one is None:
                if feature in self._costs.kinds:
                    return None
                continue
            base, seen = (0.0, one.seen) if one.kind == "level" else (one.base, None)
            amount = math.nextafter(base, math.inf)
            if seen is None and not bounds.allow(one.place.number, amount):
                return None
            ceilings.append(Ceiling(feature, one.place, amount, amount - base, seen))
        return tuple(ceilings)

    def _ceiling(self, one: Asked, value: FeatureValue, balance: float, *, early: bool) -> Ceiling:
        """The ceiling of an answer, which is then known to all processes of the host."""
        place = one.place
        if one.kind == "level":
            return Ceiling(one.feature, place, balance + (value.usage or 0.0), balance, one.seen)
        bounds, amount = self.ledger.folder.places.bounds, balance + one.base
        if one.kind == "unique":
            self._note_end(place, early=early)
        if early:
            return Ceiling(one.feature, place, min(bounds.least(place.number), amount), balance, early=True)
        if self.ledger.is_current(place):
            is_new = bounds.exceeds(place.number, amount)
            keep = bounds.begin if is_new else bounds.narrow
            keep(place.number, amount, balance + self.ledger.spent(place))
        return Ceiling(one.feature, place, amount, balance)

    def _note_end(self, place: Place, *, early: bool) -> None:
        if not early or len(self._ending) >= MOST_REMEMBERED:
            self._ending.discard(place)
        else:
            self._ending.add(place)

    # --- deciding

    def take(
        self,
        ceilings: Iterable[Ceiling],
        features: tuple[str, ...],
        reserves: Mapping[str, float],
        beside: Iterable[Hold] = (),
    ) -> Hold | UsedUp:
        """Hold what a request may cost of each feature, or say which has not enough left. Nothing is left either
        where a place has gone to somebody else: OpenMeter has to be asked again.

        ``reserves``: what to hold, and what has to be left, by feature. Of others something has to be left, and
        as much is held as the last event here cost, or 1. ``beside``: what the same request holds already; only
        what is more is held.
        """
        ledger = self.ledger
        parts: list[tuple[Place, float]] = []
        with ledger.lock:
            for ceiling in ceilings:
                feature, place, most, _, seen, _ = ceiling
                if feature not in features:
                    continue
                if seen is None:
                    own = sum(other.of(ledger, place) for other in beside) if beside else 0.0
                    held = ledger.take(place, reserves.get(feature), most, own)
                    if held is not None:
                        parts.append((place, held))
                        continue
                elif ledger.is_current(place) and self.left(ceiling) > 0:
                    continue
                Hold(ledger, parts).release()
                return UsedUp(feature, self.left(ceiling))
        return Hold(ledger, parts)

    def left(self, ceiling: Ceiling) -> float:
        """What is left of a feature as of now: of OpenMeter's balance what was not recorded here, nor is held."""
        with self.lock:
            if ceiling.seen is not None:
                used = self.ledger.level(ceiling.place, ceiling.seen)
            else:
                used = self.ledger.committed(ceiling.place)
        return min(ceiling.amount - used, ceiling.balance)

    def doubts(self, ceilings: Iterable[Ceiling], feature: str) -> bool:
        """Whether the answer of these ceilings may hold more of what was recorded here than is known."""
        with self.lock:
            return any(
                ceiling.amount - ceiling.balance < self.ledger.spent(ceiling.place)
                for ceiling in ceilings
                if ceiling.feature == feature and ceiling.seen is None and not ceiling.early
            )

    def is_settled(self, ceilings: Iterable[Ceiling], feature: str) -> bool:
        """Whether an answer that is asked for from now on holds all that was recorded here of a feature."""
        places = (ceiling.place for ceiling in ceilings if ceiling.feature == feature)
        with self.lock:
            return all(self.ledger.is_settled(place) for place in places)

    def _place(self, subject: str, feature: str, kind: Kind) -> Place | None:
        """Another one for another kind of count: what was counted of the one means nothing for the other."""
        key = subject, feature if kind == "flow" else f"{feature} {kind}"
        place = self._places.get(key)
        if place is not None and self.ledger.is_current(place):
            return place
        place = self.ledger.place(*key)
        if place is None:
            self._crowd_out()
            return None
        if len(self._places) >= MOST_REMEMBERED:
            self._places.clear()
        self._places[key] = place
        return place

    def _crowd_out(self) -> None:
        if not self.crowded_out:
            _log.error(
                "the local count is full: what further subjects use is decided by OpenMeter's answers alone"
            )
        self.crowded_out += 1
