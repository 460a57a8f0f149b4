"""What is wrong with a value from a file, by the shape that it has to have: all of it at once, in an operator's words.

msgspec says the first mistake only, in the words of Python; here its description of a type is walked instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from metergate.errors import Finding, error, nearest

T = TypeVar("T", bound=msgspec.Struct)

_PATTERNS = {
    "^[a-z0-9]+(?:[_-][a-z0-9]+)*\\Z": "lower-case letters and digits, with single - or _ between them",
    "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}\\Z": "an id that OpenMeter gave, 26 letters and digits",
}
_KINDS: tuple[tuple[type[inspect.Type], type | tuple[type, ...], str], ...] = (
    (inspect.StrType, str, "a text"),
    (inspect.BoolType, bool, "true or false"),
    (inspect.IntType, int, "a whole number"),
    (inspect.FloatType, (int, float), "a number"),
    (inspect.DateTimeType, str, "a time, 2026-01-01T00:00:00Z"),
    (inspect.DictType, Mapping, "an object"),
    (inspect.StructType, Mapping, "an object"),
    (inspect.ListType, list, "a list"),
    (inspect.VarTupleType, list, "a list"),
)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*").fullmatch


def read_shape(value: Mapping[str, Any], shape: type[T], path: str) -> tuple[T | None, list[Finding]]:
    """The value as a struct, and everything wrong with it; no struct where anything is."""
    findings = list(_wrong(value, inspect.type_info(shape), path))
    if findings:
        return None, findings
    try:
        return msgspec.convert(value, shape), []
    except msgspec.ValidationError as exception:  # what a shape checks itself
        text, _, place = str(exception).partition(" - at `$")
        return None, [error(path + place.rstrip("`"), text)]


def _wrong(value: Any, wanted: inspect.Type, path: str) -> Iterator[Finding]:
    if isinstance(wanted, inspect.UnionType):
        others = [each for each in wanted.types if not isinstance(each, inspect.NoneType)]
        if (value is None and len(others) < len(wanted.types)) or len(others) > 1:
            return  # of several shapes, msgspec finds the one that is meant
        [wanted] = others
    if isinstance(wanted, inspect.EnumType | inspect.LiteralType):
        yield from _not_a_choice(value, wanted, path)
        return
    words = next(
        (words for kind, python, words in _KINDS if isinstance(wanted, kind) and not _is(value, python)), ""
    )
    if words:
        yield error(path, f"has to be {words}, not {_shown(value)}.")
        return
    yield from _wrong_inside(value, wanted, path)


def _is(value: Any, python: type | tuple[type, ...]) -> bool:
    return isinstance(value, python) and (python is bool or not isinstance(value, bool))


def _wrong_inside(value: Any, wanted: inspect.Type, path: str) -> Iterator[Finding]:
    match wanted:
        case inspect.StructType():
            yield from _wrong_members(value, wanted, path)
        case inspect.DictType():
            for name, each in value.items():
                yield from _wrong(each, wanted.value_type, _child(path, name))
        case inspect.ListType() | inspect.VarTupleType():
            for index, each in enumerate(value):
                yield from _wrong(each, wanted.item_type, f"{path}[{index}]")
        case inspect.StrType():
            yield from _wrong_text(value, wanted, path)
        case inspect.IntType() | inspect.FloatType():
            yield from _out_of_range(value, wanted, path)


def _wrong_members(value: Mapping[str, Any], wanted: inspect.StructType, path: str) -> Iterator[Finding]:
    fields = {field.encode_name: field for field in wanted.fields}
    missing = [name for name, field in fields.items() if field.required and name not in value]
    for name, each in value.items():
        if name in fields:
            yield from _wrong(each, fields[name].type, _child(path, name))
            continue
        meant = nearest(str(name), [other for other in fields if other not in value])
        missing = [other for other in missing if f'"{other}"' not in meant]  # said by this one already
        fix = meant or nearest(str(name), fields) or f"Known are {', '.join(fields)}."
        yield error(_child(path, name), "is not known here.", fix)
    yield from (error(path, f'"{name}" is missing.', f"Write {name}: …") for name in missing)


def _not_a_choice(value: Any, wanted: inspect.EnumType | inspect.LiteralType, path: str) -> Iterator[Finding]:
    choices = [each.value for each in wanted.cls] if isinstance(wanted, inspect.EnumType) else wanted.values
    if value not in choices:
        names = [str(each) for each in choices]
        fix = nearest(str(value).upper(), names) or nearest(str(value).lower(), names)
        yield error(path, f"has to be {', '.join(names[:-1])} or {names[-1]}, not {_shown(value)}.", fix)


def _wrong_text(value: str, wanted: inspect.StrType, path: str) -> Iterator[Finding]:
    if len(value) < (wanted.min_length or 0):
        yield error(path, "is empty.")
    elif wanted.max_length is not None and len(value) > wanted.max_length:
        yield error(path, f"has {len(value)} characters, but {wanted.max_length} at most are allowed.")
    elif wanted.pattern is not None and re.search(wanted.pattern, value) is None:
        words = _PATTERNS.get(wanted.pattern, f"a text like {wanted.pattern}")
        fix = f"Write {key}: {value}" if (key := _key_instead(path)) else ""
        yield error(path, f"has to be {words}, not {_shown(value)}.", fix)


def _key_instead(path: str) -> str:
    """``featureKey`` for ``featureId``: where a key was meant, another field takes it."""
    field = path.rpartition(".")[2]
    return f"{field.removesuffix('Id')}Key" if field.endswith("Id") else ""


def _out_of_range(value: float, wanted: inspect.IntType | inspect.FloatType, path: str) -> Iterator[Finding]:
    if wanted.ge is not None and value < wanted.ge:
        yield error(path, f"has to be {wanted.ge:g} or more, not {value:g}.")
    elif wanted.le is not None and value > wanted.le:
        yield error(path, f"has to be {wanted.le:g} or less, not {value:g}.")


def _child(path: str, name: object) -> str:
    return f"{path}.{name}" if _PLAIN(str(name)) else f'{path}["{name}"]'


def _shown(value: Any) -> str:
    """A value as the file might have it; what is long is only named."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"' if len(value) <= 60 else "a long text"
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case _:
            return str(value)
