"""The ``--config`` file of the embedded server.

``meters:`` is written as in OpenMeter's own config.yaml, so that such a file can be taken as it is: what else
stands in it (its addresses, Kafka, Postgres, …) is left alone. ``features:``, ``customers:`` and
``entitlements:`` are ours, for trying things out: lists of objects as the API takes them. All of it is made
at the start where it is missing.

All findings come at once, with their JSON path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from metergate.embedded.api.meters import MeterInput, input_findings
from metergate.errors import ConfigurationError, Finding, error, nearest

T = TypeVar("T")
SECTIONS = ("meters", "features", "customers", "entitlements")
_IGNORED = {"windowSize"}
"""Fields of a meter in OpenMeter's file without a meaning any more."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is to be there after the start. All but the meters as they stand in the file, in the API's form."""

    meters: tuple[MeterInput, ...] = ()
    features: tuple[Mapping[str, Any], ...] = ()
    customers: tuple[Mapping[str, Any], ...] = ()
    entitlements: tuple[Mapping[str, Any], ...] = ()
    file: str = ""


def read_configuration(path: Path) -> Configuration:
    """The file's content, checked. Raises ConfigurationError with everything that is wrong with it."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exception:
        raise ConfigurationError(
            [Finding("error", "", f"cannot be read: {_cause(exception)}.", "Name another file.", str(path))]
        ) from None
    except yaml.YAMLError as exception:
        raise ConfigurationError(
            [Finding("error", "", f"This is not YAML: {_place(exception)}.", file=str(path))]
        ) from None
    configuration, findings = check_configuration({} if document is None else document, file=str(path))
    if findings:
        raise ConfigurationError([finding.at(file=str(path)) for finding in findings])
    return configuration


def _cause(exception: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8" if isinstance(exception, UnicodeDecodeError) else str(exception.strerror)


def _place(exception: yaml.YAMLError) -> str:
    """Where and why, in a line; the library's own message is several."""
    if isinstance(exception, yaml.MarkedYAMLError) and exception.problem_mark is not None:
        mark = exception.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {exception.problem}"
    return " ".join(str(exception).split())


def check_configuration(document: Any, *, file: str = "") -> tuple[Configuration, list[Finding]]:
    """The document as a Configuration, and all that is wrong with it."""
    if not isinstance(document, Mapping):
        return Configuration(), [error("$", "must be an object", "Write meters: and a list below it.")]
    findings: list[Finding] = []
    sections = {name: _section(document, name, findings) for name in SECTIONS}
    meters = {
        index: meter
        for index, given in sections["meters"].items()
        if (meter := _meter(given, f"$.meters[{index}]", findings)) is not None
    }
    findings += _duplicates(meters)
    objects = {name: tuple(sections[name].values()) for name in SECTIONS[1:]}
    return Configuration(tuple(meters.values()), **objects, file=file), findings


def _section(document: Mapping[str, Any], name: str, findings: list[Finding]) -> dict[int, Mapping[str, Any]]:
    """The objects in a section by their place in it."""
    given = document.get(name)
    if given is None:
        return {}
    if not isinstance(given, list):
        findings.append(error(f"$.{name}", "must be a list", "Begin each item with a dash."))
        return {}
    for index, item in enumerate(given):
        if not isinstance(item, Mapping):
            findings.append(error(f"$.{name}[{index}]", "must be an object"))
    return {index: item for index, item in enumerate(given) if isinstance(item, Mapping)}


def _meter(given: Mapping[str, Any], path: str, findings: list[Finding]) -> MeterInput | None:
    known = [field.encode_name for field in msgspec.structs.fields(MeterInput)]
    unknown = [name for name in given if name not in known and name not in _IGNORED]
    findings += [
        error(f"{path}.{name}", "is not a field of a meter.", nearest(str(name), known)) for name in unknown
    ]
    try:
        meter = msgspec.convert(dict(given), MeterInput)
    except msgspec.ValidationError as exception:
        findings.append(_convert_finding(path, str(exception)))
        return None
    findings += [error(path, message) for message in input_findings(meter)]
    return meter


def _convert_finding(path: str, message: str) -> Finding:
    """msgspec puts the place at the end: ``Expected `str`, got `int` - at `$.slug` ``."""
    text, _, place = message.partition(" - at `$")
    return error(path + place.rstrip("`"), text)


def _duplicates(meters: Mapping[int, MeterInput]) -> list[Finding]:
    seen: dict[str, int] = {}
    findings = []
    for index, meter in meters.items():
        first = seen.setdefault(meter.slug, index)
        if first != index:
            message = f'"{meter.slug}" is the slug of $.meters[{first}] already'
            findings.append(error(f"$.meters[{index}].slug", message, "Give it another."))
    return findings
