"""The fields of a JSON object, read one by one. What is wrong with them is collected, never raised.

Every finding's path is relative to the value that was handed in (``$``); whoever read that value from a
larger document puts its position in front (`Finding.at`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from metergate.errors import Finding, error, nearest, warning

_SHOWN = 60
"""So many characters of a wrong value are repeated in a message."""

WHOLE = 2000
"""So many characters of what to write instead are shown."""

_MOST = 1_000_000_000
"""Of seconds about 30 years: for ever, and still a float that arithmetic with clocks stands."""

_MOST_UNITS = 10**15
"""Of a meter's units. Beyond, a float counts no single ones any more."""

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Unset:
    """Stands where a configuration says ``$env(variable)`` alone and that variable is not set."""

    variable: str


def is_text(value: Any) -> TypeGuard[str]:
    """Whether ``value`` is a string that is not blank and that UTF-8 can carry."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or not _SURROGATE.search(value)


def child(path: str, key: object) -> str:
    """The JSON path of ``key`` (a list index or an object's key) under ``path``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    text = str(key)
    return f"{path}.{text}" if _NAME.fullmatch(text) else f"{path}[{json.dumps(text, ensure_ascii=False)}]"


def shown(value: Any, most: int = _SHOWN) -> str:
    """``value`` as it stands in JSON, cut after ``most`` characters, for messages. Never call it with a secret."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=_written)
    except (TypeError, ValueError, RecursionError):
        return f"a Python {type(value).__name__}"
    text = _SURROGATE.sub("\ufffd", text)
    return text if len(text) <= most else text[:most] + "…"


def _written(value: Any) -> str:
    """A variable that is not set, inside a larger value, as it was written."""
    if isinstance(value, Unset):
        return f"$env({value.variable})"
    raise TypeError


def _default(value: object) -> str:
    return "none" if value is None else shown(value)


def kind(value: Any) -> str:
    """What ``value`` is in the words of JSON: ``a list``, ``null``, ``the number 5``."""
    if value is None:
        return "null"
    if isinstance(value, Unset):
        return f"the unset variable {value.variable}"
    if isinstance(value, bool):
        return f"the boolean {shown(value)}"
    if isinstance(value, int | float):
        return f"the number {shown(value)}"
    if isinstance(value, str):
        if _SURROGATE.search(value):
            return "a string with a lone surrogate, which UTF-8 cannot carry"
        return f"the string {shown(value)}" if value else "an empty string"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a Python {type(value).__name__}"


def number_in(value: Any) -> int | float | None:
    """The number that ``value`` is or, as a string, spells (``$env`` always gives strings). None where it is
    neither."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        return float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def closest(name: str, known: Iterable[str]) -> str:
    """``Did you mean "x"?`` for the known name closest to ``name``, else the list of all that are known."""
    known = tuple(known)
    folded = re.sub(r"[\W_]", "", name).lower()
    part_of = [candidate for candidate in known if candidate.lower().startswith(folded)]
    part_of += [candidate for candidate in known if candidate.lower().endswith(folded)]
    for candidate in known:
        if candidate.lower() == folded or (part_of == [candidate] and len(folded) > 2):
            return f'Did you mean "{candidate}"?'
    return nearest(name, known) or f"Known are {', '.join(known)}."


class Fields:
    """One JSON object and the findings about it so far."""

    __slots__ = ("findings", "path", "values")

    def __init__(self, values: Mapping[str, Any], path: str = "$") -> None:
        self.values = values
        self.path = path
        self.findings: list[Finding] = []

    def refuse(self, key: str, message: str, fix: str = "") -> None:
        self.findings.append(error(child(self.path, key), message, fix))

    def doubt(self, key: str, message: str, fix: str = "") -> None:
        self.findings.append(warning(child(self.path, key), message, fix))

    def given(self, key: str, default: object) -> bool:
        """Whether ``key`` has a value to read. An unset variable counts as left out and is said; null is
        refused."""
        value = self.values.get(key, _MISSING)
        if isinstance(value, Unset):
            message = f"The environment variable {value.variable} is not set, so the default applies: {_default(default)}."
            self.doubt(key, message, f'Set {value.variable}, or leave "{key}" out.')
            return False
        if value is None:
            self.refuse(key, f'"{key}" is null.', f"Leave it out for the default, {_default(default)}.")
            return False
        return value is not _MISSING

    def text(self, key: str, default: str) -> str:
        """A non-empty string."""
        if not self.given(key, default):
            return default
        value = self.values[key]
        if is_text(value):
            return value
        self.refuse(
            key,
            f'"{key}" has to be a non-empty string, not {kind(value)}.',
            f"Leave it out for the default, {shown(default)}.",
        )
        return default

    def number(self, key: str, default: float, *, above: float | None = None) -> float:
        """A number, 0 or more; more than ``above`` where that is given."""
        if not self.given(key, int(default) if default.is_integer() else default):
            return default
        value = number_in(self.values[key])
        if value is not None and 0 <= value <= _MOST and (above is None or value > above):
            return float(value)
        least = "0 or more" if above is None else f"more than {above:g}"
        self.refuse(
            key,
            f'"{key}" has to be a number, {least}, not {kind(self.values[key])}.',
            f"The default is {default:g}.",
        )
        return default

    def amount(self, key: str, default: float | None) -> float | None:
        """A number of a meter's units, more than 0. A default of None is no amount."""
        said = default if default is None or not default.is_integer() else int(default)
        if not self.given(key, said):
            return default
        value = number_in(self.values[key])
        if value is not None and 0 < value <= _MOST_UNITS:
            return float(value)
        bounds = "more than 0" if value is None or value <= 0 else f"at most {_MOST_UNITS:g}"
        self.refuse(
            key,
            f'"{key}" has to be a number, {bounds}, not {kind(self.values[key])}.',
            f"Leave it out for the default, {_default(said)}.",
        )
        return default

    def whole(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number from ``least`` to ``most``, both included."""
        if not self.given(key, default):
            return default
        value = number_in(self.values[key])
        if isinstance(value, int) and least <= value <= most:
            return value
        self.refuse(
            key,
            f'"{key}" has to be a whole number from {least} to {most}, not {kind(self.values[key])}.',
            f"The default is {default}.",
        )
        return default

    def choice(self, key: str, default: Any, choices: tuple[Any, ...]) -> Any:
        """One of ``choices``; where they are numbers, a string that spells one counts too."""
        if not self.given(key, default):
            return default
        value = self.values[key]
        wanted = number_in(value) if isinstance(default, int) else value
        for choice in choices:
            if wanted == choice:
                return choice
        names = [shown(choice) for choice in choices]
        self.refuse(
            key,
            f'"{key}" has to be {", ".join(names[:-1])} or {names[-1]}, not {kind(value)}.',
            self._did_you_mean(value, choices),
        )
        return default

    @staticmethod
    def _did_you_mean(value: Any, choices: tuple[Any, ...]) -> str:
        words = [choice for choice in choices if isinstance(choice, str)]
        return nearest(value.strip().lower(), words) if isinstance(value, str) and words else ""

    def object(self, key: str) -> Fields:
        """The object under ``key``; an empty one where it is left out. Add its findings with `include`."""
        path = child(self.path, key)
        if not self.given(key, {}):
            return Fields({}, path)
        value = self.values[key]
        if isinstance(value, Mapping):
            return Fields(value, path)
        self.refuse(key, f'"{key}" has to be an object, not {kind(value)}.')
        return Fields({}, path)

    def include(self, findings: Iterable[Finding], key: str | int | None = None) -> None:
        """Take over findings: as they are, or those of the value under ``key`` whose paths start there."""
        if key is None:
            self.findings += findings
        else:
            self.findings += (finding.at(prefix=child(self.path, key)) for finding in findings)

    def name_unknown(self, known: tuple[str, ...], what: str, hints: Mapping[str, str] | None = None) -> None:
        """A warning for every key that is not known, with the fix in ``hints`` or else the nearest known
        name."""
        for key in self.values:
            if key not in known:
                hint = (hints or {}).get(key)
                message = f'The {what} "{key}" {"has" if hint else "is not known and has"} no effect.'
                self.doubt(key, message, hint or closest(str(key), known))
