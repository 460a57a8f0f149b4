"""The grants of entitlements: issued once, voided at most once, never changed otherwise."""

from __future__ import annotations

from datetime import datetime

from metergate.embedded.api.problems import Invalid, NotFound
from metergate.embedded.domain.entitlements import Entitlement
from metergate.embedded.domain.grants import Grant
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.issuance import GrantInput, IssuedGrant, issue, refuse_before_period, void
from metergate.embedded.domain.usage_periods import usage_period_at
from metergate.embedded.store.changes import Changes
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.shelf import Shelf

SCHEMA = [
    "CREATE TABLE IF NOT EXISTS grants (id VARCHAR NOT NULL, number BIGINT NOT NULL, document VARCHAR NOT NULL)"
]


class GrantStore:
    """Every grant that was ever issued, found by its id or by its entitlement's."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes
        self._issued = Shelf("grants", IssuedGrant)
        self._of: dict[str, dict[str, IssuedGrant]] = {}
        self._engine: dict[str, tuple[Grant, ...]] = {}
        self._issued.load(database)
        for issued in self._issued.items.values():
            self._of.setdefault(issued.entitlement_id, {})[issued.id] = issued

    def find(self, identifier: str) -> IssuedGrant:
        """The grant with this id. Raises NotFound."""
        found = self._issued.items.get(identifier)
        if found is None:
            raise NotFound(f"grant not found: {identifier}")
        return found

    def all(self) -> list[IssuedGrant]:
        """Every grant, in the order they were issued."""
        return list(self._issued.items.values())

    def issued(self, entitlement_id: str) -> list[IssuedGrant]:
        """The grants of the entitlement, in the order they were issued."""
        return list(self._of.get(entitlement_id, {}).values())

    def of(self, entitlement_id: str) -> tuple[Grant, ...]:
        """The same as the engine takes them."""
        found = self._engine.get(entitlement_id)
        if found is None:
            found = tuple(issued.grant for issued in self.issued(entitlement_id))
            self._engine[entitlement_id] = found
        return found

    async def create(self, entitlement: Entitlement, given: GrantInput, now: datetime) -> IssuedGrant:
        """A new grant of the entitlement. Raises Invalid."""
        async with self._changes.of([entitlement.id]):
            period = usage_period_at(entitlement, now)
            if entitlement.metering is None or period is None:
                raise Invalid(
                    f"entitlement {entitlement.id} is {entitlement.type}; only metered ones have grants"
                )
            try:
                issued = issue(given, entitlement.id, new_id(now), now)
                refuse_before_period(issued.grant, period.start)
            except ValueError as exception:
                raise Invalid(str(exception)) from exception
            return await self._save(issued)

    async def void(self, identifier: str, entitlement: Entitlement, at: datetime, now: datetime) -> None:
        """It is worth nothing from ``at`` on. Raises NotFound, Invalid."""
        async with self._changes:
            period = usage_period_at(entitlement, now)
            try:
                voided = void(self.find(identifier), at, period.start if period else at, now)
            except ValueError as exception:
                raise Invalid(str(exception)) from exception
            await self._save(voided)

    def put(self, cursor: Cursor, issued: IssuedGrant) -> None:
        """Write the grant, inside a write of the caller; ``keep`` it afterwards."""
        self._issued.put(cursor, issued)

    def keep(self, issued: IssuedGrant) -> None:
        """Have the grant in memory, now that it is on disk."""
        self._issued.keep(issued)
        self._of.setdefault(issued.entitlement_id, {})[issued.id] = issued
        self._engine.pop(issued.entitlement_id, None)

    async def _save(self, issued: IssuedGrant) -> IssuedGrant:
        await self._database.write(lambda cursor: self.put(cursor, issued))
        self.keep(issued)
        return issued
