"""Which route a request takes: the first in document order whose method and path match.

A path is compared in its percent-encoded form, so that ``%2F`` stays within its segment; parameters are decoded
afterwards. A method that no route of the path has is no match (404, as in the original); HEAD is not answered by a GET
route, which would meter it as one. A path with a segment ``.`` or ``..``, or with a backslash, matches nothing: the
upstream would resolve it to another path than the one whose policies ran.

How it is fast: a path without parameters is looked up in a dict, paths whose parameters are whole segments in a
tree of segments, all others in one regular expression of alternatives. What is found in the tree and by the
expression is compared by position in the document. A fixed path is decided when the table is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from metergate.gateway.paths import DOT_SEGMENT, Params, PathPattern, normal_path

R = TypeVar("R")

NO_PARAMS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Shadowed(Generic[R]):
    """A route that no request ever takes, since ``winner`` comes first."""

    route: R
    winner: R


@dataclass(slots=True)
class _Leaf(Generic[R]):
    """A route at its place in the document. ``places`` are the segments that its parameters stand in."""

    order: int
    route: R
    pattern: PathPattern
    places: tuple[int, ...] = ()


@dataclass(slots=True)
class _Node(Generic[R]):
    literals: dict[str, _Node[R]] = field(default_factory=dict)
    parameter: _Node[R] | None = None
    leaf: _Leaf[R] | None = None


class Matcher(Generic[R]):
    """Built once from ``(method, pattern, route)`` in document order; `match` is a plain function call.

    ``shadowed`` lists the routes that can never be taken, as far as that can be told from their paths.
    """

    __slots__ = ("_tables", "shadowed")

    def __init__(self, routes: Iterable[tuple[str, PathPattern, R]]) -> None:
        by_method: dict[str, list[_Leaf[R]]] = {}
        for order, (method, pattern, route) in enumerate(routes):
            by_method.setdefault(method.upper(), []).append(_Leaf(order, route, pattern))
        self._tables = {method: _Table(leaves) for method, leaves in by_method.items()}
        self.shadowed = tuple(each for table in self._tables.values() for each in table.shadowed)

    def match(self, method: str, raw_path: str) -> tuple[R, Mapping[str, str]] | None:
        """The route and its path parameters, decoded. ``raw_path`` is the request's, without the query."""
        table = self._tables.get(method)
        if table is None:
            return None
        found = table.static.get(raw_path)
        return (found, NO_PARAMS) if found is not None else table.search(raw_path)

    def methods(self, raw_path: str) -> tuple[str, ...]:
        """The methods that have a route for this path, in alphabetical order: for ``allow`` and CORS."""
        return tuple(sorted(method for method in self._tables if self.match(method, raw_path) is not None))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(f'{method} {table!r}' for method, table in self._tables.items())}>"


class _Table(Generic[R]):
    """The routes of one method."""

    __slots__ = ("_alternatives", "_expression", "_root", "_size", "shadowed", "static")

    def __init__(self, leaves: list[_Leaf[R]]) -> None:
        self.static: dict[str, R] = {}
        self._root: _Node[R] = _Node()
        self._alternatives: dict[int, _Leaf[R]] = {}
        self._size = len(leaves)
        self.shadowed: list[Shadowed[R]] = []
        expressions: list[str] = []
        group = 0
        seen: dict[str, _Leaf[R]] = {}
        compiled: list[tuple[re.Pattern[str], _Leaf[R]]] = []
        for leaf in leaves:
            winner = self._first(leaf, seen, compiled)
            if winner is not None:
                self.shadowed.append(Shadowed(leaf.route, winner))
            elif (path := leaf.pattern.static) is not None:
                self.static[path] = leaf.route
                seen[leaf.pattern.regex] = leaf
            else:
                seen[leaf.pattern.regex] = leaf
                if leaf.pattern.segments is not None:
                    self._plant(leaf, leaf.pattern.segments)
                else:
                    group += len(leaf.pattern.names) + 1
                    expressions.append(f"{leaf.pattern.regex}()")
                    self._alternatives[group] = leaf
                    compiled.append((re.compile(leaf.pattern.regex, re.ASCII), leaf))
        self._expression = re.compile("|".join(expressions), re.ASCII).fullmatch if expressions else None

    def _first(
        self, leaf: _Leaf[R], seen: dict[str, _Leaf[R]], compiled: list[tuple[re.Pattern[str], _Leaf[R]]]
    ) -> R | None:
        """The route before ``leaf`` that takes all its requests, if that can be told."""
        if leaf.pattern.regex in seen:
            return seen[leaf.pattern.regex].route
        path = leaf.pattern.static
        if path is None:
            return None
        fits = [
            each for each in self._alternatives.values() if re.fullmatch(each.pattern.regex, path, re.ASCII)
        ]
        if (planted := self._walk(path.split("/"))) is not None:
            fits.append(planted)
        return min(fits, key=lambda each: each.order).route if fits else None

    def _plant(self, leaf: _Leaf[R], segments: tuple[str | None, ...]) -> None:
        node = self._root
        for segment in segments:
            if segment is None:
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        node.leaf = leaf
        leaf.places = tuple(index for index, segment in enumerate(segments, 1) if segment is None)

    def search(self, path: str) -> tuple[R, Mapping[str, str]] | None:
        """The first match among all routes. Escapes, dots and backslashes are dealt with here, off the usual way."""
        if "%" in path:
            path = normal_path(path)
            if (static := self.static.get(path)) is not None:
                return static, NO_PARAMS
        if ("/." in path and DOT_SEGMENT(path)) or "\\" in path:
            return None
        segments = path.split("/")
        leaf = self._walk(segments)
        if self._expression is not None:
            found = self._expression(path)
            if found is not None:
                other = self._alternatives[found.lastindex]  # type: ignore[index]  # every alternative ends in a group
                if leaf is None or other.order < leaf.order:
                    return other.route, _captured(other.pattern.names, found, path)
        if leaf is None:
            return None
        raw = {name: segments[place] for name, place in zip(leaf.pattern.names, leaf.places, strict=True)}
        return leaf.route, Params(raw) if "%" in path else raw

    def _walk(self, segments: list[str]) -> _Leaf[R] | None:
        """The leaf that comes first in the document among those that fit; every node is visited at most once."""
        best: _Leaf[R] | None = None
        node: _Node[R] | None = self._root
        position, end = 1, len(segments)
        pending: list[tuple[_Node[R], int]] = []
        while True:
            while node is not None and position < end:
                segment = segments[position]
                position += 1
                parameter = node.parameter if segment else None
                literal = node.literals.get(segment)
                if literal is None:
                    node = parameter
                else:
                    if parameter is not None:
                        pending.append((parameter, position))
                    node = literal
            if (
                node is not None
                and (leaf := node.leaf) is not None
                and (best is None or leaf.order < best.order)
            ):
                best = leaf
            if not pending:
                return best
            node, position = pending.pop()

    def __repr__(self) -> str:
        return f"{self._size} routes, {len(self.static)} static, {len(self._alternatives)} by expression"


def _captured(names: tuple[str, ...], found: re.Match[str], path: str) -> Mapping[str, str]:
    last = found.lastindex or 0
    first = last - len(names)
    raw = {
        name: value for index, name in enumerate(names, first) if (value := found.group(index)) is not None
    }
    return Params(raw) if "%" in path else raw
