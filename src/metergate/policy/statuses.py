"""``meterOnStatusCodes``: which response statuses are metered.

The grammar (the policy's own, section 2 of its description): a comma list of ``N`` or ``N-M``, white space
allowed round every token, both ends included, 100 to 599. In JSON a string, a number, or a list of numbers
and such strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from metergate.errors import Finding, error
from metergate.policy.fields import Unset, child, kind, shown

LOWEST = 100
HIGHEST = 599
DEFAULT = "200-299"

_PART = re.compile(r"([1-9][0-9]{0,8})(?:\s*-\s*([1-9][0-9]{0,8}))?")
_CLASS = re.compile(r"([1-5])(?:[xX*]{1,2}|[0-9][xX*])")
_DASHED = re.compile(r"([0-9]+)\s*(?:[‐‑‒–—−]|\.\.+|:|\bto\b)\s*([0-9]+)")  # what people write for a hyphen
_EXAMPLE = 'Write codes and ranges, such as "200-299, 304".'
_LEAVE_OUT = f'Write codes and ranges, or leave the option out for the default, "{DEFAULT}".'


class StatusSet(frozenset[int]):
    """A set of HTTP statuses. ``status in statuses`` is one look-up; ``str()`` is the canonical form
    (``200-299,304``)."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> StatusSet:
        """The statuses that ``value`` (a string, a number or a list of both) names.

        Raises ValueError with a message that shows every part at fault and what to write instead.
        """
        statuses, findings = read_statuses(value)
        if statuses is None:
            raise ValueError(" ".join(f"{finding.message} {finding.fix}".strip() for finding in findings))
        return statuses

    def __str__(self) -> str:
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in _runs(self))

    def __repr__(self) -> str:
        return f"StatusSet({str(self)!r})"


def read_statuses(value: Any) -> tuple[StatusSet | None, list[Finding]]:
    """The set that ``value`` names, or None and everything that is wrong with it, by path (``$`` is the
    value)."""
    findings: list[Finding] = []
    if isinstance(value, list | tuple):
        if not value:
            findings.append(error("$", "The list is empty, so no status would be metered.", _LEAVE_OUT))
        found = [
            status for index, item in enumerate(value) for status in _one(item, child("$", index), findings)
        ]
    else:
        found = list(_one(value, "$", findings))
    return (None, findings) if findings else (StatusSet(found), [])


def _one(value: Any, path: str, findings: list[Finding]) -> Iterable[int]:
    """The statuses of one number or string."""
    if isinstance(value, str):
        return _listed(value, path, findings)
    if isinstance(value, int) and not isinstance(value, bool):
        return _range(shown(value), value, value, path, findings)
    if isinstance(value, float):
        whole = f"Write {value:.0f}." if value.is_integer() else _EXAMPLE
        findings.append(error(path, f"{shown(value)} is not a whole number.", whole))
    elif isinstance(value, Unset):
        findings.append(
            error(path, f"The environment variable {value.variable} is not set.", f"Set {value.variable}.")
        )
    else:
        findings.append(error(path, f"A status is a number or a string, not {kind(value)}.", _EXAMPLE))
    return ()


def _listed(text: str, path: str, findings: list[Finding]) -> Iterable[int]:
    """The statuses of a comma list."""
    if not text.strip():
        findings.append(error(path, "The string is empty, so no status would be metered.", _LEAVE_OUT))
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        rest = ", ".join(part for part in parts if part)
        fix = f'Write "{rest}".' if rest else _EXAMPLE
        findings.append(error(path, f"{shown(text)} has an empty element.", fix))
    return [status for part in parts if part for status in _part(part, path, findings)]


def _part(part: str, path: str, findings: list[Finding]) -> Iterable[int]:
    """The statuses of one element, without white space round it."""
    if match := _PART.fullmatch(part):
        return _range(shown(part), int(match[1]), int(match[2] or match[1]), path, findings)
    findings.append(error(path, f"{shown(part)} is not a status code or a range.", _correction(part)))
    return ()


def _correction(part: str) -> str:
    """What to write instead of an element that is not of the grammar."""
    if part == "*":
        return f'Write "{LOWEST}-{HIGHEST}" for every status.'
    if match := _CLASS.fullmatch(part):
        tens = part[1] if part[1].isdigit() else ""
        return f'Write "{match[1]}{tens or "0"}0-{match[1]}{tens or "9"}9".'
    if match := _DASHED.fullmatch(part):
        return f'Write "{match[1]}-{match[2]}".'
    return _EXAMPLE


def _range(said: str, low: int, high: int, path: str, findings: list[Finding]) -> Iterable[int]:
    """The statuses from ``low`` to ``high``, both included; ``said`` is how that was written."""
    if min(low, high) < LOWEST or max(low, high) > HIGHEST:
        low, high = max(min(low, high), LOWEST), min(max(low, high), HIGHEST)
        fix = f'Write "{low}-{high}".' if low < high else _EXAMPLE
        findings.append(error(path, f"{said} is outside {LOWEST} to {HIGHEST}.", fix))
        return ()
    if low > high:
        findings.append(error(path, f"{said} is a reversed range.", f'Write "{high}-{low}".'))
        return ()
    return range(low, high + 1)


def _runs(statuses: Iterable[int]) -> list[tuple[int, int]]:
    """The statuses as ranges without gaps, in order."""
    runs: list[tuple[int, int]] = []
    for status in sorted(statuses):
        if runs and runs[-1][1] == status - 1:
            runs[-1] = (runs[-1][0], status)
        else:
            runs.append((status, status))
    return runs
