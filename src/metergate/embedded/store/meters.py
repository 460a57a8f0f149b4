"""The meters. Kept in the database and all of them in memory too: there are few, and every query needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import msgspec

from metergate.embedded.api.problems import Conflict, NotFound
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.moments import from_database, to_database
from metergate.embedded.store.database import Cursor, Database, Row

SCHEMA = [
    """
    CREATE TABLE IF NOT EXISTS meters (
        id VARCHAR NOT NULL,
        slug VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        description VARCHAR,
        aggregation VARCHAR NOT NULL,
        event_type VARCHAR NOT NULL,
        event_from TIMESTAMP,
        value_property VARCHAR,
        group_by VARCHAR NOT NULL,      -- JSON object
        metadata VARCHAR,               -- JSON object
        created_at TIMESTAMP NOT NULL,
        updated_at TIMESTAMP NOT NULL,
        deleted_at TIMESTAMP
    )
    """
]
_COLUMNS = (
    "id, slug, name, description, aggregation, event_type, event_from, value_property, group_by, metadata, "
    "created_at, updated_at, deleted_at"
)


class MeterUse(Protocol):
    """What the features' part says of who uses a meter; asked inside the transaction that would change it."""

    def features_of(self, cursor: Cursor, meter: Meter) -> Mapping[str, frozenset[str]]:
        """For each active feature key on this meter: the dimensions its filters name."""
        ...


class NoUse:
    """Of a server without features."""

    def features_of(self, cursor: Cursor, meter: Meter) -> Mapping[str, frozenset[str]]:
        return {}


class MeterStore:
    """``use`` may be set later, by the part that knows features."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.use: MeterUse = NoUse()
        self._meters: dict[str, Meter] = {}
        database.submit(self._load).result()

    def find(self, id_or_slug: str) -> Meter:
        """The meter with this id or active slug. Raises NotFound."""
        meter = self._meters.get(id_or_slug) or self.by_slug(id_or_slug)
        if meter is None or meter.deleted_at is not None:
            raise NotFound(f"meter not found: {id_or_slug}")
        return meter

    def by_slug(self, slug: str) -> Meter | None:
        """The active meter with this slug."""
        for meter in self._meters.values():
            if meter.slug == slug and meter.deleted_at is None:
                return meter
        return None

    def of_type(self, event_type: str) -> list[Meter]:
        """The active meters that count events of this type."""
        return [meter for meter in self.all() if meter.event_type == event_type]

    def all(self, *, deleted: bool = False) -> list[Meter]:
        """All active meters, with ``deleted`` the deleted ones too, by slug."""
        found = [meter for meter in self._meters.values() if deleted or meter.deleted_at is None]
        return sorted(found, key=lambda meter: meter.slug)

    async def create(self, meter: Meter) -> Meter:
        """Keep a new meter. Raises Conflict when the slug is taken."""

        def insert(cursor: Cursor) -> None:
            taken = "SELECT 1 FROM meters WHERE slug = ? AND deleted_at IS NULL"
            if cursor.execute(taken, [meter.slug]).fetchone():
                raise Conflict(f"meter with slug {meter.slug} already exists")
            cursor.execute(f"INSERT INTO meters VALUES ({', '.join('?' * 13)})", _to_row(meter))  # noqa: S608

        await self._database.write(insert)
        self._meters[meter.id] = meter
        return meter

    async def update(self, meter: Meter) -> Meter:
        """Keep the changed name, description, dimensions and metadata.

        Raises Conflict when a dimension is gone that a feature filters by.
        """

        def change(cursor: Cursor) -> None:
            for feature, dimensions in self.use.features_of(cursor, meter).items():
                if gone := sorted(dimensions - meter.group_by.keys()):
                    raise Conflict(f"meter group by {gone[0]} is used by the feature {feature}")
            cursor.execute(
                "UPDATE meters SET name = ?, description = ?, group_by = ?, metadata = ?, updated_at = ? WHERE id = ?",
                [
                    meter.name,
                    meter.description,
                    _json(meter.group_by),
                    _json(meter.metadata),
                    to_database(meter.updated_at),
                    meter.id,
                ],
            )

        await self._database.write(change)
        self._meters[meter.id] = meter
        return meter

    async def delete(self, meter: Meter, now: datetime) -> None:
        """Mark the meter as deleted; its slug is free again. Raises Conflict while a feature uses it."""

        def mark(cursor: Cursor) -> None:
            if features := sorted(self.use.features_of(cursor, meter)):
                raise Conflict(f"meter {meter.slug} is used by the feature {features[0]}")
            cursor.execute("UPDATE meters SET deleted_at = ? WHERE id = ?", [to_database(now), meter.id])

        await self._database.write(mark)
        self._meters[meter.id] = replace(meter, deleted_at=now)

    def _load(self, cursor: Cursor) -> None:
        rows = cursor.execute(f"SELECT {_COLUMNS} FROM meters").fetchall()  # noqa: S608 - a constant
        self._meters = {row[0]: _from_row(row) for row in rows}


def _json(value: Mapping[str, str] | None) -> str | None:
    return None if value is None else msgspec.json.encode(dict(value)).decode()


def _to_row(meter: Meter) -> list[Any]:
    return [
        meter.id,
        meter.slug,
        meter.name,
        meter.description,
        meter.aggregation,
        meter.event_type,
        None if meter.event_from is None else to_database(meter.event_from),
        meter.value_property,
        _json(meter.group_by),
        _json(meter.metadata),
        to_database(meter.created_at),
        to_database(meter.updated_at),
        None if meter.deleted_at is None else to_database(meter.deleted_at),
    ]


def _from_row(row: Row) -> Meter:
    return Meter(
        id=row[0],
        slug=row[1],
        name=row[2],
        description=row[3],
        aggregation=Aggregation(row[4]),
        event_type=row[5],
        event_from=None if row[6] is None else from_database(row[6]),
        value_property=row[7],
        group_by=msgspec.json.decode(row[8], type=dict[str, str]),
        metadata=None if row[9] is None else msgspec.json.decode(row[9], type=dict[str, str]),
        created_at=from_database(row[10]),
        updated_at=from_database(row[11]),
        deleted_at=None if row[12] is None else from_database(row[12]),
    )
