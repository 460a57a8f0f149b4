"""The secret that portal tokens are signed with: made when it is first needed, and kept with the data."""

from __future__ import annotations

import secrets

from metergate.embedded.store.database import Cursor, Database

SCHEMA = ["CREATE TABLE IF NOT EXISTS portal (secret VARCHAR NOT NULL)"]
_BYTES = 32


class PortalSecret:
    """One per folder: a token holds over restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret: str | None = None

    async def get(self) -> str:
        """The secret. It is told to nobody."""
        if self._secret is None:
            self._secret = await self._database.write(_read_or_make)
        return self._secret


def _read_or_make(cursor: Cursor) -> str:
    row = cursor.execute("SELECT secret FROM portal").fetchone()
    if row is not None:
        return str(row[0])
    made = secrets.token_urlsafe(_BYTES)
    cursor.execute("INSERT INTO portal VALUES (?)", [made])
    return made
