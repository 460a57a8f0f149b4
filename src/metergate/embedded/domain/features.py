"""Features: what a customer can be entitled to; metered where they name a meter, or a part of its usage.

Rules: openmeter/productcatalog/feature. One deliberate widening: keys may have hyphens (``api-request``),
since that is what the policies of gateways are written with.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from metergate.embedded.domain.filters import StringFilter, parse_filter
from metergate.embedded.domain.identifiers import is_id

AGGREGATIONS = ("SUM", "COUNT", "UNIQUE_COUNT", "LATEST")
"""What a meter must compute for a balance to make sense."""

Key = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-z0-9]+(?:[_-][a-z0-9]+)*\\Z")]


class ManualCost(Struct, frozen=True, tag_field="type", tag="manual"):
    """A fixed price of one unit, in dollars."""

    amount: Annotated[str, Meta(pattern=r"^-?[0-9]+(?:\.[0-9]+)?\Z")]


class ModelCost(Struct, frozen=True, tag_field="type", tag="llm", rename="camel", omit_defaults=True):
    """A price that is looked up by language model; kept and given back, not computed with."""

    provider_property: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    model_property: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    token_type_property: str | UnsetType = UNSET
    token_type: str | UnsetType = UNSET


UnitCost = ManualCost | ModelCost


class FeatureInput(Struct, frozen=True, rename="camel", kw_only=True):
    """What a client says of a feature."""

    key: Key
    name: str
    metadata: dict[str, str] | UnsetType = UNSET
    meter_slug: Key | UnsetType = UNSET
    meter_group_by_filters: dict[str, str] | UnsetType = UNSET
    advanced_meter_group_by_filters: dict[str, dict[str, Any]] | UnsetType = UNSET
    unit_cost: UnitCost | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=1024)] | UnsetType = UNSET

    @property
    def filters(self) -> dict[str, dict[str, Any]]:
        """Per dimension of the meter: the condition (``{"$eq": "gpt-4"}``); the advanced form wins."""
        if self.advanced_meter_group_by_filters:
            return self.advanced_meter_group_by_filters
        return {name: {"$eq": value} for name, value in (self.meter_group_by_filters or {}).items()}


class Feature(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A feature. Once archived, no new entitlement can be made for it; those there are stay."""

    id: str
    key: str
    name: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None
    metadata: dict[str, str] | None = None
    meter_slug: str | None = None
    filters: dict[str, dict[str, Any]] = {}
    unit_cost: UnitCost | None = None
    description: str | None = None

    @property
    def simple_filters(self) -> dict[str, str]:
        """Those of the filters that are an equality, in the older form (``{"model": "gpt-4"}``)."""
        return {
            name: condition["$eq"] for name, condition in self.filters.items() if set(condition) == {"$eq"}
        }

    @property
    def conditions(self) -> dict[str, StringFilter]:
        """The filters as the store takes them; ``{}`` filters nothing and is left out."""
        parsed = ((name, parse_filter(condition)) for name, condition in self.filters.items())
        return {name: condition for name, condition in parsed if condition is not None}


def check_feature(given: FeatureInput) -> str:
    """What is wrong with the input in itself, empty where nothing is."""
    if is_id(given.key):
        return f'key "{given.key}" has the form of an id; choose another'
    if given.filters and not given.meter_slug:
        return "meterGroupByFilters and advancedMeterGroupByFilters need a meterSlug"
    for name, condition in given.filters.items():
        try:
            parse_filter(condition)
        except ValueError as exception:
            return f"advancedMeterGroupByFilters.{name}: {exception}"
    return ""


def check_meter(given: FeatureInput, aggregation: str, dimensions: Mapping[str, str]) -> str:
    """Why the feature cannot be metered by a meter with this aggregation and these dimensions, or nothing."""
    if aggregation not in AGGREGATIONS:
        return (
            f'meter "{given.meter_slug}" has aggregation {aggregation}; '
            f"a feature needs one of {', '.join(AGGREGATIONS)}"
        )
    unknown = [name for name in given.filters if name not in dimensions]
    if unknown:
        return f'meter "{given.meter_slug}" has no groupBy {", ".join(sorted(unknown))}'
    return ""


def make_feature(given: FeatureInput, identifier: str, now: datetime) -> Feature:
    """The feature that the input describes."""
    return Feature(
        id=identifier,
        key=given.key,
        name=given.name,
        created_at=now,
        updated_at=now,
        metadata=given.metadata or None,
        meter_slug=given.meter_slug or None,
        filters=given.filters,
        unit_cost=given.unit_cost or None,
        description=given.description or None,
    )
