"""The options of an ``openmeter-inbound`` policy: read, checked, defaults filled in, everything wrong said at
once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from metergate.errors import Finding, error
from metergate.policy.features import EXHAUSTED_STATUSES, ON_ERROR, read_explain_header, read_required
from metergate.policy.fields import WHOLE, Fields, Unset, kind, shown
from metergate.policy.meters import read_meters
from metergate.policy.model import DeliveryOptions, EntitlementCheck, Meter, Policy
from metergate.policy.secret import Secret
from metergate.policy.statuses import DEFAULT, StatusSet, read_statuses
from metergate.policy.subject import SubjectPath, check_path

__all__ = ["DEFAULT_API_URL", "OPTIONS", "Unset", "read_api_url", "read_options", "strictly"]

DEFAULT_API_URL = "https://openmeter.cloud"
DEFAULT_EVENT_SOURCE = "api-gateway"
DEFAULT_SUBJECT_PATH = ".sub"

OPTIONS = (
    "apiUrl",
    "apiKey",
    "meter",
    "meterOnStatusCodes",
    "eventSource",
    "requiredEntitlements",
    "subjectPath",
    "entitlementCheck",
    "delivery",
    "hashKey",
)
_CHECK_OPTIONS = (
    "ttlSeconds",
    "maxStaleSeconds",
    "timeoutSeconds",
    "onError",
    "exhaustedStatus",
    "mode",
    "reserve",
    "maxReadsPerSecond",
    "explainHeader",
    "visibilitySeconds",
)
_DELIVERY_OPTIONS = ("durability", "batchSize", "maxDelayMs")
GROUPS = {"entitlementCheck": _CHECK_OPTIONS, "delivery": _DELIVERY_OPTIONS}
_ELSEWHERE = {
    "url": "apiUrl",
    "baseUrl": "apiUrl",
    "token": "apiKey",
    "meters": "meter",
    "statusCodes": "meterOnStatusCodes",
    "source": "eventSource",
    **dict.fromkeys(
        (
            "entitlement",
            "entitlements",
            "feature",
            "features",
            "featureKey",
            "featureKeys",
            "featureId",
            "featureIds",
        ),
        "requiredEntitlements",
    ),
    "customerIdPropertyPath": "subjectPath",
    "subject": "subjectPath",
}
"""Names that other policies and earlier versions have for an option, and that no likeness of spelling
finds."""

_IN_OTHER_WORDS = {
    "failOpen": 'Write "onError": "allow".',
    "failClosed": 'Write "onError": "deny".',
    "shadow": 'Write "mode": "shadow".',
    "dryRun": 'Write "mode": "shadow".',
}
"""The same for options of ``entitlementCheck`` whose value has another form."""

_LEAST_HASH_KEY = 16
_MOST_IN_A_BATCH = 10_000
_MOST_DELAY_MS = 3_600_000
_BARE_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]+)?(/[^?#]*)?")
_CHARACTERS = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
_URI_REFERENCE = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*:|(?![^/?#]*:))"  # a scheme, or no colon in the first segment
    r"(?://[^/?#\s]*)?" + f"{_CHARACTERS}(?:#{_CHARACTERS})?"
)
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_API_PATH = re.compile(r"/api/v1(/events)?$")


def read_options(options: Any, *, name: str) -> tuple[Policy | None, list[Finding]]:
    """The policy ``name`` that ``options`` describe, and all findings about them; no policy where one is an
    error.

    ``options`` is the parsed JSON with its ``$env(...)`` resolved: a variable that is not set is `Unset`.
    Numbers may be numeric strings, since an environment variable always is one. Paths of findings start at
    the options (``$``).
    """
    if not isinstance(options, Mapping):
        fix = 'Write {"apiKey": "$env(OPENMETER_API_KEY)", "meter": {"type": "api-request"}}.'
        return None, [
            replace(error("$", f"The options have to be an object, not {kind(options)}.", fix), policy=name)
        ]
    fields = Fields(options)
    check = _entitlement_check(fields)
    required, check = read_required(fields, check)
    policy = Policy(
        name=name,
        api_key=_api_key(fields),
        api_url=_api_url(fields),
        meters=_meters(fields),
        statuses=_statuses(fields),
        event_source=_event_source(fields),
        required_entitlements=required,
        subject_path=_subject_path(fields),
        entitlement_check=check,
        delivery=_delivery(fields),
    )
    fields.name_unknown(OPTIONS, "option", _hints(options))
    findings = [replace(finding, policy=name) for finding in fields.findings]
    refused = any(finding.severity == "error" for finding in findings)
    return (None if refused else policy), findings


def strictly(findings: Iterable[Finding]) -> list[Finding]:
    """The findings under ``--strict``: every warning is an error."""
    return [replace(finding, severity="error") for finding in findings]


def _api_key(fields: Fields) -> Secret:
    """The key, whose value no message ever shows."""
    value = fields.values.get("apiKey")
    fix = 'Write "apiKey": "$env(OPENMETER_API_KEY)" and set that variable.'
    if isinstance(value, Unset):
        fields.refuse(
            "apiKey", f"The environment variable {value.variable} is not set.", f"Set {value.variable}."
        )
    elif "apiKey" not in fields.values:
        fields.refuse("apiKey", '"apiKey" is missing.', fix)
    elif not isinstance(value, str):
        fields.refuse("apiKey", '"apiKey" has to be a string.', fix)
    elif not value.strip():
        fields.refuse("apiKey", '"apiKey" is empty.', fix)
    elif value.strip().startswith("$env("):
        fields.refuse("apiKey", '"apiKey" still is the name of a variable, not its value.', fix)
    else:
        return Secret(_header_value(fields, value))
    return Secret("")


def _header_value(fields: Fields, key: str) -> str:
    """The key as ``Authorization: Bearer`` can carry it."""
    bare = key.strip()
    if bare != key:
        fields.doubt("apiKey", '"apiKey" has white space round it, which is left off.', "Remove it.")
    if bare[:7].lower() == "bearer ":
        fields.doubt(
            "apiKey", '"apiKey" begins with "Bearer", which is put there anyway.', "Write the key alone."
        )
        bare = bare[7:].strip()
    if not bare or not bare.isascii() or not bare.isprintable() or " " in bare:
        fields.refuse(
            "apiKey", '"apiKey" has characters in it that an HTTP header cannot carry.', "Copy the key again."
        )
    return bare


def _hash_key(fields: Fields) -> Secret | None:
    """What ``$hash:`` hashes with; None where there is none. No message ever shows it."""
    if "hashKey" not in fields.values:
        return None
    value = fields.values["hashKey"]
    fix = 'Write "hashKey": "$env(METERGATE_HASH_KEY)" and set that variable.'
    if isinstance(value, Unset):
        fields.refuse(
            "hashKey", f"The environment variable {value.variable} is not set.", f"Set {value.variable}."
        )
    elif not isinstance(value, str):
        fields.refuse("hashKey", '"hashKey" has to be a string.', fix)
    elif value.strip().startswith("$env("):
        fields.refuse("hashKey", '"hashKey" still is the name of a variable, not its value.', fix)
    elif len(value.strip()) < _LEAST_HASH_KEY:
        message = f'"hashKey" is too short: who guesses it can tell what was hashed. It needs {_LEAST_HASH_KEY} characters.'
        fields.refuse("hashKey", message, "Take what `openssl rand -hex 32` prints.")
    else:
        return Secret(value.strip())
    return Secret("refused")  # so that nothing is said of every expression as well


def _api_url(fields: Fields) -> str:
    if not fields.given("apiUrl", DEFAULT_API_URL):
        return DEFAULT_API_URL
    url, findings = read_api_url(fields.values["apiUrl"])
    fields.include(findings, "apiUrl")
    return url


def read_api_url(value: Any) -> tuple[str, list[Finding]]:
    """OpenMeter's base URL without trailing slash and ``/api/v1``, and what is wrong with it (``$`` is the
    value)."""
    fix = f'Write "{DEFAULT_API_URL}", or your own OpenMeter\'s URL, such as "http://localhost:8888".'
    if not isinstance(value, str) or not value.strip():
        return DEFAULT_API_URL, [error("$", f'"apiUrl" has to be a URL, not {kind(value)}.', fix)]
    try:
        url = urlsplit(value.strip())
        fault = _url_fault(url)
    except ValueError:  # a port that is none, half an IPv6 address
        return DEFAULT_API_URL, [error("$", f"{shown(value)} is not a URL.", fix)]
    if fault:
        if meant := with_scheme(value.strip()):
            fix = f'Write "{_API_PATH.sub("", meant.rstrip("/"))}".'
        said = '"apiUrl"' if "@" in value or "?" in value else shown(value)  # either may hold a secret
        return DEFAULT_API_URL, [error("$", f"{said} {fault}.", fix)]
    path = url.path.rstrip("/")
    base = f"{url.scheme}://{url.netloc.lower()}"
    trimmed = _API_PATH.sub("", path).rstrip("/")
    if trimmed == path:
        return base + path, []
    message = (
        f'{shown(value)} ends in "{path.removeprefix(trimmed)}", which is appended anyway, so it is cut off.'
    )
    return base + trimmed, [Finding("warning", "$", message, f'Write "{base}{trimmed}".')]


def with_scheme(text: str) -> str:
    """The URL that a host without ``https://`` is meant to be; empty where it is no host. What is near speaks HTTP."""
    bare = _BARE_HOST.fullmatch(text)
    return f"{'http' if _is_near(bare[1]) else 'https'}://{text}" if bare else ""


