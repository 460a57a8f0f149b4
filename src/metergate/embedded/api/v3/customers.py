"""A customer as version 3 shows it."""

from __future__ import annotations

from typing import Any

import msgspec

from metergate.embedded.api.listing import present
from metergate.embedded.domain.customers import Customer
from metergate.embedded.domain.moments import format_rfc3339


def customer_view(customer: Customer) -> dict[str, Any]:
    """The customer; one without a key is shown with an empty one."""
    attribution = customer.usage_attribution
    return {"key": customer.key or ""} | present(
        id=customer.id,
        name=customer.name,
        description=customer.description,
        labels=customer.metadata,
        usage_attribution=attribution and {"subject_keys": attribution.subject_keys},
        primary_email=customer.primary_email,
        currency=customer.currency,
        billing_address=customer.billing_address and _address(customer),
        created_at=format_rfc3339(customer.created_at),
        updated_at=format_rfc3339(customer.updated_at),
        deleted_at=customer.deleted_at and format_rfc3339(customer.deleted_at),
    )


def _address(customer: Customer) -> dict[str, Any]:
    address = customer.billing_address
    return {} if not address else present(**msgspec.structs.asdict(address))
