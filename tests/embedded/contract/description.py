"""An API description of OpenMeter as a judge: does this answer fit it, does this request?

Its schemas are OpenAPI 3.0's; what they have beyond JSON Schema (``nullable``) is translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import yaml
from jsonschema import Draft4Validator, FormatChecker

from metergate.embedded.domain.moments import parse_rfc3339

METHODS = ("get", "post", "put", "delete", "patch")
JSON = "application/json"
FORMATS = FormatChecker(formats=())
PROBLEM = {"$ref": "#/components/schemas/BaseError"}


@FORMATS.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or parse_rfc3339(value) is not None


@FORMATS.checks("json", raises=msgspec.DecodeError)
def _is_json(value: object) -> bool:
    return not isinstance(value, str) or msgspec.json.decode(value) is not ...


@dataclass(frozen=True)
class Operation:
    """One method of one path. ``definition`` is what the description says of it, references followed."""

    id: str
    method: str
    path: str
    definition: Mapping[str, Any]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        parts = (re.escape(part) if part[0] != "{" else "[^/]+" for part in self.path.strip("/").split("/"))
        return re.compile("/" + "/".join(parts))

    @property
    def body(self) -> Mapping[str, Any] | None:
        """The schema of a JSON request, None where there is none."""
        content = self.definition.get("requestBody", {}).get("content", {})
        return content[JSON]["schema"] if JSON in content else None

    @property
    def parameters(self) -> list[Mapping[str, Any]]:
        """Those in the query."""
        return [each for each in self.definition.get("parameters", ()) if each["in"] == "query"]


class Description:
    """The description in a file; ``prefix`` comes before its paths."""

    def __init__(self, file: Path, prefix: str = "") -> None:
        document = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        self._components = _translated(document["components"])
        self._validators: dict[int, tuple[Mapping[str, Any], Draft4Validator]] = {}
        self.operations = [
            Operation(definition["operationId"], method.upper(), prefix + path, self._resolved(definition))
            for path, item in document["paths"].items()
            for method, definition in item.items()
            if method in METHODS
        ]

    def find(self, method: str, path: str) -> Operation | None:
        """The operation of this request; a path without parameters is preferred."""
        found = [each for each in self.operations if each.method == method and each.pattern.fullmatch(path)]
        return min(found, key=lambda each: each.path.count("{"), default=None)

    def answer_findings(
        self, operation: Operation, status: int, media_type: str, content: bytes
    ) -> Iterator[str]:
        """What of the answer does not fit."""
        responses = operation.definition["responses"]
        described = responses.get(str(status), responses.get("default"))
        if described is None and media_type == "application/problem+json":
            yield from self.findings(msgspec.json.decode(content), PROBLEM)
            return
        if described is None:
            yield f"status {status} is not described"
            return
        contents = described.get("content")
        if not contents:
            if content:
                yield f"status {status} has a body"
        elif media_type not in contents:
            yield f"{media_type!r} is none of {', '.join(contents)}"
        elif "json" in media_type:
            yield from self.findings(msgspec.json.decode(content), contents[media_type]["schema"])

    def findings(self, value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
        """What of the value does not fit the schema."""
        for error in self._validator(schema).iter_errors(value):
            yield f"{error.json_path}: {error.message[:300]}"

    def _validator(self, schema: Mapping[str, Any]) -> Draft4Validator:
        """The same one for the same object: what it knows of references is dear. It is kept with its schema, so
        that no other object gets the same id.
        """
        if id(schema) not in self._validators:
            whole = {**_translated(schema), "components": self._components}
            self._validators[id(schema)] = schema, Draft4Validator(whole, format_checker=FORMATS)
        return self._validators[id(schema)][1]

    def resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema with its reference followed and its ``allOf`` joined, one level deep."""
        if "$ref" in schema:
            return self.resolve(self._component(schema["$ref"]))
        joined = dict(schema)
        for part in schema.get("allOf", ()):
            resolved = self.resolve(part)
            joined = {**resolved, **joined}
            joined["properties"] = {**resolved.get("properties", {}), **schema.get("properties", {})}
        return joined

    def examples(self, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Properties of the schema, or of all that it may be one of, with the example that is given of each."""
        resolved = self.resolve(schema)
        for part in (*resolved.get("oneOf", ()), *resolved.get("anyOf", ())):
            yield from self.examples(part)
        for name, described in resolved.get("properties", {}).items():
            for source in (described, self.resolve(described)):
                if "example" in source:
                    yield name, source["example"]

    def _resolved(self, definition: Mapping[str, Any]) -> Mapping[str, Any]:
        """An operation with references to parameters and responses followed, those to schemas left."""
        definition = dict(definition)
        definition["parameters"] = [
            self._component(each["$ref"]) if "$ref" in each else each
            for each in definition.get("parameters", ())
        ]
        definition["responses"] = {
            status: self._component(each["$ref"]) if "$ref" in each else each
            for status, each in definition["responses"].items()
        }
        return definition

    def _component(self, reference: str) -> Mapping[str, Any]:
        _, _, kind, name = reference.split("/")
        component: Mapping[str, Any] = self._components[kind][name]
        return component


def _translated(schema: Any) -> Any:
    """With null allowed where the schema is ``nullable``."""
    if isinstance(schema, list):
        return [_translated(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    translated = {name: _translated(each) for name, each in schema.items()}
    if translated.pop("nullable", None) is not True:
        return translated
    if "enum" in translated:
        translated["enum"] = [*translated["enum"], None]
    return {"anyOf": [translated, {"type": "null"}]}