def _is_near(host: str) -> bool:
    """A private or loopback address, or a name that only a local network knows."""
    try:
        return ip_address(host.strip("[]")).is_private
    except ValueError:
        return "." not in host or host.lower().endswith((".localhost", ".local", ".internal"))


def _url_fault(url: SplitResult) -> str:
    """What keeps ``url`` from being a base URL; empty where nothing does. Raises ValueError where it is no
    URL at all."""
    if url.scheme not in ("http", "https"):
        return "has to begin with https:// or http://"
    if not url.hostname or re.search(r"[\s\\<>^|{}%\"]", url.netloc):
        return "has no valid host"
    if url.port == 0:
        return "has no port that can be reached"
    if "@" in url.netloc:
        return 'holds a user name or a password; a key belongs in "apiKey"'
    if url.query or url.fragment:
        return "has a query or a fragment, to which no path can be appended"
    return ""


def _meters(fields: Fields) -> tuple[Meter, ...]:
    value = fields.values.get("meter", ())
    if "meter" not in fields.values:
        return ()
    meters, findings = read_meters(value, _hash_key(fields))
    fields.include(findings, "meter")
    return meters


def _statuses(fields: Fields) -> StatusSet:
    statuses: StatusSet | None = None
    if fields.given("meterOnStatusCodes", DEFAULT):
        statuses, findings = read_statuses(fields.values["meterOnStatusCodes"])
        fields.include(findings, "meterOnStatusCodes")
    return statuses or StatusSet.parse(DEFAULT)


