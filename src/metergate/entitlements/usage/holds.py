"""What an answer of OpenMeter allows by the local count, and what a request takes of it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from metergate.entitlements.usage.costs import Kind
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.places import Place


class Asked(NamedTuple):
    """What was known of a feature before OpenMeter was asked."""

    feature: str
    place: Place
    kind: Kind
    base: float
    seen: tuple[float, ...]


class Ceiling(NamedTuple):
    """How far a feature may be used before OpenMeter has to be asked again.

    A flow: as long as what is recorded and held here stays below ``amount``. A level (``seen`` is there): as
    long as no value recorded since then reaches it. ``early``: what OpenMeter said holds from a later moment on, and
    this is what it said before.
    """

    feature: str
    place: Place
    amount: float
    balance: float
    seen: tuple[float, ...] | None = None
    early: bool = False


class Hold(msgspec.Struct, eq=False):
    """What a request holds until it has ended. ``release`` it, whatever becomes of the request."""

    ledger: Ledger
    """That of the process that holds."""
    parts: list[tuple[Place, float]]

    def __repr__(self) -> str:
        return f"<Hold {[amount for _, amount in self.parts]}>"

    def of(self, ledger: Ledger, place: Place) -> float:
        """What is held there."""
        return sum(amount for held, amount in self.parts if held == place) if ledger is self.ledger else 0.0

    def release(self) -> None:
        """Give back what is held; calling it again does nothing."""
        ledger, parts = self.ledger, self.parts
        with ledger.lock:
            while parts:
                ledger.give_back(*parts.pop())


class UsedUp(NamedTuple):
    """A feature of which nothing is left by the local count: its balance at OpenMeter, and what it lacks."""

    feature: str
    left: float
