"""The ``--config`` file of the embedded server.

``meters:`` is written as in OpenMeter's own config.yaml, so that such a file can be taken as it is: its other sections
(addresses, Kafka, Postgres, …) are passed over. ``features:``, ``customers:`` and ``entitlements:`` are ours, for trying
things out: lists of objects as the API takes them. All of it is made at the start where it is missing.

All findings come at once, with their JSON path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from metergate.embedded.api.meters import MeterInput, input_findings
from metergate.embedded.domain.customers import CustomerInput
from metergate.embedded.domain.entitlements import EntitlementInputV2
from metergate.embedded.domain.features import FeatureInput
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.shapes import read_shape
from metergate.errors import ConfigurationError, Finding, error, nearest

T = TypeVar("T", bound=msgspec.Struct)

_IGNORED = {"windowSize"}
"""Fields of a meter in OpenMeter's file without a meaning any more."""

OTHER_SECTIONS = (
    *(
        "address",
        "aggregation",
        "apps",
        "balanceWorker",
        "billing",
        "billingWorker",
        "credit",
        "credits",
        "customer",
    ),
    *(
        "dedupe",
        "entitlements",
        "environment",
        "events",
        "featureGate",
        "ingest",
        "namespace",
        "notification",
    ),
    *(
        "portal",
        "postgres",
        "productCatalog",
        "progressManager",
        "reservedEventTypes",
        "server",
        "sink",
        "stripe",
    ),
    *("subject", "svix", "taxcode", "telemetry", "termination", "unitConfig"),
)
"""The sections of OpenMeter's config.yaml (app/config) that mean nothing here. Their case does not matter there."""


class EntitlementItem(EntitlementInputV2, frozen=True, rename="camel", kw_only=True):
    """An entitlement as the file has it: as the API takes it, and ``customer``, a key or an id."""

    customer: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is to be there after the start. ``passed_over`` are the sections of the file that mean nothing here."""

    meters: tuple[MeterInput, ...] = ()
    features: tuple[FeatureInput, ...] = ()
    customers: tuple[CustomerInput, ...] = ()
    entitlements: tuple[EntitlementItem, ...] = ()
    passed_over: tuple[str, ...] = ()
    file: str = ""

    def __str__(self) -> str:
        """How many there are of each: ``1 meter, no feature, 2 customers, 2 entitlements``."""
        return ", ".join(_counted(len(getattr(self, name)), name.removesuffix("s")) for name in SECTIONS)


SECTIONS = ("meters", "features", "customers", "entitlements")


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'s' if count > 1 else ''}"


def read_configuration(path: Path) -> Configuration:
    """The file's content, checked. Raises ConfigurationError with everything that is wrong with it."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exception:
        beside = [each.name for each in path.parent.glob("*.y*ml") if each.is_file()]
        fix = nearest(path.name, beside) or "Name another file."
        message = f"cannot be read: {_cause(exception)}."
        raise ConfigurationError([Finding("error", "", message, fix, str(path))]) from None
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
    passed_over, findings = _other_sections(document)
    configuration = Configuration(
        tuple(_meters(document, findings).values()),
        tuple(_items(document, "features", FeatureInput, findings).values()),
        tuple(_items(document, "customers", CustomerInput, findings).values()),
        tuple(_items(document, "entitlements", EntitlementItem, findings).values()),
        passed_over,
        file,
    )
    return configuration, findings + _duplicates(document)


def _other_sections(document: Mapping[Any, Any]) -> tuple[tuple[str, ...], list[Finding]]:
    """OpenMeter's own sections, and a finding for each that nobody knows.

    A list is never OpenMeter's where an object is: ``customer:`` above a list is a slip of ours, not its section.
    """
    own = {name.lower() for name in OTHER_SECTIONS}
    passed_over: list[str] = []
    findings: list[Finding] = []
    for name, value in document.items():
        if name in SECTIONS and not _is_openmeters(name, value):
            continue
        close = nearest(str(name), SECTIONS)
        if str(name).lower() in own and not (close and isinstance(value, list)):
            passed_over.append(str(name))
        else:
            fix = close or nearest(str(name), OTHER_SECTIONS) or f"Known are {', '.join(SECTIONS)}."
            findings.append(error(f"$.{name}", "is not a section that is known.", fix))
    return tuple(passed_over), findings


def _is_openmeters(name: str, value: Any) -> bool:
    """``entitlements:`` is an object of settings in OpenMeter's file, and a list in ours."""
    return name == "entitlements" and isinstance(value, Mapping)


def _meters(document: Mapping[str, Any], findings: list[Finding]) -> dict[int, MeterInput]:
    meters = _items(document, "meters", MeterInput, findings)
    for index, meter in meters.items():
        findings += [error(f"$.meters[{index}]", message) for message in input_findings(meter)]
    return meters


def _items(
    document: Mapping[str, Any], section: str, shape: type[T], findings: list[Finding]
) -> dict[int, T]:
    """The items of a section that are as they should be, by their place in it."""
    given = document.get(section)
    if given is None or _is_openmeters(section, given):
        return {}
    if not isinstance(given, list):
        findings.append(error(f"$.{section}", "must be a list", "Begin each item with a dash."))
        return {}
    items: dict[int, T] = {}
    for index, item in enumerate(given):
        path = f"$.{section}[{index}]"
        if not isinstance(item, Mapping):
            findings.append(error(path, "must be an object"))
            continue
        known = {name: value for name, value in item.items() if section != "meters" or name not in _IGNORED}
        read, wrong = read_shape(_as_json(known), shape, path)
        findings += wrong
        if read is not None:
            items[index] = read
    return items


def _duplicates(document: Mapping[str, Any]) -> list[Finding]:
    meters = document.get("meters")
    seen: dict[str, int] = {}
    findings = []
    for index, meter in enumerate(meters if isinstance(meters, list) else ()):
        slug = meter.get("slug") if isinstance(meter, Mapping) else None
        if isinstance(slug, str) and seen.setdefault(slug, index) != index:
            message = f'"{slug}" is the slug of $.meters[{seen[slug]}] already'
            findings.append(error(f"$.meters[{index}].slug", message, "Give it another."))
    return findings


def _as_json(value: Any) -> Any:
    """YAML reads dates as dates; the API takes texts."""
    if isinstance(value, Mapping):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, datetime):
        return format_rfc3339(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, date):
        return format_rfc3339(datetime.combine(value, time(), UTC))
    return value
