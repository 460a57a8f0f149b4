"""Customers and subjects: what they are, whose usage a subject's is, and which customers cannot coexist.

Rules: openmeter/customer and openmeter/subject. The usage of a customer is that of its key and of its subject
keys. No two customers share a key or a subject; where old data has it nevertheless, the key wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Key = Annotated[str, Meta(min_length=1, max_length=256)]
Moment = Annotated[datetime, Meta(tz=True)]
_CURRENCY = re.compile(r"[A-Z]{3}")
_COUNTRY = re.compile(r"[A-Z]{2}")


class Address(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Where a customer's bills go. ``country`` is two capital letters (ISO 3166-1)."""

    country: str | UnsetType = UNSET
    postal_code: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    city: str | UnsetType = UNSET
    line1: str | UnsetType = UNSET
    line2: str | UnsetType = UNSET
    phone_number: str | UnsetType = UNSET


class UsageAttribution(Struct, frozen=True, rename="camel"):
    """The subjects whose usage is the customer's, besides the one named like the customer's key."""

    subject_keys: tuple[Annotated[str, Meta(min_length=1)], ...]


class CustomerInput(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What a client says of a customer, when creating it and when replacing it."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    key: Key | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=1024)] | UnsetType = UNSET
    usage_attribution: UsageAttribution | UnsetType = UNSET
    primary_email: str | UnsetType = UNSET
    currency: str | UnsetType = UNSET
    billing_address: Address | UnsetType = UNSET
    metadata: dict[str, str] | None = None


class Customer(CustomerInput, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A customer. ``deleted_at`` is set once it is deleted; it is kept, so that its id stays known."""

    id: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None

    @property
    def subject_keys(self) -> tuple[str, ...]:
        """The subjects attributed to it, the key not among them unless it was named."""
        return self.usage_attribution.subject_keys if self.usage_attribution else ()

    @property
    def subjects(self) -> frozenset[str]:
        """Every subject whose usage is this customer's: the key and the subject keys."""
        return frozenset((*self.subject_keys, self.key) if self.key else self.subject_keys)

    @property
    def first_subject_key(self) -> str:
        """The one subject that version 1 of the API shows of it: the first in sorted order, or nothing."""
        return min(self.subject_keys, default="")


class SubjectInput(Struct, frozen=True, rename="camel"):
    """What a client says of a subject. What is unset stays as it is, null clears it.

    The current period must be one in form and is not kept, as in OpenMeter.
    """

    key: Annotated[str, Meta(min_length=1)]
    display_name: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    stripe_customer_id: str | UnsetType | None = UNSET
    current_period_start: Moment | UnsetType = UNSET
    current_period_end: Moment | UnsetType = UNSET


class Subject(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A name for something that uses: what events call their subject."""

    id: str
    key: str
    created_at: datetime
    updated_at: datetime
    display_name: str | None = None
    metadata: dict[str, Any] | None = None
    stripe_customer_id: str | None = None


def check_customer(given: CustomerInput) -> str:
    """What is wrong with the values themselves, empty where nothing is."""
    attributed = given.usage_attribution.subject_keys if given.usage_attribution else ()
    if not given.key and not attributed:
        return "either key or usageAttribution.subjectKeys must be provided"
    if given.currency and not _CURRENCY.fullmatch(given.currency):
        return f"currency {given.currency!r} is not a three-letter code such as USD"
    country = given.billing_address.country if given.billing_address else UNSET
    if country and not _COUNTRY.fullmatch(country):
        return f"billingAddress.country {country!r} is not a two-letter code such as US"
    return ""


def conflict(
    given: CustomerInput, own_id: str, by_id: Callable[[str], bool], owner_of: Callable[[str], str | None]
) -> str:
    """Why this customer cannot exist beside the others, empty where it can.

    ``owner_of(name)`` is the id of the active customer that has the name as its key or among its subjects.
    """
    if given.key:
        if given.key != own_id and by_id(given.key):
            return f'key "{given.key}" is the id of another customer'
        if owner_of(given.key) not in {None, own_id}:
            return f'key "{given.key}" is already used by another customer'
    attributed = given.usage_attribution.subject_keys if given.usage_attribution else ()
    taken = [key for key in attributed if owner_of(key) not in {None, own_id}]
    if taken:
        return f"subject keys [{', '.join(taken)}] already belong to another customer"
    return ""


def make_customer(given: CustomerInput, *, identifier: str, created_at: datetime, now: datetime) -> Customer:
    """The customer that the input describes; a subject named twice is attributed once."""
    fields = {name: getattr(given, name) for name in CustomerInput.__struct_fields__}
    if given.usage_attribution:
        fields["usage_attribution"] = UsageAttribution(
            tuple(dict.fromkeys(given.usage_attribution.subject_keys))
        )
    return Customer(**fields, id=identifier, created_at=created_at, updated_at=now)


def upsert_subject(given: SubjectInput, existing: Subject | None, identifier: str, now: datetime) -> Subject:
    """The subject after the input: what was not named stays, null clears."""
    base = existing or Subject(id=identifier, key=given.key, created_at=now, updated_at=now)
    named = {
        name: value
        for name in ("display_name", "metadata", "stripe_customer_id")
        if (value := getattr(given, name)) is not UNSET
    }
    return msgspec.structs.replace(base, updated_at=now, **named)


class CustomerFilters(Struct, frozen=True, kw_only=True):
    """Which customers to list. Texts match any part of the value, in upper or lower case."""

    key: str = ""
    name: str = ""
    primary_email: str = ""
    subject: str = ""
    plan_key: str = ""
    include_deleted: bool = False

    def __call__(self, customer: Customer) -> bool:
        """Whether the customer is to be listed. Nobody has a plan here, so a plan key matches none."""
        return (
            (self.include_deleted or customer.deleted_at is None)
            and not self.plan_key
            and _part(self.key, [customer.key or ""])
            and _part(self.name, [customer.name])
            and _part(self.primary_email, [customer.primary_email or ""])
            and _part(self.subject, customer.subject_keys)
        )


def _part(text: str, values: Iterable[str]) -> bool:
    return not text or any(text.casefold() in value.casefold() for value in values)
