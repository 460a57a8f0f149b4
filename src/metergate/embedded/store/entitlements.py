"""Entitlements and their grants."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from datetime import datetime

import msgspec

from metergate.embedded.api.problems import Conflict, Invalid, NotFound
from metergate.embedded.domain.entitlements import Entitlement, EntitlementInput, Refused, make_entitlement
from metergate.embedded.domain.features import Feature
from metergate.embedded.domain.grants import Grant
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.issuance import IssuedGrant
from metergate.embedded.domain.usage_periods import CannotReset, reset_usage
from metergate.embedded.store.changes import Changes
from metergate.embedded.store.customers import CustomerStore
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.features import FeatureStore
from metergate.embedded.store.grants import GrantStore
from metergate.embedded.store.shelf import Shelf

SCHEMA = [
    """
    CREATE TABLE IF NOT EXISTS entitlements (
        id VARCHAR NOT NULL,
        number BIGINT NOT NULL,
        feature_id VARCHAR NOT NULL,
        deleted BOOLEAN NOT NULL,
        document VARCHAR NOT NULL
    )
    """,
]


class EntitlementStore:
    """Every entitlement that was ever made, found by id or by customer and feature."""

    def __init__(
        self,
        database: Database,
        customers: CustomerStore,
        features: FeatureStore,
        issued: GrantStore,
        changes: Changes,
    ) -> None:
        self._database = database
        self._customers = customers
        self._features = features
        self._changes = changes
        self._entitlements = Shelf(
            "entitlements",
            Entitlement,
            {"feature_id": lambda item: item.feature_id, "deleted": lambda item: item.deleted_at is not None},
        )
        self._issued = issued
        self._by_customer: dict[str, dict[str, Entitlement]] = defaultdict(dict)
        self._entitlements.load(database)
        for entitlement in self._entitlements.items.values():
            self._by_customer[entitlement.customer_id][entitlement.id] = entitlement

    def find(self, identifier: str) -> Entitlement:
        """The entitlement with this id. Raises NotFound, for a deleted one too."""
        found = self.ever(identifier)
        if found.deleted_at is not None:
            raise NotFound(f"entitlement not found: {identifier}")
        return found

    def ever(self, identifier: str) -> Entitlement:
        """The same, a deleted one too."""
        found = self._entitlements.items.get(identifier)
        if found is None:
            raise NotFound(f"entitlement not found: {identifier}")
        return found

    def find_of(self, customer_id: str, id_or_feature_key: str, time: datetime) -> Entitlement:
        """The customer's entitlement with this id, or the one to this feature that holds at ``time``.

        Raises NotFound.
        """
        known = self._by_customer.get(customer_id, {})
        by_id = known.get(id_or_feature_key)
        if by_id is not None and (by_id.deleted_at is None or time < by_id.deleted_at):
            return by_id
        for entitlement in known.values():
            if entitlement.feature_key == id_or_feature_key and entitlement.active_at(time):
                return entitlement
        raise NotFound(f"entitlement not found: {id_or_feature_key}")

    def find_ever_of(self, customer_id: str, id_or_feature_key: str, time: datetime) -> Entitlement:
        """The same; where none holds at that time but one holds at another, that one, whose value says so."""
        with contextlib.suppress(NotFound):
            return self.find_of(customer_id, id_or_feature_key, time)
        for entitlement in self._by_customer.get(customer_id, {}).values():
            if entitlement.feature_key == id_or_feature_key and entitlement.deleted_at is None:
                return entitlement
        raise NotFound(f"entitlement not found: {id_or_feature_key}")

    def of_customer(self, customer_id: str, time: datetime) -> list[Entitlement]:
        """Those that hold at ``time``."""
        known = self._by_customer.get(customer_id, {}).values()
        return [entitlement for entitlement in known if entitlement.active_at(time)]

    def ever_of_customer(self, customer_id: str) -> list[Entitlement]:
        """All the customer ever had, deleted ones too, in the order they were made."""
        return list(self._by_customer.get(customer_id, {}).values())

    def all(self) -> list[Entitlement]:
        """Every one, deleted ones too, in the order they were made."""
        return list(self._entitlements.items.values())

    def grants(self, identifier: str) -> tuple[Grant, ...]:
        """The grants of the entitlement with this id."""
        return self._issued.of(identifier)

    async def create(self, customer_id: str, given: EntitlementInput, now: datetime) -> Entitlement:
        """A new entitlement with its first grants.

        Raises Invalid, NotFound for its feature, Conflict when the customer has one to that feature.
        """
        async with self._changes.of([customer_id]):
            customer = self._customers.find_active(customer_id)
            feature = self._feature(given)
            self._refuse_second(customer.id, feature, now)
            entitlement, issued = _make(given, feature, customer.id, now)
            return await self._save(entitlement, issued)

    async def override(self, replaced: Entitlement, given: EntitlementInput, now: datetime) -> Entitlement:
        """A new entitlement to the same feature; the one it takes the place of ends now.

        Raises Invalid where that one has ended already or is to another feature.
        """
        async with self._changes:
            old = self.find(replaced.id)
            customer = self._customers.find_active(old.customer_id)
            if not old.active_at(now):
                raise Invalid(f"entitlement {old.id} is not active, so it cannot be overridden")
            feature = self._feature(given)
            if feature.key != old.feature_key:
                raise Invalid("old and new entitlements belong to different features")
            new, issued = _make(given, feature, customer.id, now)
            return await self._save(new, issued, msgspec.structs.replace(old, active_to=now, updated_at=now))

    async def reset(
        self, identifier: str, at: datetime, now: datetime, *, retain_anchor: bool, preserve: bool | None
    ) -> Entitlement:
        """Begin a new usage period ``at`` a time that is not in the future. Raises Invalid, NotFound."""
        async with self._changes:
            old = self.find(identifier)
            try:
                new = reset_usage(old, at, now, retain_anchor=retain_anchor, preserve=preserve)
            except CannotReset as exception:
                raise Invalid(str(exception)) from exception
            return await self._save(new, ())

    async def delete(self, identifier: str, now: datetime) -> None:
        """It holds no longer from now on. Raises NotFound."""
        async with self._changes:
            entitlement = self.find(identifier)
            await self._save(msgspec.structs.replace(entitlement, deleted_at=now, updated_at=now), ())

    def _feature(self, given: EntitlementInput) -> Feature:
        wanted = given.feature_id or given.feature_key
        if not wanted:
            raise Invalid("either featureId or featureKey is required")
        return self._features.find(wanted)

    def _refuse_second(self, customer_id: str, feature: Feature, now: datetime) -> None:
        for other in self._by_customer.get(customer_id, {}).values():
            ended = other.deleted_at is not None or (other.active_to is not None and other.active_to <= now)
            if other.feature_key == feature.key and not ended:
                raise Conflict(
                    f"entitlement with id {other.id} already exists for feature {feature.key}"
                    f" and customer {customer_id}",
                    conflictingEntityId=other.id,
                )

    async def _save(
        self, entitlement: Entitlement, issued: tuple[IssuedGrant, ...], *beside: Entitlement
    ) -> Entitlement:
        """Write them all at once; the first is returned."""
        changed = (entitlement, *beside)

        def put(cursor: Cursor) -> None:
            for each in changed:
                self._entitlements.put(cursor, each)
            for grant in issued:
                self._issued.put(cursor, grant)

        await self._database.write(put)
        for each in changed:
            self._entitlements.keep(each)
            self._by_customer[each.customer_id][each.id] = each
        for grant in issued:
            self._issued.keep(grant)
        return entitlement


def _make(
    given: EntitlementInput, feature: Feature, customer_id: str, now: datetime
) -> tuple[Entitlement, tuple[IssuedGrant, ...]]:
    try:
        return make_entitlement(given, feature, customer_id, now, lambda: new_id(now))
    except Refused as exception:
        raise Invalid(str(exception)) from exception
