"""What a notification says: the entitlement, its feature, whose it is, and its value."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from metergate.embedded.api.access import value_view
from metergate.embedded.api.customers import customer_view
from metergate.embedded.api.entitlements import show_v1
from metergate.embedded.api.features import feature_view
from metergate.embedded.api.problems import NotFound
from metergate.embedded.api.subjects import subject_view
from metergate.embedded.domain.customers import Customer
from metergate.embedded.domain.entitlements import Entitlement, Value
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.domain.notifications import Rule, Threshold
from metergate.embedded.services import Services


def payload(
    services: Services,
    identifier: str,
    rule: Rule,
    entitlement: Entitlement,
    value: Value,
    threshold: Threshold | None,
    now: datetime,
) -> str:
    """The JSON text that is delivered."""
    catalog = services.catalog
    customer = catalog.customers.find(entitlement.customer_id)
    data: dict[str, Any] = {
        "entitlement": show_v1(catalog, services.clock)(entitlement),
        "feature": feature_view(catalog.features.find(entitlement.feature_id)),
        "subject": _subject(services, customer),
        "customer": customer_view(customer),
        "value": value_view(value),
    }
    if threshold is not None:
        data["threshold"] = threshold
    body = {"id": identifier, "type": rule.type, "timestamp": format_rfc3339(now), "data": data}
    return msgspec.json.encode(body).decode()


def subject_key(customer: Customer) -> str:
    """The one subject that a notification names: the first, or the customer's key where it has no other."""
    return customer.first_subject_key or customer.key or ""


def _subject(services: Services, customer: Customer) -> dict[str, Any]:
    key = subject_key(customer)
    try:
        return subject_view(services.catalog.customers.find_subject(key))
    except NotFound:
        created, updated = format_rfc3339(customer.created_at), format_rfc3339(customer.updated_at)
        return {"id": customer.id, "key": key, "createdAt": created, "updatedAt": updated}
