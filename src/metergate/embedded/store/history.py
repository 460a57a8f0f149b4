"""How balances came about: the question of ``domain.history``, asked of the meters and answered in one read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal

from metergate.embedded.domain.entitlements import Entitlement
from metergate.embedded.domain.grants import ZERO, Segment
from metergate.embedded.domain.history import ask_history
from metergate.embedded.domain.periods import Period
from metergate.embedded.domain.windows import WindowSize, windows_between
from metergate.embedded.store.balances import Balances
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.grants import GrantStore


@dataclass(frozen=True, slots=True)
class Window:
    """Usage in a window of time, and the balance when it began."""

    period: Period
    usage: Decimal
    balance_at_start: Decimal


class Histories:
    """Made over the same database as the values."""

    def __init__(self, database: Database, balances: Balances, grants: GrantStore) -> None:
        self._database = database
        self._balances = balances
        self._grants = grants

    async def of(
        self, entitlement: Entitlement, start: datetime, end: datetime, size: WindowSize, zone: tzinfo
    ) -> tuple[list[Window], Sequence[Segment]]:
        """The windows and the segments from ``start`` to ``end``, both full minutes.

        Raises:
            ValueError: where there are too many of them, or the entitlement is not metered.
        """
        span, windows = Period(start, end), windows_between(start, end, size, zone)

        def read(cursor: Cursor) -> tuple[list[Window], Sequence[Segment]]:
            usage = self._balances.usage_of(entitlement)
            gauge = usage is not None and usage.gauge
            question = ask_history(
                entitlement,
                self._grants.of(entitlement.id),
                span,
                windows,
                lambda time: self._balances.ledger_before(cursor, entitlement, time),
                gauge=gauge,
                first_part=zone is not UTC,  # in UTC OpenMeter leaves it out
            )
            if usage is None:
                usages, used = [ZERO] * len(question.phases), {}
            else:
                usages = usage.scan(cursor, question.phases)
                used = usage.by_window(cursor, start, end, size, zone)
            history = question.answer(usages)
            pairs = zip(question.windows, history.balances, strict=True)
            shown = [Window(window, used.get(window.start, ZERO), balance) for window, balance in pairs]
            return shown, history.segments

        return await self._database.reading(read)
