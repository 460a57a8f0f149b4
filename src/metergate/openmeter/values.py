"""OpenMeter's entitlement values and customers, read from JSON. Plain functions over bytes.

Members that are not known are passed over and numbers may be integers, floats or decimal strings (the v3
API sends those). Anything else that is not the documented shape raises OpenMeterMisdirected: a proxy's page with
status 200 must never read as "this customer has nothing".
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from metergate.errors import OpenMeterMisdirected

AccessState = Literal["found", "absent", "deleted"]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class FeatureValue(msgspec.Struct, frozen=True, gc=False):
    """What OpenMeter says of one feature of one subject.

    ``balance``, ``usage`` and ``overage`` are None for boolean and static entitlements, and for those that
    do not exist. A struct without garbage collection, because a gateway holds one for every metered feature
    of every known subject.
    """

    feature: str
    has_access: bool
    balance: float | None = None
    usage: float | None = None
    overage: float | None = None


class SubjectAccess(msgspec.Struct, frozen=True):
    """All features of one subject. ``state``: ``found``, or ``absent`` (no such customer), or ``deleted``
    (it was one).

    ``features`` holds the active entitlements, in OpenMeter's order; empty unless found.
    """

    state: AccessState
    features: tuple[FeatureValue, ...] = ()

    def feature(self, key: str) -> FeatureValue | None:
        """The value of one feature; None where the subject has no such entitlement."""
        return next((value for value in self.features if value.feature == key), None)


class MeteredEntitlement(msgspec.Struct, frozen=True):
    """What is fixed of a metered entitlement, beside its changing value.

    ``is_soft_limit``: it grants beyond its balance. ``customer_id`` is whose it is, None where the server has
    no customers. ``period_end``: when its current usage period ends, in seconds since 1970; None where the
    server does not say. ``period_start``: when it began.
    """

    is_soft_limit: bool
    customer_id: str | None = None
    period_end: float | None = None
    period_start: float | None = None


class Customer(msgspec.Struct, frozen=True):
    """A customer as far as it says whose subject is whose."""

    id: str
    key: str | None
    subjects: tuple[str, ...]


def read_access(body: bytes, endpoint: str) -> tuple[FeatureValue, ...]:
    """The features in an answer of ``GET /api/v1/customers/{customerIdOrKey}/access``."""
    entitlements = _member(_object(body, endpoint), "entitlements", dict, endpoint)
    return tuple(_value(key, value, endpoint) for key, value in entitlements.items())


def read_value(body: bytes, feature: str, endpoint: str) -> FeatureValue:
    """One entitlement value (``…/value``)."""
    return _value(feature, _object(body, endpoint), endpoint)


def read_customers(body: bytes, endpoint: str) -> list[Customer]:
    """The customers on a page of ``GET /api/v1/customers``, without the deleted."""
    items = _member(_object(body, endpoint), "items", list, endpoint)
    return list(_customers(items, endpoint))


def read_feature_keys(body: bytes, endpoint: str) -> tuple[str, ...]:
    """The feature keys in an answer of ``GET /api/v1/subjects/{subjectIdOrKey}/entitlements``, each once."""
    keys = (_member(item, "featureKey", str, endpoint) for item in decode_list(body, endpoint))
    return tuple(dict.fromkeys(keys))


def read_subject(body: bytes, endpoint: str) -> tuple[str, str]:
    """Id and key of a subject (``GET /api/v1/subjects/{subjectIdOrKey}``)."""
    subject = _object(body, endpoint)
    return _member(subject, "id", str, endpoint), _member(subject, "key", str, endpoint)


def read_entitlement(body: bytes, endpoint: str) -> MeteredEntitlement | None:
    """One entitlement (``GET /api/v2/customers/{customer}/entitlements/{feature}``); None for one that is not
    metered.
    """
    return _entitlement(_object(body, endpoint), endpoint)


def read_entitlement_of(body: bytes, feature: str, endpoint: str) -> MeteredEntitlement | None:
    """The active entitlement to a feature in an answer of ``GET /api/v1/subjects/{subject}/entitlements``."""
    for item in decode_list(body, endpoint):
        if item.get("featureKey") == feature and item.get("deletedAt") is None:
            return _entitlement(item, endpoint)
    return None


def read_grant_times(body: bytes, endpoint: str) -> tuple[float, ...]:
    """When the grants on a page begin and recur, in seconds since 1970."""
    times = (
        read_timestamp(grant, name, endpoint)
        for grant in decode_list(body, endpoint)
        for name in ("effectiveAt", "nextRecurrence")
    )
    return tuple(time for time in times if time is not None)


def read_timestamp(document: dict[str, Any], name: str, endpoint: str) -> float | None:
    """A member that is an RFC 3339 time, in seconds since 1970; None where it is missing."""
    text = document.get(name)
    if text is None:
        return None
    try:
        return msgspec.convert(text, _Moment).timestamp()
    except (msgspec.ValidationError, OverflowError, ValueError):
        raise misshapen(endpoint, f"has a {name} that is no RFC 3339 time") from None


def decode_list(body: bytes, endpoint: str) -> list[dict[str, Any]]:
    """The objects of a list, bare or in ``items`` of a page. Raises OpenMeterMisdirected for anything else."""
    document = decode_json(body, endpoint)
    items = document.get("items") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise misshapen(endpoint, "is not a list")
    if not all(isinstance(item, dict) for item in items):
        raise misshapen(endpoint, "has an item that is no object")
    return items


def _entitlement(document: dict[str, Any], endpoint: str) -> MeteredEntitlement | None:
    if _member(document, "type", str, endpoint) != "metered":
        return None
    customer, period = document.get("customerId"), document.get("currentUsagePeriod")
    return MeteredEntitlement(
        document.get("isSoftLimit") is True,
        customer if isinstance(customer, str) else None,
        *(
            read_timestamp(period, name, endpoint) if isinstance(period, dict) else None
            for name in ("to", "from")
        ),
    )


def _customers(items: list[Any], endpoint: str) -> Iterator[Customer]:
    for item in items:
        if not isinstance(item, dict):
            raise misshapen(endpoint, "has a customer that is no object")
        if item.get("deletedAt") is not None:
            continue
        attribution = item.get("usageAttribution") or {}
        subjects = attribution.get("subjectKeys") or () if isinstance(attribution, dict) else ()
        yield Customer(_member(item, "id", str, endpoint), item.get("key"), tuple(subjects))


def _value(feature: str, value: Any, endpoint: str) -> FeatureValue:
    if not isinstance(value, dict):
        raise misshapen(endpoint, "has a value that is no object")
    return FeatureValue(
        sys.intern(feature),
        _member(value, "hasAccess", bool, endpoint),
        _number(value, "balance", endpoint),
        _number(value, "usage", endpoint),
        _number(value, "overage", endpoint),
    )


def _number(value: dict[str, Any], name: str, endpoint: str) -> float | None:
    number = value.get(name)
    if number is None:
        return None
    try:
        size = (
            float(number)
            if isinstance(number, int | float | str) and not isinstance(number, bool)
            else math.nan
        )
    except (ValueError, OverflowError):
        size = math.nan
    if not math.isfinite(size):
        raise misshapen(endpoint, f"has a {name} that is no number")
    # The integer zero is shared; 0.0 would be a new object for every feature of every subject.
    return size or 0


def _object(body: bytes, endpoint: str) -> dict[str, Any]:
    document = decode_json(body, endpoint)
    if not isinstance(document, dict):
        raise misshapen(endpoint, "is not an object")
    return document


def decode_json(body: bytes, endpoint: str) -> Any:
    """The document that a body holds. Raises OpenMeterMisdirected where it holds none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise misshapen(endpoint, "is not JSON") from None


def _member(document: dict[str, Any], name: str, kind: type, endpoint: str) -> Any:
    member = document.get(name)
    if not isinstance(member, kind):
        raise misshapen(endpoint, f"has no {name} of type {kind.__name__}")
    return member


def misshapen(endpoint: str, what: str) -> OpenMeterMisdirected:
    """The error for an answer that is not the documented shape; ``what`` goes on after "the body"."""
    return OpenMeterMisdirected(
        f"{endpoint} answered 200, but the body {what}: check that apiUrl is OpenMeter's"
    )