def _event_source(fields: Fields) -> str:
    """OpenMeter takes any text; CloudEvents wants a URI reference, and other readers may insist on one."""
    source = fields.text("eventSource", DEFAULT_EVENT_SOURCE)
    if not _URI_REFERENCE.fullmatch(source):
        meant = quote(_STRAY_PERCENT.sub("%25", "-".join(source.split())), safe="/:?@!$&'()*+,;=%~")
        meant = meant if _URI_REFERENCE.fullmatch(meant) else f"/{meant}"
        message = (
            '"eventSource" is no URI reference, as CloudEvents has it; OpenMeter takes it, others may not.'
        )
        fields.doubt("eventSource", message, f"Write {shown(meant, WHOLE)}.")
    return source


def _subject_path(fields: Fields) -> SubjectPath:
    if not fields.given("subjectPath", DEFAULT_SUBJECT_PATH):
        return SubjectPath.parse(DEFAULT_SUBJECT_PATH)
    value = fields.values["subjectPath"]
    findings = check_path(value)
    fields.include(findings, "subjectPath")
    refused = any(finding.severity == "error" for finding in findings)
    return SubjectPath.parse(DEFAULT_SUBJECT_PATH if refused else value)


def _entitlement_check(outer: Fields) -> EntitlementCheck:
    fields = outer.object("entitlementCheck")
    default = EntitlementCheck()
    check = EntitlementCheck(
        ttl_seconds=fields.number("ttlSeconds", default.ttl_seconds),
        max_stale_seconds=fields.number("maxStaleSeconds", default.max_stale_seconds),
        timeout_seconds=fields.number("timeoutSeconds", default.timeout_seconds, above=0),
        on_error=fields.choice("onError", default.on_error, ON_ERROR),
        exhausted_status=fields.choice("exhaustedStatus", default.exhausted_status, EXHAUSTED_STATUSES),
        mode=fields.choice("mode", default.mode, ("enforce", "shadow")),
        reserve=fields.amount("reserve", default.reserve),
        max_reads_per_second=fields.number("maxReadsPerSecond", default.max_reads_per_second, above=0),
        explain_header=read_explain_header(fields),
        visibility_seconds=fields.number("visibilitySeconds", default.visibility_seconds),
    )
    fields.name_unknown(_CHECK_OPTIONS, "option", _misplaced("entitlementCheck"))
    outer.include(fields.findings)
    return check


def _delivery(outer: Fields) -> DeliveryOptions:
    fields = outer.object("delivery")
    default = DeliveryOptions()
    delivery = DeliveryOptions(
        durability=fields.choice("durability", default.durability, ("memory", "process", "power")),
        batch_size=fields.whole("batchSize", default.batch_size, least=1, most=_MOST_IN_A_BATCH),
        max_delay_ms=fields.whole("maxDelayMs", default.max_delay_ms, least=0, most=_MOST_DELAY_MS),
    )
    fields.name_unknown(_DELIVERY_OPTIONS, "option", _misplaced("delivery"))
    outer.include(fields.findings)
    return delivery


def _misplaced(group: str) -> dict[str, str]:
    """Hints for options inside ``group`` that belong elsewhere."""
    hints = dict.fromkeys(OPTIONS, f'It belongs outside "{group}".')
    hints |= _IN_OTHER_WORDS if group == "entitlementCheck" else {}
    for other, names in GROUPS.items():
        hints |= {} if other == group else dict.fromkeys(names, f'It belongs in "{other}".')
    return hints


def _hints(options: Mapping[str, Any]) -> dict[str, str]:
    """Hints for unknown options at the top level: an option of a group, written there flat or with a dot, and
    the names that others have for an option."""
    hints = {other: f'Did you mean "{option}"?' for other, option in _ELSEWHERE.items()}
    for group, names in GROUPS.items():
        for option in names:
            inside = shown({option: options.get(option, options.get(f"{group}.{option}"))}, WHOLE)
            hints[option] = hints[f"{group}.{option}"] = f'Write "{group}": {inside}.'
    return hints
