"""Features, customers and entitlements from the ``--config`` file, made at the start where they are missing.

Each item is written as the API takes it; an entitlement also names its customer, by key or id::

    features:
      - {key: api-request, name: API requests, meterSlug: api_request}
      - {key: sso, name: Single sign-on}
    customers:
      - {key: acme, name: Acme, usageAttribution: {subjectKeys: [acme]}}
    entitlements:
      - {customer: acme, featureKey: api-request, type: metered, usagePeriod: {interval: MONTH}, issueAfterReset: 100}
      - {customer: acme, featureKey: sso, type: boolean}

What is there already is left as it is, and where it differs the difference is reported: an entitlement carries a
balance, and changing a file must not reset it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from metergate.embedded.api.problems import Conflict, NotFound, Problem
from metergate.embedded.config import EntitlementItem
from metergate.embedded.domain.customers import Customer, CustomerInput, make_customer
from metergate.embedded.domain.entitlements import Entitlement, Refused, make_entitlement
from metergate.embedded.domain.features import Feature, FeatureInput, make_feature
from metergate.embedded.store.catalog import Catalog
from metergate.errors import ConfigurationError, Finding, error, nearest

T = TypeVar("T", bound=msgspec.Struct)

AT_ONCE = 1_000
"""So many items of a section are made at a time: those that the writer thread finds waiting have one commit."""
_FEATURE_FIELDS = ("name", "metadata", "meter_slug", "filters", "unit_cost")
_CUSTOMER_FIELDS = CustomerInput.__struct_fields__
_ENTITLEMENT_FIELDS = ("type", "metadata", "config")
_METERING_FIELDS = (
    "is_soft_limit",
    "issue_after_reset",
    "issue_after_reset_priority",
    "preserve_overage_at_reset",
)


async def seed(
    catalog: Catalog,
    now: datetime,
    *,
    features: Sequence[FeatureInput] = (),
    customers: Sequence[CustomerInput] = (),
    entitlements: Sequence[EntitlementItem] = (),
    file: str = "",
) -> list[str]:
    """Make what is missing; the differences to what is there, one sentence each.

    Raises:
        ConfigurationError: with everything that cannot be made, its path in the file first.
    """
    seeding = _Seeding(catalog, now)
    seeding.known = [feature.key for feature in features]
    seeding.known += [customer.key for customer in customers if customer.key]
    await seeding.all("features", features, seeding.feature, at_once=1)
    await seeding.all("customers", customers, seeding.customer)
    await seeding.all("entitlements", entitlements, seeding.entitlement)
    if seeding.findings:
        raise ConfigurationError([finding.at(file=file) for finding in seeding.findings])
    return seeding.warnings


class _Seeding:
    def __init__(self, catalog: Catalog, now: datetime) -> None:
        self._catalog = catalog
        self._now = now
        self.known: list[str] = []
        """The keys of the file, of which a name that is not found may be a misspelling."""
        self.findings: list[Finding] = []
        self.warnings: list[str] = []

    async def all(
        self, section: str, items: Sequence[T], make: Callable[[T], Awaitable[None]], at_once: int = AT_ONCE
    ) -> None:
        """Make each item of a section, many at a time; what cannot be made becomes a finding and the others are tried."""
        for first in range(0, len(items), at_once):
            chunk = items[first : first + at_once]
            made = await asyncio.gather(*map(make, chunk), return_exceptions=True)
            for index, outcome in enumerate(made, first):
                if isinstance(outcome, Problem):
                    self._note(f"$.{section}[{index}]", outcome)
                elif outcome is not None:
                    raise outcome

    def _note(self, place: str, problem: Problem) -> None:
        message = problem.detail.removeprefix(problem.prefix)
        _, missing, name = message.partition(" not found: ")
        fix = nearest(name, [each for each in self.known if each != name]) if missing else ""
        self.findings.append(error(place, message, fix))

    async def feature(self, given: FeatureInput) -> None:
        store = self._catalog.features
        try:
            present = store.find(given.key)
        except NotFound:
            await store.create(given, self._now)
            return
        self._compare(
            f"feature {given.key}", present, make_feature(given, present.id, self._now), _FEATURE_FIELDS
        )

    async def customer(self, given: CustomerInput) -> None:
        present = await self._customer(given)
        if present is None:
            try:
                await self._catalog.customers.create(given, self._now)
                return
            except Conflict:
                present = await self._customer(given)  # an earlier item made it meanwhile
                if present is None:
                    raise
        wanted = make_customer(given, identifier=present.id, created_at=present.created_at, now=self._now)
        self._compare(f"customer {present.key or present.id}", present, wanted, _CUSTOMER_FIELDS)

    async def _customer(self, given: CustomerInput) -> Customer | None:
        attributed = given.usage_attribution.subject_keys if given.usage_attribution else ()
        owners = await self._catalog.customers.customers_of([given.key] if given.key else attributed)
        return self._catalog.customers.find(next(iter(owners.values()))) if owners else None

    async def entitlement(self, given: EntitlementItem) -> None:
        customer = self._catalog.customers.find_active(given.customer)
        present = self._entitlement(given, customer)
        if present is None:
            try:
                await self._catalog.entitlements.create(customer.id, given, self._now)
                return
            except Conflict:
                present = self._entitlement(given, customer)  # an earlier item made it meanwhile
                if present is None:
                    raise
        self._compare_entitlement(given, customer, present)

    def _entitlement(self, given: EntitlementItem, customer: Customer) -> Entitlement | None:
        feature = given.feature_key or given.feature_id or ""
        try:
            return self._catalog.entitlements.find_of(customer.id, feature, self._now)
        except NotFound:
            return None

    def _compare_entitlement(self, given: EntitlementItem, customer: Customer, present: Entitlement) -> None:
        feature: Feature = self._catalog.features.find(present.feature_id)
        try:
            wanted, _ = make_entitlement(given, feature, customer.id, present.created_at, lambda: present.id)
        except Refused as exception:
            raise Problem(str(exception)) from exception
        name = f"entitlement of {given.customer} to {feature.key}"
        self._compare(name, present, wanted, _ENTITLEMENT_FIELDS)
        if present.metering is not None and wanted.metering is not None:
            self._compare(name, present.metering, wanted.metering, _METERING_FIELDS)
        intervals = [each.usage_period and each.usage_period.interval for each in (present, wanted)]
        if intervals[0] != intervals[1]:
            self._differs(name, ["usagePeriod"])

    def _compare(
        self, name: str, present: msgspec.Struct, wanted: msgspec.Struct, fields: Sequence[str]
    ) -> None:
        different = [field for field in fields if getattr(present, field) != getattr(wanted, field)]
        if different:
            self._differs(name, [_camel(field) for field in different])

    def _differs(self, name: str, fields: Sequence[str]) -> None:
        self.warnings.append(
            f"the {name} differs from the configuration in {', '.join(fields)} and stays as it is; "
            "change it over the API"
        )


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
