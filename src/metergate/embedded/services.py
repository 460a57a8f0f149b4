"""What the routes work with: the opened stores and what was handed in from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from metergate.embedded.domain.entitlements import Entitlement
from metergate.embedded.domain.moments import Clock
from metergate.embedded.store.catalog import Catalog
from metergate.embedded.store.database import Database
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.listing import EventList
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.usage import MeterUsage


class Customers(Protocol):
    """Who a subject's usage belongs to; the customers' store implements it (usage attribution: key, then
    subject keys).
    """

    async def subjects_of(self, ids: Iterable[str]) -> Mapping[str, frozenset[str]]:
        """For each known customer id: the subjects (customer key and subject keys) attributed to it."""
        ...

    async def customers_of(self, subjects: Iterable[str]) -> Mapping[str, str]:
        """For each subject that belongs to a customer: the customer's id."""
        ...

    async def display_names_of(self, subjects: Iterable[str]) -> Mapping[str, str]:
        """For each subject that was made known: its display name, empty when it has none."""
        ...


class NoCustomers:
    """The directory of a server without customers."""

    async def subjects_of(self, ids: Iterable[str]) -> Mapping[str, frozenset[str]]:
        return {}

    async def customers_of(self, subjects: Iterable[str]) -> Mapping[str, str]:
        return {}

    async def display_names_of(self, subjects: Iterable[str]) -> Mapping[str, str]:
        return {}


class Notifications(Protocol):
    """Who tells others what became of entitlements; ``notifications.notifier`` implements it."""

    def resume(self) -> None:
        """There may be something to do."""
        ...

    def used(self, subjects: Iterable[str]) -> None:
        """These subjects have new events."""
        ...

    def changed(self, entitlement: Entitlement) -> None:
        """It is new, or has a new grant, one less, a new usage period."""
        ...


class NoNotifications:
    """Of a server that tells nobody."""

    def resume(self) -> None:
        return

    def used(self, subjects: Iterable[str]) -> None:
        return

    def changed(self, entitlement: Entitlement) -> None:
        return


@dataclass(slots=True)
class Services:
    """Made once per server by ``server.create_app``; every module's ``routes(services)`` gets it."""

    database: Database
    clock: Clock
    events: EventStore
    listing: EventList
    meters: MeterStore
    usage: MeterUsage
    catalog: Catalog
    customers: Customers = field(default_factory=NoCustomers)
    notifier: Notifications = field(default_factory=NoNotifications)
