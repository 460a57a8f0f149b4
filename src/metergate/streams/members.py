"""Named members of a JSON body: ``usage.total_tokens`` of it, and nothing else of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

import msgspec

Path = tuple[str, ...]
"""The keys that lead to a member, from the outside in."""

_OTHER = str | int | float | bool | list[Any] | None


@final
class Members:
    """The members of JSON documents at these paths. Made once, when the configuration is read; threads may share it.

    A path walks objects by exact key and looks into no list.
    """

    __slots__ = ("_decode", "_ways", "paths")

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(dict.fromkeys(paths))
        self._decode = msgspec.json.Decoder(_shape(self.paths)).decode
        self._ways = tuple((path, *_way(path, self.paths)) for path in self.paths)

    def read(self, document: bytes) -> dict[Path, Any]:
        """What of them is there and is not null. Raises `msgspec.MsgspecError` where ``document`` is not JSON."""
        read = self._decode(document)
        found: dict[Path, Any] = {}
        for path, attributes, keys in self._ways:
            value: Any = read
            for name in attributes:
                value = getattr(value, name, None)
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                found[path] = value
        return found


def _shape(paths: tuple[Path, ...]) -> Any:
    """The type of a value that has these members, if it is an object: what nobody asked for is skipped unread."""
    if () in paths:
        return Any
    inside: dict[str, list[Path]] = {}
    for first, *rest in paths:
        inside.setdefault(first, []).append(tuple(rest))
    fields = [(_attribute(key), _shape(tuple(rests)), None) for key, rests in inside.items()]
    names = {_attribute(key): key for key in inside}
    return msgspec.defstruct("Part", fields, rename=names) | _OTHER


def _way(path: Path, paths: tuple[Path, ...]) -> tuple[Path, Path]:
    """A path as the attributes of the partial structs, then the keys of what another path wants in whole."""
    ends = [end for end in range(1, len(path) + 1) if path[:end] in paths]
    return tuple(_attribute(key) for key in path[: ends[0]]), path[ends[0] :]


def _attribute(key: str) -> str:
    """A key as a name that a struct can have, whatever is in it."""
    return "at_" + key.encode("utf-8", "surrogatepass").hex()
