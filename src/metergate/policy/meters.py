"""Meters: which events a request is worth. Those of the configuration, those set at run time, and both
together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from metergate.errors import Finding, UsageError, error, warning
from metergate.policy.data import copied, find_fault
from metergate.policy.fields import WHOLE, Fields, Unset, child, is_text, kind, shown
from metergate.policy.instant import read_instant
from metergate.policy.model import Meter
from metergate.policy.secret import Secret
from metergate.policy.subject import as_subject
from metergate.policy.traffic import OPTIONS as TRAFFIC_OPTIONS
from metergate.policy.traffic import read_traffic

_log = logging.getLogger("metergate.policy")

_KEYS = ("type", "data", "subject", "source")
_STATIC_KEYS = (*_KEYS, *TRAFFIC_OPTIONS)
_RUNTIME_KEYS = (*_KEYS, "id", "time")
_SIMPLE_KEYS = frozenset(_RUNTIME_KEYS) - {"time"}
_EXAMPLE = '{"type": "api-request", "data": {"count": 1}}'
_QUANTITIES = frozenset(("value", "count", "amount", "quantity"))
_OTHER_NAMES = ("eventType", "event_type", "eventtype", "event", "slug", "name", "key", "meter")
"""What the type is called elsewhere; named in the fix of a meter without one."""


def read_meters(value: Any, hash_key: Secret | None = None) -> tuple[tuple[Meter, ...], list[Finding]]:
    """The meters of a configuration (one object or a list) and all findings, by path (``$`` is the value). ``hash_key``
    is what expressions with ``hash:`` hash with."""
    if isinstance(value, list | tuple):
        if not value:
            fix = f'Write at least one, such as {_EXAMPLE}, or leave "meter" out.'
            return (), [error("$", "The list has no meter in it.", fix)]
        read = [_read_configured(item, child("$", index), hash_key) for index, item in enumerate(value)]
    else:
        read = [_read_configured(value, "$", hash_key)]
    meters = tuple(meter for meter, _ in read if meter is not None)
    return meters, [finding for _, findings in read for finding in findings]


def runtime_meters(value: Any) -> tuple[Meter, ...]:
    """The meters that ``set_meters`` was given: one (a `Meter` or a mapping such as ``{"type": ..., "data":
    ...}``) or several of them. Their data is copied; what happens to the originals later changes nothing.

    ``id``, ``subject``, ``source`` and ``time`` (an aware datetime or RFC 3339) override the event's own.
    None counts as left out. ``specversion`` and keys that mean nothing are ignored with a logged warning.
    Whether JSON can hold the data is not asked here but when the event is recorded. Raises UsageError, with
    all that is wrong, for anything else.
    """
    alone = isinstance(value, Meter | Mapping)
    if alone:
        value = (value,)
    elif isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise UsageError(f"A meter is a mapping such as {_EXAMPLE} or a list of them, not {kind(value)}.")
    meters: list[Meter] = []
    faults: list[Finding] = []
    for index, item in enumerate(value):
        meter = _simple(item)
        if meter is None:
            meter, findings = _read_set(_as_mapping(item), "meter" if alone else f"meters[{index}]")
            faults += [finding for finding in findings if finding.severity == "error"]
            for finding in findings:
                if finding.severity == "warning":
                    _warn_once(f"{finding.path}: {finding.message} {finding.fix}")
        if meter is not None:
            meters.append(meter)
    if faults:
        raise UsageError(" ".join(f"{fault.path}: {fault.message} {fault.fix}".strip() for fault in faults))
    return tuple(meters)


def merge(configured: tuple[Meter, ...], runtime: tuple[Meter, ...] | None) -> tuple[Meter, ...]:
    """The meters to send. A run-time meter replaces every configured one of its type; configured meters of
    other types stay and come first; several run-time meters of one type are all sent. No run-time meters: the
    configured ones."""
    if not runtime:
        return configured
    replaced = {meter.type for meter in runtime}
    return (*(meter for meter in configured if meter.type not in replaced), *runtime)


def _simple(value: Any) -> Meter | None:
    """The usual run-time meter, without the machinery that explains what is wrong; None where it is needed."""
    if type(value) is not dict or not value.keys() <= _SIMPLE_KEYS:
        return None
    name, data = value.get("type"), value.get("data")
    if not is_text(name) or (data is not None and type(data) is not dict):
        return None
    data = None if data is None else copied(data)
    if len(value) == 1 + ("data" in value):
        return Meter(name, data)
    overrides = value.get("subject"), value.get("source"), value.get("id")
    for text in overrides:
        if text is not None and not is_text(text):
            return None
    return Meter(name, data, *overrides)


def _as_mapping(value: Any) -> Any:
    """A `Meter` as the mapping that it would be written as, without what is None. Anything else as it is."""
    if isinstance(value, Meter):
        value = {key: getattr(value, key) for key in _RUNTIME_KEYS}
    if isinstance(value, Mapping):
        return {key: item for key, item in value.items() if item is not None or key == "type"}
    return value


def _read_configured(value: Any, path: str, hash_key: Secret | None) -> tuple[Meter | None, list[Finding]]:
    """One meter of the configuration, or None and why not."""
    fields, findings = _fields(value, path)
    if fields is None:
        return None, findings
    name = _type(fields)
    data, traffic = read_traffic(fields, _data(fields, runtime=False), hash_key)
    meter = Meter(name, data, _subject(fields), _name(fields, "source"), traffic=traffic)
    _name_meaningless(fields, runtime=False)
    return _unless_refused(meter, fields)


def _read_set(value: Any, path: str) -> tuple[Meter | None, list[Finding]]:
    """One meter that was set at run time, or None and why not."""
    fields, findings = _fields(value, path)
    if fields is None:
        return None, findings
    name = _type(fields)
    data = _data(fields, runtime=True)
    meter = Meter(name, data, _subject(fields), _name(fields, "source"), _name(fields, "id"), _time(fields))
    _name_meaningless(fields, runtime=True)
    return _unless_refused(meter, fields)


def _fields(value: Any, path: str) -> tuple[Fields | None, list[Finding]]:
    if isinstance(value, Mapping):
        return Fields(value, path), []
    fix = f'Write {{"type": {shown(value)}}}.' if isinstance(value, str) and value else f"Write {_EXAMPLE}."
    return None, [error(path, f"A meter has to be an object, not {kind(value)}.", fix)]


def _unless_refused(meter: Meter, fields: Fields) -> tuple[Meter | None, list[Finding]]:
    refused = any(finding.severity == "error" for finding in fields.findings)
    return None if refused else meter, fields.findings


def _type(fields: Fields) -> str:
    value = fields.values.get("type")
    if is_text(value):
        return str.__str__(value)
    others = (fields.values.get(key) for key in _OTHER_NAMES)
    other = next((name for name in others if is_text(name)), "api-request")
    message = 'A meter needs a "type", the event type that OpenMeter counts.'
    if "type" in fields.values:
        message = f'A meter\'s "type" has to be a non-empty string, not {kind(value)}.'
    fields.refuse("type", message, f'Write "type": {shown(other)}.')
    return ""


def _data(fields: Fields, *, runtime: bool) -> dict[str, Any] | None:
    if "data" not in fields.values:
        return None
    value = fields.values["data"]
    if not isinstance(value, Mapping):
        example = {"value": value} if isinstance(value, int | float) or is_text(value) else {"value": 1}
        message = f'A meter\'s "data" has to be an object, not {kind(value)}.'
        fields.refuse("data", message, f'Write "data": {shown(example)}, or leave it out.')
        return None
    if runtime:
        return copied(value)
    data = _without_unset(value, child(fields.path, "data"), fields.findings)
    if fault := find_fault(data, child(fields.path, "data")):
        fields.findings.append(error(fault[0], f"The value is {fault[1]}, which JSON cannot hold."))
    return data


def _without_unset(data: Mapping[str, Any], path: str, findings: list[Finding]) -> dict[str, Any]:
    """A copy of static data in which what an unset variable should have filled is left out, with a
    warning."""

    def kept(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return {
                key: kept(item, child(path, key))
                for key, item in value.items()
                if present(item, child(path, key))
            }
        if isinstance(value, list | tuple):
            return [
                kept(item, child(path, index))
                for index, item in enumerate(value)
                if present(item, child(path, index))
            ]
        return value

    def present(value: Any, path: str) -> bool:
        if isinstance(value, Unset):
            message = (
                f"The environment variable {value.variable} is not set, so this is left out of the data."
            )
            findings.append(warning(path, message, f"Set {value.variable}."))
        return not isinstance(value, Unset)

    copy: dict[str, Any] = kept(data, path)
    return copy


def _subject(fields: Fields) -> str | None:
    if "subject" not in fields.values:
        return None
    value = fields.values["subject"]
    subject = as_subject(value)
    if subject is None:
        fields.refuse("subject", f'A meter\'s "subject" has to be a non-empty string, not {kind(value)}.')
    return subject


def _name(fields: Fields, key: str) -> str | None:
    """A non-empty string that overrides a field of the event; None where it is left out or wrong."""
    if key not in fields.values:
        return None
    value = fields.values[key]
    if is_text(value):
        return str.__str__(value)
    fields.refuse(key, f'A meter\'s "{key}" has to be a non-empty string, not {kind(value)}.')
    return None


def _time(fields: Fields) -> str | None:
    if "time" not in fields.values:
        return None
    try:
        return read_instant(fields.values["time"])
    except ValueError as reason:
        fields.refuse("time", f'A meter\'s "time" is {reason}.')
        return None


def _name_meaningless(fields: Fields, *, runtime: bool) -> None:
    """Warnings for keys without effect, because usage that is thought to be counted silently would not be."""
    hints = {"specversion": 'It is always "1.0".'}
    if not runtime:
        hints["id"] = "A constant id would make all later events duplicates of the first; set it at run time."
        hints["time"] = "A constant time would count all usage at that instant; set it at run time."
    else:
        hints |= dict.fromkeys(TRAFFIC_OPTIONS, "It is for meters of the configuration.")
    for key in _QUANTITIES & fields.values.keys():
        # at run time without the value: a message that differs from request to request would be logged each time
        data = f'{{"{key}": ...}}' if runtime else shown(_with(fields, key), WHOLE)
        hints[key] = f'Usage is counted from the data: write "data": {data}.'
    known = _RUNTIME_KEYS if runtime else _STATIC_KEYS
    if fields.values.get("specversion") == "1.0":
        known = (*known, "specversion")
    fields.name_unknown(known, "meter key", hints)


def _with(fields: Fields, key: str) -> dict[str, Any]:
    """The meter's data with the value in it that was written beside it."""
    data = fields.values.get("data")
    return {**(data if isinstance(data, Mapping) else {}), key: fields.values[key]}


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    """Once per message: what a program sets wrongly it sets wrongly on every request."""
    _log.warning("set_meters: %s", message)
