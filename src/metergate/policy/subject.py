"""``subjectPath``: where the subject, whom usage is counted for, stands on the authenticated user.

A path is ``(.segment)+``, a segment being any characters but a dot. It walks plain mappings by exact key: no
attributes, no lists. It starts at the user, of whom there are ``.sub`` and ``.data``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol, final

from metergate.errors import Finding, error, warning
from metergate.policy.fields import kind, shown

_INDEX = re.compile(r"\[\s*(?:([0-9]*|\*)|\"([^\"]*)\"|'([^']*)')\s*\]")
_PREFIX = re.compile(r"(?:\$\.|\$(?=sub|data))?(?:(?:request\.)?user\.)?")


class UserLike(Protocol):
    """An authenticated user: ``sub`` names them, ``data`` is what else is known (metadata, claims)."""

    @property
    def sub(self) -> Any: ...

    @property
    def data(self) -> Any: ...


@final
class SubjectPath:
    """A checked subject path; equal by its text."""

    __slots__ = ("_first", "_rest", "_text")

    def __init__(self, text: str) -> None:
        findings = check_path(text)
        for finding in findings:
            if finding.severity == "error":
                raise ValueError(f"{finding.message} {finding.fix}")
        self._text = text
        self._first, *rest = text[1:].split(".")
        self._rest = tuple(rest)

    @classmethod
    def parse(cls, value: Any) -> SubjectPath:
        """The path that ``value`` spells. Raises ValueError with a message that shows the corrected path."""
        return cls(value)

    def read(self, user: UserLike | None) -> str | None:
        """The subject of ``user``, or None where there is none.

        A non-empty string is taken as it is, an integer becomes its decimal form. Everything else (a boolean,
        null, an object, a list, a missing value, an empty string, text that UTF-8 cannot carry) is no
        subject.
        """
        if user is None:
            return None
        first = self._first
        value: Any = user.sub if first == "sub" else user.data if first == "data" else None
        for key in self._rest:
            if type(value) is not dict and not isinstance(value, Mapping):
                return None
            value = value.get(key)
        if type(value) is str and value.isascii():
            return value or None
        return as_subject(value)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"SubjectPath({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, SubjectPath) else NotImplemented

    def __hash__(self) -> int:
        return hash((SubjectPath, self._text))


def as_subject(value: Any) -> str | None:
    """``value`` as a subject, by the rule of `SubjectPath.read`."""
    try:
        if isinstance(value, str):
            value.encode()
            return str.__str__(value) or None
        if isinstance(value, int) and not isinstance(value, bool):
            return int.__repr__(value)
    except ValueError:  # a lone surrogate, or an integer of more digits than Python writes out
        return None
    return None


def check_path(value: Any) -> list[Finding]:
    """What is wrong with a subject path (``$`` is the path). At most one finding: the corrected path cures
    all."""
    if not isinstance(value, str):
        return [error("$", f"A subject path is a string, not {kind(value)}.", 'Write ".sub".')]
    segments = value.split(".")
    if not value.strip():
        return [error("$", "The subject path is empty.", 'Write ".sub".')]
    if "[" in value or "]" in value:
        message = f"{shown(value)} has brackets; a subject path has keys only and looks into no list."
    elif "*" in value:
        message = f"{shown(value)} has a wildcard; a subject path names one value."
    elif segments[0]:
        message = f"{shown(value)} has no leading dot."
    elif not all(segments[1:]):
        message = f"{shown(value)} has an empty segment."
    elif (segments[1] == "sub") != (len(segments) == 2) or segments[1] not in ("sub", "data"):
        message = f"{shown(value)} can never find a subject: a user has .sub, a string, and .data, an object."
        return [warning("$", message, f'Write "{corrected(value)}".')]
    else:
        return []
    return [error("$", message, f'Write "{corrected(value)}".')]


def corrected(path: str) -> str:
    """The valid path that ``path`` most likely means: keys out of brackets, without list indexes, wildcards,
    and the ``$``, ``request.user`` or ``user`` that others' notations begin with."""
    plain = _INDEX.sub(_named, path.strip())
    segments = [re.sub(r"[\[\]*]", "", segment).strip() for segment in plain.split(".")]
    plain = ".".join(segment for segment in segments if segment)
    plain = _PREFIX.sub("", plain, count=1)
    first, *rest = plain.split(".")
    if first == "data" and rest:
        return f".{plain}"
    if first == "data":
        return ".data.accountId"
    return ".sub" if first in ("", "$", "sub", "user") else f".data.{plain}"


def _named(match: re.Match[str]) -> str:
    """A bracket's key as a segment; nothing for an index, a wildcard, or a key that no segment can hold."""
    key = match[2] or match[3] or ""
    return f".{key}" if key and "." not in key else ""
