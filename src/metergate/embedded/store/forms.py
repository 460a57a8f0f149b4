"""What a roll-up keeps of events, by how their meter aggregates.

All before a *floor* is one figure; what lies behind it is kept by the minute, so that it can be told for any end
behind the floor. Minutes are full ones since 1970. Of two events in one second the one stored last is the later,
so what is added must have been stored after all that is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from metergate.embedded.domain.grants import ZERO
from metergate.embedded.domain.jsonpath import parse_path
from metergate.embedded.domain.meters import Aggregation, Meter
from metergate.embedded.domain.reading import number_at, text_at
from metergate.embedded.store.statements import Statement, number_value, text_value
from metergate.embedded.store.sums import Units, measured, quotient, read_sum, sum_column, units

Row: TypeAlias = tuple[Any, ...]


class Form(Protocol):
    """One meter's figure of some subjects. ``joins_subjects``: it can be told from the rows of each of them."""

    joins_subjects: bool

    def reading(self, sql: Statement) -> str:
        """What to read of an event: the column ``v`` of those below."""
        ...

    def columns(self, minute: str) -> str:
        """The columns to read, to be grouped by the first; ``minute`` is that of an event, or the one before the floor."""
        ...

    def merge(self, rows: Sequence[Row]) -> None:
        """Take in what these columns gave."""
        ...

    def add(self, minute: int, time: datetime, document: Any) -> None:
        """Take in one event; ``document`` is its data."""
        ...

    def settle(self, floor: int) -> None:
        """Make one figure of all before the floor."""
        ...

    def value(self, end: int) -> Decimal:
        """The figure of all before ``end``, which lies behind the floor."""
        ...

    def __len__(self) -> int: ...


class _Minutes:
    """A figure for each minute, two of them joined by ``join(stored earlier, stored later)``."""

    def __init__(self, join: Callable[[Any, Any], Any]) -> None:
        self._join = join
        self._settled: Any = None
        self._later: dict[int, Any] = {}

    def put(self, minute: int, figure: Any) -> None:
        known = self._later.get(minute)
        self._later[minute] = figure if known is None else self._join(known, figure)

    def settle(self, floor: int) -> None:
        for minute in sorted(minute for minute in self._later if minute < floor):
            figure = self._later.pop(minute)
            self._settled = figure if self._settled is None else self._join(self._settled, figure)

    def before(self, end: int) -> Any:
        figure = self._settled
        for minute in sorted(self._later):
            if minute < end:
                figure = self._later[minute] if figure is None else self._join(figure, self._later[minute])
        return figure

    def __len__(self) -> int:
        return 1 + len(self._later)


class _Figures:
    """What all forms but that of UNIQUE_COUNT have in common. The others say what they keep and how it is joined."""

    joins_subjects = True

    def __init__(self, meter: Meter) -> None:
        self._path = meter.value_property or "$"
        self._steps = parse_path(self._path)
        self._minutes = _Minutes(self._join)

    def reading(self, sql: Statement) -> str:
        return number_value(sql, self._path)

    def columns(self, minute: str) -> str:
        return f"{minute}, {self._aggregates()}"

    def merge(self, rows: Sequence[Row]) -> None:
        for minute, *columns in rows:
            if (figure := self._of_row(*columns)) is not None:
                self._minutes.put(minute, figure)

    def add(self, minute: int, time: datetime, document: Any) -> None:
        value = number_at(document, self._steps)
        if value is not None:
            self._minutes.put(minute, self._of_event(time, value))

    def settle(self, floor: int) -> None:
        self._minutes.settle(floor)

    def value(self, end: int) -> Decimal:
        figure = self._minutes.before(end)
        return ZERO if figure is None else self._shown(figure)

    def __len__(self) -> int:
        return len(self._minutes)

    def _aggregates(self) -> str:
        raise NotImplementedError

    def _of_row(self, value: Any) -> Any:
        """The figure in these columns, None where there was no number."""
        return None if value is None else measured(value)

    def _of_event(self, time: datetime, value: float) -> Any:
        return measured(value)

    def _join(self, earlier: Any, later: Any) -> Any:
        return earlier + later

    def _shown(self, figure: Any) -> Decimal:
        return Decimal(figure)


