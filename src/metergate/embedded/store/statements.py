"""Pieces of SQL over the events' table. Only fixed fragments are put together; what comes from outside is a
parameter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from metergate.embedded.domain.filters import StringFilter, contains_pattern
from metergate.embedded.domain.jsonpath import parse_path, to_pointer
from metergate.embedded.domain.meters import Meter
from metergate.embedded.domain.moments import SECOND, to_database, truncate
from metergate.embedded.domain.query import MeterQuery
from metergate.embedded.domain.time_filters import TimeFilter

_COMPARISONS = {
    "$eq": "{0} = {1}",
    "$ne": "{0} <> {1}",
    "$gt": "{0} > {1}",
    "$gte": "{0} >= {1}",
    "$lt": "{0} < {1}",
    "$lte": "{0} <= {1}",
    "$like": "{0} LIKE {1} ESCAPE '\\'",
    "$nlike": "{0} NOT LIKE {1} ESCAPE '\\'",
    "$ilike": "lower({0}) LIKE lower({1}) ESCAPE '\\'",
    "$nilike": "lower({0}) NOT LIKE lower({1}) ESCAPE '\\'",
    "$contains": "lower({0}) LIKE lower({1}) ESCAPE '\\'",
    "$ncontains": "lower({0}) NOT LIKE lower({1}) ESCAPE '\\'",
    "$in": "{0} IN (SELECT unnest({1}::VARCHAR[]))",
    "$nin": "{0} NOT IN (SELECT unnest({1}::VARCHAR[]))",
}
FEW_SUBJECTS = 16
"""Up to so many are written one by one: DuckDB then compares while it scans, and spares itself a join."""


@dataclass(slots=True)
class Statement:
    """Collects the values of a statement; ``add`` gives the placeholder to write for one."""

    parameters: list[Any] = field(default_factory=list)

    def add(self, value: Any) -> str:
        """``$1``, ``$2``, … for the value; moments as the columns keep them."""
        self.parameters.append(to_database(value) if isinstance(value, datetime) else value)
        return f"${len(self.parameters)}"


def subject_clause(statement: Statement, subjects: Collection[str]) -> str:
    """The subject is one of these."""
    if 0 < len(subjects) <= FEW_SUBJECTS:
        return f"subject IN ({', '.join(statement.add(subject) for subject in subjects)})"
    return f"subject IN (SELECT unnest({statement.add(list(subjects))}::VARCHAR[]))"


def filter_clause(statement: Statement, column: str, condition: StringFilter) -> str:
    """The value in the column passes the filter: the fast form of ``filters.matches``."""
    operator, operand = condition.operator, condition.operand
    if isinstance(operand, bool):  # a value that is missing is the empty text, see ``text_value``
        return f"({column} IS NOT NULL)" if operand else f"({column} IS NULL)"
    if operator in ("$and", "$or"):
        children = [child for child in operand if isinstance(child, StringFilter)]
        parts = [filter_clause(statement, column, child) for child in children]
        always = f"{column} IS NOT NULL"  # and no constant, as the column's parameters are given anyway
        return "(" + (" AND " if operator == "$and" else " OR ").join(parts or [always]) + ")"
    if isinstance(operand, str):
        value = contains_pattern(operand) if "contains" in operator else operand
        return "(" + _COMPARISONS[operator].format(column, statement.add(value)) + ")"
    return "(" + _COMPARISONS[operator].format(column, statement.add(list(operand))) + ")"


def time_clause(statement: Statement, column: str, condition: TimeFilter) -> str:
    """The time in the column passes the filter: the fast form of ``time_filters.matches``."""
    operator, operand = condition.operator, condition.operand
    if isinstance(operand, datetime):
        return _COMPARISONS[operator].format(column, statement.add(operand))
    parts = [time_clause(statement, column, child) for child in operand]
    return "(" + (" AND " if operator == "$and" else " OR ").join(parts or ["true"]) + ")"


def text_value(statement: Statement, path: str) -> str:
    """The value at a path as ClickHouse's JSON_VALUE gives it: text; '' if missing or no scalar; 'null' if
    null. A whole number is written without a fraction, as Go does: ``1.0`` and ``1`` are one value.
    """
    pointer = f"{statement.add(to_pointer(parse_path(path)))}::VARCHAR"
    text = f"json_extract_string(data, {pointer})"
    # the usual case reads the JSON once: only what looks like null, an object, a list or a fraction is looked at again
    return (
        f"CASE WHEN {text} IS NULL THEN CASE WHEN json_exists(data, {pointer}) THEN 'null' ELSE '' END "
        f"WHEN left({text}, 1) IN ('{{', '[') AND json_type(data, {pointer}) IN ('OBJECT', 'ARRAY') THEN '' "
        f"WHEN ends_with({text}, '.0') AND json_type(data, {pointer}) = 'DOUBLE' THEN left({text}, -2) "
        f"ELSE {text} END"
    )


def number_value(statement: Statement, path: str) -> str:
    """The value at a path as a finite number or NULL. DuckDB alone would take underscores, white space around and
    two signs too; all white space sorts before the asterisk, all that a number begins or ends with behind it.
    """
    text = f"json_extract_string(data, {statement.add(to_pointer(parse_path(path)))}::VARCHAR)"
    strict = f"{text} > '*' AND right({text}, 1) > '*' AND NOT contains({text}, '_') AND NOT starts_with({text}, '+-')"
    number = f"TRY_CAST(CASE WHEN {strict} THEN {text} END AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def where_clause(sql: Statement, meter: Meter, question: MeterQuery) -> str:
    """Which events the question is about; windows and groups do not matter here."""
    clauses = [f"type = {sql.add(meter.event_type)}", *range_clauses(sql, meter, question)]
    for dimension, condition in sorted(question.filters.items()):
        clauses.append(filter_clause(sql, text_value(sql, meter.group_by[dimension]), condition))
    return " AND ".join(clauses)


def range_clauses(sql: Statement, meter: Meter, question: MeterQuery) -> list[str]:
    """The question's times and subjects."""
    clauses = []
    starts = [start for start in (question.start, meter.event_from) if start is not None]
    if starts:
        clauses.append(f"time >= {sql.add(truncate(max(starts), SECOND))}")
    if question.end is not None:
        clauses.append(f"time < {sql.add(truncate(question.end, SECOND))}")
    if question.subjects:
        clauses.append(subject_clause(sql, question.subjects))
    if question.customers:
        clauses.append(subject_clause(sql, sorted(set().union(*question.customers.values()))))
    return clauses
