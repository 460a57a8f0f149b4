"""An event's ``data``: copied when it is set, encoded when it is sent, refused where JSON cannot hold it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from metergate.policy.fields import child

_SCALARS = frozenset((str, int, bool, type(None)))
_fast = msgspec.json.Encoder()
_thorough = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def copied(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` as dicts and lists of our own, so that what its owner does to it later is not billed."""
    try:
        return {key: item if type(item) in _SCALARS else _copied(item) for key, item in data.items()}
    except RecursionError:  # it holds itself; it cannot be encoded either, and is refused then
        return dict(data)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def encoded(data: Mapping[str, Any]) -> bytes:
    """``data`` as compact JSON in UTF-8. A lone surrogate becomes U+FFFD, as it would in OpenMeter.

    Keys become strings as in Python's own `json`. Raises ValueError that names the place and the value that
    JSON cannot hold: NaN, infinity, any Python object that is not of JSON's own kinds.
    """
    try:
        if _is_plain(data):
            return _fast.encode(data)
    except (
        OverflowError,
        UnicodeEncodeError,
        RecursionError,
    ):  # an integer beyond 64 bits, a lone surrogate, a loop
        pass
    try:
        if fault := find_fault(data):
            raise ValueError("{} is {}, which JSON cannot hold".format(*fault))
        text = _thorough.encode(data)
    except RecursionError:
        raise ValueError("data holds itself, or is too deep, which JSON cannot hold") from None
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _is_plain(value: Any) -> bool:
    """Whether the fast encoder writes what JSON says: it also knows dates, sets, bytes, and turns NaN into
    null."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _SCALARS and not _is_plain(item)):
                return False
        return True
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(type(item) in _SCALARS or _is_plain(item) for item in value)
    return kind in _SCALARS


def find_fault(value: Any, path: str = "data") -> tuple[str, str] | None:
    """The first place in ``value`` that JSON cannot hold, and what is there: ``("data.tokens", "NaN")``."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int | float | None) or (
                isinstance(key, float) and not math.isfinite(key)
            ):
                return path, f"an object with a key that is {_named(key)}"
            if fault := find_fault(item, child(path, key if isinstance(key, str) else str(key))):
                return fault
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if fault := find_fault(item, child(path, index)):
                return fault
    elif isinstance(value, float):
        return None if math.isfinite(value) else (path, _named(value))
    elif value is not None and not isinstance(value, str | int):
        return path, _named(value)
    return None


def _named(value: Any) -> str:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else "infinity"
    return f"a Python {type(value).__name__}"
