"""The retired ``openmeter-metering-inbound`` policy: no longer run, but mapped, so that moving on is one
paste."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from metergate.errors import Finding, error
from metergate.policy.fields import WHOLE, Unset, number_in, shown
from metergate.policy.options import DEFAULT_API_URL, OPTIONS
from metergate.policy.shapes import EXPORT, POLICY_TYPE, PolicyDocument
from metergate.policy.statuses import read_statuses
from metergate.policy.subject import check_path, corrected

RETIRED_TYPE = "openmeter-metering-inbound"
RETIRED_EXPORT = "OpenMeterMeteringInboundPolicy"

MAPPING = (
    ("url", "apiUrl (origin only)"),
    ("eventType", "meter.type"),
    ("data", "meter.data"),
    ("meterValue", "a number in meter.data"),
    ("customerIdPropertyPath", "subjectPath"),
    ("source", "eventSource"),
)


def is_retired(document: PolicyDocument) -> bool:
    """Whether a policy is the retired one; what it exports decides, then its type, never its name."""
    return document.export == RETIRED_EXPORT or (not document.export and document.policy_type == RETIRED_TYPE)


def retired(options: Any) -> Finding:
    """The error for a policy of the retired type with these options (``$``): the whole mapping, and the new
    options with the user's own values in them. The API key is never repeated."""
    mapping = ", ".join(f"{old} → {new}" for old, new in MAPPING)
    message = f'The policy type "{RETIRED_TYPE}" is retired. Its options are now: {mapping}.'
    new = shown(translated(options if isinstance(options, Mapping) else {}), WHOLE)
    fix = f'Write "policyType": "{POLICY_TYPE}", "export": "{EXPORT}" and "options": {new}.'
    return error("$", message, fix)


def translated(old: Mapping[str, Any]) -> dict[str, Any]:
    """The new options that do what the old ones did. Options that both have are taken over."""
    new: dict[str, Any] = {"apiKey": "$env(OPENMETER_API_KEY)"}
    if "url" in old and (origin := _origin(old["url"])) != DEFAULT_API_URL:
        new["apiUrl"] = origin
    new["meter"] = _meter(old)
    if path := old.get("customerIdPropertyPath"):
        new["subjectPath"] = path if not check_path(path) or not isinstance(path, str) else corrected(path)
    if "source" in old:
        new["eventSource"] = old["source"]
    if "statusCodes" in old and not read_statuses(old["statusCodes"])[1]:
        new["meterOnStatusCodes"] = old["statusCodes"]
    new |= {key: value for key, value in old.items() if key in OPTIONS and key not in new}
    return new


def _meter(old: Mapping[str, Any]) -> dict[str, Any]:
    """The one meter that the old policy had; its value becomes ``value`` in the data (``meterValue`` where
    that is taken)."""
    event_type = old.get("eventType")
    meter: dict[str, Any] = {"type": "request" if event_type in (None, "") else event_type}
    data = dict(old["data"]) if isinstance(old.get("data"), Mapping) else {}
    if "meterValue" in old:
        number = number_in(old["meterValue"])
        name = "value" if "value" not in data else "meterValue"
        data[name] = old["meterValue"] if number is None else number
    return {**meter, "data": data} if data else meter


def _origin(url: Any) -> str:
    """Scheme, host and port of the old URL, without credentials; where it has none, as in
    ``$env(URL)/api/v1/events``, what stands before ``/api/``."""
    if isinstance(url, Unset):
        return f"$env({url.variable})"
    text = str(url).strip()
    try:
        parts = urlsplit(text)
    except ValueError:
        return DEFAULT_API_URL
    if parts.scheme in ("http", "https") and parts.netloc:
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    before = text.partition("/api/")[0].rstrip("/")
    return before if before.startswith("$env(") else DEFAULT_API_URL