class Sum(_Figures):
    """SUM, exactly."""

    def _aggregates(self) -> str:
        return sum_column("v")

    def _of_row(self, value: Any) -> Units | None:
        added = read_sum(value)
        return None if added is None else added[0]

    def _of_event(self, time: datetime, value: float) -> Units:
        return units(value)

    def _shown(self, figure: Units) -> Decimal:
        return quotient(figure)


class Count(_Figures):
    """COUNT, which reads nothing of the event."""

    def reading(self, sql: Statement) -> str:
        return "NULL"

    def columns(self, minute: str) -> str:
        return f"{minute}, count(*)"

    def add(self, minute: int, time: datetime, document: Any) -> None:
        self._minutes.put(minute, 1)

    def _of_row(self, value: int) -> int:
        return value


class Least(_Figures):
    """MIN."""

    def _aggregates(self) -> str:
        return "min(v)"

    def _join(self, earlier: Decimal, later: Decimal) -> Decimal:
        return min(earlier, later)


class Greatest(_Figures):
    """MAX."""

    def _aggregates(self) -> str:
        return "max(v)"

    def _join(self, earlier: Decimal, later: Decimal) -> Decimal:
        return max(earlier, later)


class Mean(_Figures):
    """AVG: the sum and of how many, exactly."""

    def _aggregates(self) -> str:
        return sum_column("v")

    def _of_row(self, value: Any) -> tuple[Units, int] | None:
        return read_sum(value)

    def _of_event(self, time: datetime, value: float) -> tuple[Units, int]:
        return units(value), 1

    def _join(self, earlier: tuple[Units, int], later: tuple[Units, int]) -> tuple[Units, int]:
        return earlier[0] + later[0], earlier[1] + later[1]

    def _shown(self, figure: tuple[Units, int]) -> Decimal:
        return quotient(*figure)


class Level(_Figures):
    """LATEST: the last value and its time."""

    joins_subjects = False  # of events of one second the last one stored counts, whosever it is

    def _aggregates(self) -> str:
        return "{'value': arg_max(v, (time, seq)), 'time': max(time) FILTER (WHERE v IS NOT NULL)}"

    def _of_row(self, value: Any) -> tuple[datetime, Decimal] | None:
        return None if value["value"] is None else (value["time"], measured(value["value"]))

    def _of_event(self, time: datetime, value: float) -> tuple[datetime, Decimal]:
        return time, measured(value)

    def _join(self, earlier: tuple[datetime, Decimal], later: tuple[datetime, Decimal]) -> Any:
        return later if later[0] >= earlier[0] else earlier

    def _shown(self, figure: tuple[datetime, Decimal]) -> Decimal:
        return figure[1]


class Firsts:
    """UNIQUE_COUNT: the values that were there, and when each other value comes first."""

    joins_subjects = True

    def __init__(self, meter: Meter) -> None:
        self._path = meter.value_property or "$"
        self._steps = parse_path(self._path)
        self._settled: set[str] = set()
        self._later: dict[str, int] = {}

    def reading(self, sql: Statement) -> str:
        return f"nullif({text_value(sql, self._path)}, 'null')"

    def columns(self, minute: str) -> str:
        return f"v, min({minute})"

    def merge(self, rows: Sequence[Row]) -> None:
        for value, minute in rows:
            self._put(value, minute)

    def add(self, minute: int, time: datetime, document: Any) -> None:
        value = text_at(document, self._steps)
        self._put(None if value == "null" else value, minute)

    def settle(self, floor: int) -> None:
        for value in [value for value, minute in self._later.items() if minute < floor]:
            self._settled.add(value)
            del self._later[value]

    def value(self, end: int) -> Decimal:
        return Decimal(len(self._settled) + sum(minute < end for minute in self._later.values()))

    def __len__(self) -> int:
        return 1 + len(self._settled) + len(self._later)

    def _put(self, value: str | None, minute: int) -> None:
        if value is not None and value not in self._settled:
            self._later[value] = min(minute, self._later.get(value, minute))


FORMS: Mapping[Aggregation, Callable[[Meter], Form]] = {
    Aggregation.COUNT: Count,
    Aggregation.SUM: Sum,
    Aggregation.MIN: Least,
    Aggregation.MAX: Greatest,
    Aggregation.AVG: Mean,
    Aggregation.LATEST: Level,
    Aggregation.UNIQUE_COUNT: Firsts,
}
