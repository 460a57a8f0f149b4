"""A meter's ``data`` with expressions in it, and the data of one request that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

from metergate.errors import Finding
from metergate.policy.expressions.facts import Facts, Needs
from metergate.policy.expressions.grammar import Expression, Read, read_expression
from metergate.policy.fields import child
from metergate.policy.secret import Secret


class Filled(NamedTuple):
    """The data of one request. ``missing`` names the keys that are not in it because their values were missing, as JSON
    paths, the way OpenMeter names a meter's value property: ``$.tokens``, ``$.usage.total``."""

    data: dict[str, Any]
    missing: tuple[str, ...]


class _Object:
    """An object with expressions in it, or in what is in it. ``constant`` has every key in its place."""

    __slots__ = ("constant", "leaves", "nested")

    def __init__(self) -> None:
        self.constant: dict[str, Any] = {}
        self.leaves: list[tuple[str, str, Read]] = []
        self.nested: list[tuple[str, _Object | _List]] = []

    def fill(self, facts: Facts, missing: list[str]) -> dict[str, Any]:
        data = self.constant.copy()
        for key, path, read in self.leaves:
            value = read(facts)
            if value is None:
                del data[key]
                missing.append(path)
            else:
                data[key] = value
        for key, inner in self.nested:
            data[key] = inner.fill(facts, missing)
        return data


class _List:
    """A list with expressions in it, or in what is in it: an item that is missing is left out."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        self.items = items

    def fill(self, facts: Facts, missing: list[str]) -> list[Any]:
        data: list[Any] = []
        for path, item in self.items:
            if isinstance(item, Expression):
                value = item.read(facts)
                if value is None:
                    missing.append(path)
                else:
                    data.append(value)
            else:
                data.append(item.fill(facts, missing) if isinstance(item, _Object | _List) else item)
        return data


@final
class Template:
    """A meter's data, read. Nothing of a request is kept in it; threads may share it.

    ``varies``: there are expressions in it. Where there are none, ``constant`` is the data of every request.
    """

    __slots__ = ("_root", "needs", "varies")

    def __init__(self, root: _Object, needs: Needs, *, varies: bool) -> None:
        self._root = root
        self.needs = needs
        self.varies = varies

    @property
    def constant(self) -> dict[str, Any]:
        """The data without what expressions put in. Read it, do not change it."""
        return self.fill(Facts()).data

    def fill(self, facts: Facts) -> Filled:
        """The data of one request. What is constant in it is shared by all: read it, do not change it."""
        missing: list[str] = []
        return Filled(self._root.fill(facts, missing), tuple(missing))


def read_data(
    data: Mapping[str, Any], hash_key: Secret | None = None
) -> tuple[Template | None, list[Finding]]:
    """The template that a meter's ``data`` is, and all findings about it (``$`` is the data); no template where one of
    them is an error. ``hash_key`` is what ``hash:`` hashes with."""
    reading = _Reading(hash_key)
    root = reading.object(data, "$")
    refused = any(finding.severity == "error" for finding in reading.findings)
    template = None if refused else Template(root, reading.needs, varies=reading.varies)
    return template, reading.findings


class _Reading:
    """One walk over a meter's data."""

    def __init__(self, hash_key: Secret | None) -> None:
        self.hash_key = hash_key
        self.findings: list[Finding] = []
        self.needs = Needs()
        self.varies = False

    def object(self, data: Mapping[str, Any], path: str) -> _Object:
        node = _Object()
        for key, value in data.items():
            place = child(path, key)
            item = self.value(value, place)
            node.constant[key] = None
            if isinstance(item, Expression):
                node.leaves.append((key, place, item.read))
            elif isinstance(item, _Object | _List):
                node.nested.append((key, item))
            else:
                node.constant[key] = item
        return node

    def value(self, value: Any, path: str) -> Any:
        """A value as an expression, as a node where there is one inside, or as it is."""
        if isinstance(value, str):
            return self.text(value, path)
        if isinstance(value, Mapping):
            node = self.object(value, path)
            return node if node.leaves or node.nested else node.constant
        if isinstance(value, list | tuple):
            places = [child(path, index) for index in range(len(value))]
            items = [self.value(item, place) for place, item in zip(places, value, strict=True)]
            varies = any(isinstance(item, Expression | _Object | _List) for item in items)
            return _List(list(zip(places, items, strict=True))) if varies else items
        return value

    def text(self, text: str, path: str) -> Expression | str | None:
        read, findings = read_expression(text, self.hash_key)
        self.findings += (finding.at(prefix=path) for finding in findings)
        if isinstance(read, Expression):
            self.needs |= read.needs
            self.varies = True
        return read
