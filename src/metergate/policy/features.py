"""``requiredEntitlements``: feature keys, and objects with settings of a feature's own; and ``explainHeader``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from metergate.errors import error
from metergate.policy.fields import WHOLE, Fields, child, is_text, kind, shown
from metergate.policy.model import EntitlementCheck, FeatureCheck

ON_ERROR = ("allow", "deny")
EXHAUSTED_STATUSES = (402, 403, 429)
EXPLAIN_HEADER = "x-metergate-decision"

OPTIONS = ("feature", "onError", "exhaustedStatus", "reserve")
_FEATURE_FIX = "Write the key of a feature in OpenMeter."
_ELSEWHERE = {"key": "feature", "name": "feature", "featureKey": "feature", "featureId": "feature"}
_FOR_ALL = (
    "ttlSeconds",
    "maxStaleSeconds",
    "timeoutSeconds",
    "mode",
    "maxReadsPerSecond",
    "explainHeader",
    "visibilitySeconds",
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_TAKEN = re.compile(
    r"connection|content-.*|date|keep-alive|location|proxy-.*|retry-after|server|set-cookie|te|trailer"
    r"|transfer-encoding|upgrade|vary|www-authenticate|zp-rid|access-control-.*"
)


def read_required(fields: Fields, check: EntitlementCheck) -> tuple[tuple[str, ...], EntitlementCheck]:
    """The feature keys of ``requiredEntitlements``, and ``check`` with the settings of those that differ from it.

    Duplicates are dropped. Never fewer features than were meant: an unset variable is refused here.
    """
    if "requiredEntitlements" not in fields.values:
        return (), check
    value = fields.values["requiredEntitlements"]
    path = child(fields.path, "requiredEntitlements")
    if not isinstance(value, list | tuple):
        fix = f'Write "requiredEntitlements": {shown(_meant(value), WHOLE)}.'
        message = f'"requiredEntitlements" has to be a list of feature keys, not {kind(value)}.'
        fields.findings.append(error(path, message, fix))
        return (), check
    found: dict[str, FeatureCheck] = {}
    for index, entry in enumerate(value):
        for one in _read_entry(fields, entry, child(path, index), check):
            if found.setdefault(one.feature, one) != one:
                message = f"The feature {shown(one.feature)} is listed before with other settings."
                fields.findings.append(error(child(path, index), message, "Keep one of the two."))
    differing = tuple(one for feature, one in found.items() if one != check.of(feature))
    return tuple(found), replace(check, features=differing)


def _meant(value: Any) -> list[Any]:
    """What somebody who wrote no list may have meant by it."""
    if isinstance(value, Mapping) and is_text(value.get("feature")):
        return [value]
    keys = [key.strip() for key in value.split(",") if key.strip()] if isinstance(value, str) else []
    return keys or ["api-request"]


def _read_entry(fields: Fields, entry: Any, path: str, check: EntitlementCheck) -> Iterator[FeatureCheck]:
    """The settings of one entry's feature; none where it names none."""
    if isinstance(entry, Mapping):
        yield from _read_object(fields, Fields(entry, path), check)
    elif is_text(entry):
        yield check.of(entry)
    else:
        message = f"A feature key has to be a non-empty string, not {kind(entry)}."
        fields.findings.append(error(path, message, _FEATURE_FIX))


def _read_object(outer: Fields, fields: Fields, check: EntitlementCheck) -> Iterator[FeatureCheck]:
    feature = fields.values.get("feature")
    if "feature" not in fields.values:
        fields.refuse("feature", '"feature" is missing.', _FEATURE_FIX)
    elif not is_text(feature):
        fields.refuse(
            "feature", f'"feature" has to be a non-empty string, not {kind(feature)}.', _FEATURE_FIX
        )
    one = FeatureCheck(
        feature if is_text(feature) else "",
        on_error=fields.choice("onError", check.on_error, ON_ERROR),
        exhausted_status=fields.choice("exhaustedStatus", check.exhausted_status, EXHAUSTED_STATUSES),
        reserve=fields.amount("reserve", check.reserve),
    )
    hints = {name: f'Did you mean "{option}"?' for name, option in _ELSEWHERE.items()}
    hints |= dict.fromkeys(_FOR_ALL, 'It is the same for all features: it belongs in "entitlementCheck".')
    fields.name_unknown(OPTIONS, "option", hints)
    outer.include(fields.findings)
    if one.feature:
        yield one


def read_explain_header(fields: Fields) -> str | None:
    """The name that ``explainHeader`` gives, lower case; True is `EXPLAIN_HEADER`, False and left out none."""
    if not fields.given("explainHeader", False):
        return None
    value = fields.values["explainHeader"]
    name = value.strip().lower() if isinstance(value, str) else value
    if name is True or name == "true":
        return EXPLAIN_HEADER
    if name is False or name == "false":
        return None
    fix = f'Write true, which is "{EXPLAIN_HEADER}", or a name of your own.'
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        message = f'"explainHeader" has to be true, false or the name of a header, not {kind(value)}.'
        fields.refuse("explainHeader", message, fix)
    elif _TAKEN.fullmatch(name):
        fields.refuse("explainHeader", f"The header {shown(name)} has a meaning of its own.", fix)
    else:
        return name
    return None
