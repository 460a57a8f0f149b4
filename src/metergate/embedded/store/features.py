"""Features, and which meters they keep from being deleted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from metergate.embedded.api.problems import Conflict, Invalid, NotFound
from metergate.embedded.domain.features import (
    Feature,
    FeatureInput,
    UnitCost,
    check_feature,
    check_meter,
    make_feature,
)
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.meters import Meter
from metergate.embedded.store.changes import Changes
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.shelf import Shelf

SCHEMA = [
    """
    CREATE TABLE IF NOT EXISTS features (
        id VARCHAR NOT NULL,
        number BIGINT NOT NULL,
        meter_slug VARCHAR,
        archived BOOLEAN NOT NULL,
        document VARCHAR NOT NULL
    )
    """
]
_USERS = """
    SELECT document FROM features
    WHERE meter_slug = ? AND (NOT archived OR id IN (SELECT feature_id FROM entitlements WHERE NOT deleted))
"""


class FeatureStore:
    """Tells the meters' store which of its meters are in use."""

    def __init__(self, database: Database, meters: MeterStore, changes: Changes) -> None:
        self._database = database
        self._meters = meters
        self._changes = changes
        self._features = Shelf(
            "features",
            Feature,
            {
                "meter_slug": lambda item: item.meter_slug,
                "archived": lambda item: item.archived_at is not None,
            },
        )
        self._features.load(database)
        self._keys = {item.key: item.id for item in self.all() if item.archived_at is None}
        meters.use = self

    def find(self, id_or_key: str) -> Feature:
        """The feature with this id, or the active one with this key. Raises NotFound."""
        found = self._features.items.get(id_or_key) or self._features.items.get(self._keys.get(id_or_key, ""))
        if found is None:
            raise NotFound(f"feature not found: {id_or_key}")
        return found

    def all(self) -> list[Feature]:
        """Every feature, archived ones too, in the order they were made."""
        return list(self._features.items.values())

    async def create(self, given: FeatureInput, now: datetime) -> Feature:
        """A new feature. Raises Invalid, NotFound for its meter, Conflict when its key is in use."""
        async with self._changes:
            if wrong := check_feature(given):
                raise Invalid(wrong)
            if given.key in self._keys:
                raise Conflict(f'feature with key "{given.key}" already exists')
            if given.meter_slug:
                meter = self._meters.find(given.meter_slug)
                if wrong := check_meter(given, meter.aggregation, meter.group_by):
                    raise Invalid(wrong)
                given = msgspec.structs.replace(given, meter_slug=meter.slug)
            return await self._save(make_feature(given, new_id(now), now))

    async def price(self, identifier: str, cost: UnitCost | None, now: datetime) -> Feature:
        """The feature with another price of a unit, or none. Raises NotFound."""
        async with self._changes:
            feature = self.find(identifier)
            return await self._save(msgspec.structs.replace(feature, unit_cost=cost, updated_at=now))

    async def archive(self, id_or_key: str, now: datetime) -> None:
        """No new entitlements for it from now on; its key is free. Raises NotFound, Invalid."""
        async with self._changes:
            feature = self.find(id_or_key)
            if feature.archived_at is not None:
                raise Invalid(f"feature {feature.key} is already archived")
            await self._save(msgspec.structs.replace(feature, archived_at=now, updated_at=now))

    def features_of(self, cursor: Cursor, meter: Meter) -> Mapping[str, frozenset[str]]:
        """For each feature that needs this meter: the dimensions its filters name."""
        rows = cursor.execute(_USERS, [meter.slug]).fetchall()
        features = [msgspec.json.decode(row[0], type=Feature) for row in rows]
        return {feature.key: frozenset(feature.filters) for feature in features}

    async def _save(self, feature: Feature) -> Feature:
        def put(cursor: Cursor) -> None:
            self._refuse_deleted_meter(cursor, feature)
            self._features.put(cursor, feature)

        await self._database.write(put)
        self._features.keep(feature)
        if feature.archived_at is None:
            self._keys[feature.key] = feature.id
        else:
            self._keys.pop(feature.key, None)
        return feature

    def _refuse_deleted_meter(self, cursor: Cursor, feature: Feature) -> None:
        """The meter may have been deleted while this write waited; the writer's own view of it decides."""
        if feature.meter_slug is None or feature.archived_at is not None:
            return
        active = "SELECT 1 FROM meters WHERE slug = ? AND deleted_at IS NULL"
        if cursor.execute(active, [feature.meter_slug]).fetchone() is None:
            raise NotFound(f"meter not found: {feature.meter_slug}")
