"""Entitlements: that a customer may use a feature, for how much usage, and what that comes to at a time.

Three kinds: *boolean* (yes), *static* (yes, with a configuration), *metered* (as long as grants are left).
The value of a metered one is computed in two steps, so that the meter is asked in between::

    question = ask(entitlement, grants, time, gauge=meter is LATEST)
    usages = [usage in phase for phase in question.phases]
    value = question.answer(usages)

Rules: openmeter/entitlement (metered/connector.go, metered/balance.go, service/scheduling.go).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from metergate.embedded.domain import grants as engine
from metergate.embedded.domain.features import Feature, Key
from metergate.embedded.domain.grants import ZERO, Grant, Ledger, Phase, Reset
from metergate.embedded.domain.issuance import (
    Amount,
    GrantInput,
    IssuedGrant,
    Priority,
    RecurringPeriodInput,
    decimal,
    issue,
    issue_after_reset,
    refuse_before_period,
)
from metergate.embedded.domain.moments import parse_rfc3339
from metergate.embedded.domain.periods import END, Recurrence, ceil_minute, floor_minute
from metergate.embedded.domain.usage_periods import UsageReset, last_reset, resets_between, usage_period_at

Kind = Literal["metered", "static", "boolean"]
KINDS: tuple[Kind, ...] = ("metered", "static", "boolean")
DEFAULT_PRIORITY = 1
Id = Annotated[str, Meta(pattern="^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}\\Z")]


class IssueInput(Struct, frozen=True):
    """``issue`` of version 2: the same as issueAfterReset and its priority."""

    amount: Amount
    priority: Priority | UnsetType = UNSET


class EntitlementInput(Struct, frozen=True, rename="camel", kw_only=True):
    """What a client says of an entitlement of any kind. ``config`` is a text that holds JSON."""

    type: Kind
    feature_id: Id | UnsetType = UNSET
    feature_key: Key | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    usage_period: RecurringPeriodInput | UnsetType = UNSET
    config: str | UnsetType = UNSET
    is_soft_limit: bool = False
    measure_usage_from: str | UnsetType = UNSET
    issue_after_reset: Amount | UnsetType = UNSET
    issue_after_reset_priority: Priority | UnsetType = UNSET
    preserve_overage_at_reset: bool = False


class EntitlementInputV2(EntitlementInput, frozen=True, rename="camel", kw_only=True):
    """The same in version 2, which can also issue grants at once."""

    issue: IssueInput | UnsetType = UNSET
    grants: tuple[GrantInput, ...] = ()


class Metering(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What only a metered entitlement has. ``resets`` are those made by hand, oldest first."""

    measure_usage_from: datetime
    is_soft_limit: bool = False
    issue_after_reset: Decimal = ZERO
    issue_after_reset_priority: int | None = None
    preserve_overage_at_reset: bool = False
    resets: tuple[UsageReset, ...] = ()


class Entitlement(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """An entitlement of a customer to a feature. It cannot be changed, only deleted or replaced by another."""

    id: str
    type: Kind
    customer_id: str
    feature_id: str
    feature_key: str
    created_at: datetime
    updated_at: datetime
    active_from: datetime
    active_to: datetime | None = None
    deleted_at: datetime | None = None
    metadata: dict[str, str] | None = None
    usage_period: Recurrence | None = None
    config: str | None = None
    metering: Metering | None = None

    def active_at(self, time: datetime) -> bool:
        """Whether it gives access at ``time``: begun, and neither ended nor deleted by then."""
        return self.active_from <= time < min(self.active_to or END, self.deleted_at or END)


class Refused(ValueError):
    """An entitlement cannot be made as asked; the text is for the client."""


def make_entitlement(
    given: EntitlementInput, feature: Feature, customer_id: str, now: datetime, new_id: Callable[[], str]
) -> tuple[Entitlement, tuple[IssuedGrant, ...]]:
    """The entitlement that the input describes and the grants that come with it.

    Raises:
        Refused: with the first thing that is wrong.
    """
    try:
        period = given.usage_period.read(now) if given.usage_period else None
        _check(given, feature, period)
        entitlement = Entitlement(
            id=new_id(),
            type=given.type,
            customer_id=customer_id,
            feature_id=feature.id,
            feature_key=feature.key,
            created_at=now,
            updated_at=now,
            active_from=now,
            metadata=given.metadata or None,
            usage_period=period,
            config=(given.config or None) if given.type == "static" else None,
            metering=_metering(given, period, now) if period and given.type == "metered" else None,
        )
        return entitlement, _first_grants(given, entitlement, now, new_id)
    except ValueError as exception:
        raise Refused(str(exception)) from exception


@dataclass(frozen=True, slots=True)
class Value:
    """What an entitlement comes to at a time. Only metered ones have a ``ledger``, only static ones a config."""

    has_access: bool
    ledger: Ledger | None = None
    config: str | None = None


NO_ACCESS = Value(has_access=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What a meter must be asked before a metered entitlement's value is known: the usage of each phase."""

    phases: Sequence[Phase]
    ledger: Ledger
    is_soft_limit: bool
    gauge: bool = False
    grants: Sequence[Grant] = ()
    resets: Sequence[Reset] = ()

    def run(self, usages: Sequence[Decimal]) -> engine.Run:
        """How the balances came about, given the usage of each phase in turn (its level where ``gauge``)."""
        return engine.run(self.grants, self.resets, self.ledger, self.phases, usages, gauge=self.gauge)

    def answer(self, usages: Sequence[Decimal]) -> Value:
        """The value, given the same."""
        ledger = self.run(usages).ledger
        return Value(self.is_soft_limit or ledger.balance > 0, ledger)


def plain_value(entitlement: Entitlement) -> Value:
    """The value of an active entitlement that is not metered."""
    return Value(has_access=True, config=entitlement.config)


def ask(entitlement: Entitlement, issued: Sequence[Grant], time: datetime, *, gauge: bool) -> Question:
    """What to ask the meter for the value at ``time``, which is rounded up to the full minute.

    Only the usage since the last reset that forgets what was before is asked for.

    Raises:
        TooManyPhases: where the time is too far away.
    """
    metering = entitlement.metering
    if metering is None:
        raise ValueError("only a metered entitlement has usage")
    until = ceil_minute(time)
    if until <= metering.measure_usage_from:
        return Question((), engine.open_ledger(issued, until), metering.is_soft_limit)
    ledger = opening(entitlement, metering, issued, until, gauge=gauge)
    if gauge:  # of a level nothing is carried over: neither from period to period nor over a change of grants
        phases = engine.plan((), (), ledger.at, until, ledger.period_start)
        return Question(phases, ledger, metering.is_soft_limit, gauge, issued)
    return ask_from(entitlement, metering, issued, ledger, until, gauge=gauge)


def counts_since(
    entitlement: Entitlement, issued: Sequence[Grant], now: datetime, *, gauge: bool
) -> datetime | None:
    """Since when usage matters to values from the current usage period on, whatever is granted or reset in it meanwhile.

    None where it matters no more: not metered, ended, deleted.
    """
    metering, period = entitlement.metering, usage_period_at(entitlement, now)
    if (
        metering is None
        or period is None
        or now >= min(entitlement.active_to or END, entitlement.deleted_at or END)
    ):
        return None
    reset = engine.forgetting_reset(issued, lambda at: last_reset(entitlement, at), period.start, gauge=gauge)
    return metering.measure_usage_from if reset is None else reset.at


def opening(
    entitlement: Entitlement, metering: Metering, issued: Sequence[Grant], since: datetime, *, gauge: bool
) -> Ledger:
    """The ledger from which on usage matters to the balances from ``since`` on."""
    reset = engine.forgetting_reset(issued, lambda at: last_reset(entitlement, at), since, gauge=gauge)
    if reset is None:
        return engine.open_ledger(issued, metering.measure_usage_from)
    return engine.open_at_reset(issued, reset, gauge=gauge)


def ask_from(
    entitlement: Entitlement,
    metering: Metering,
    issued: Sequence[Grant],
    ledger: Ledger,
    until: datetime,
    most: int = engine.MAX_PHASES,
    *,
    gauge: bool,
) -> Question:
    """What to ask the meter to carry this ledger on until then. Raises TooManyPhases beyond ``most``."""
    resets = tuple(islice(resets_between(entitlement, ledger.at, until), most + 1))
    phases = engine.plan(issued, resets, ledger.at, until, ledger.period_start, most)
    return Question(phases, ledger, metering.is_soft_limit, gauge, issued, resets)


def _check(given: EntitlementInput, feature: Feature, period: Recurrence | None) -> None:
    if feature.archived_at is not None:
        raise Refused(f"feature {feature.key} is archived")
    if given.type == "metered":
        _check_metered(given, feature, period)
    elif given.type == "static":
        _check_config(given.config)
    elif given.config:
        raise Refused("config is only for static entitlements")
    if given.type != "metered" and isinstance(given, EntitlementInputV2) and given.grants:
        raise Refused("grants are only supported for metered entitlements")


def _check_metered(given: EntitlementInput, feature: Feature, period: Recurrence | None) -> None:
    if period is None:
        raise Refused("usagePeriod is required for metered entitlements")
    if feature.meter_slug is None:
        raise Refused(f"feature {feature.key} has no meter, so it cannot have metered entitlements")
    if given.config:
        raise Refused("config is not allowed for metered entitlements")
    amount, priority, grants = _issued(given)
    if priority and amount is UNSET:
        raise Refused("issueAfterResetPriority requires issueAfterReset")
    if grants and amount is not UNSET:
        raise Refused("issueAfterReset and grants cannot be used together")


def _check_config(config: str | UnsetType) -> None:
    if not config:
        raise Refused("config is required for static entitlements")
    try:
        msgspec.json.decode(config)
    except msgspec.DecodeError as exception:
        raise Refused(f"config must be a text that holds JSON: {exception}") from exception


def _issued(
    given: EntitlementInput,
) -> tuple[float | UnsetType, int | UnsetType, Sequence[GrantInput]]:
    """Amount and priority of the grant after resets, in the old form or the new, and the grants beside it."""
    if not isinstance(given, EntitlementInputV2):
        return given.issue_after_reset, given.issue_after_reset_priority, ()
    if given.issue:
        return given.issue.amount, given.issue.priority, given.grants
    return given.issue_after_reset, given.issue_after_reset_priority, given.grants


def _metering(given: EntitlementInput, period: Recurrence, now: datetime) -> Metering:
    amount, priority, _ = _issued(given)
    return Metering(
        measure_usage_from=_measure_from(given.measure_usage_from, period, now),
        is_soft_limit=given.is_soft_limit,
        issue_after_reset=decimal(amount or 0),
        issue_after_reset_priority=(priority or DEFAULT_PRIORITY) if amount else None,
        preserve_overage_at_reset=given.preserve_overage_at_reset,
    )


def _measure_from(given: str | UnsetType, period: Recurrence, now: datetime) -> datetime:
    if not given or given == "NOW":
        return floor_minute(now)
    if given == "CURRENT_PERIOD_START":
        return period.period_at(now).start
    try:
        return floor_minute(parse_rfc3339(given))
    except ValueError as exception:
        raise Refused(
            f"measureUsageFrom {given!r} is none of CURRENT_PERIOD_START, NOW or an RFC 3339 date-time"
        ) from exception


def _first_grants(
    given: EntitlementInput, entitlement: Entitlement, now: datetime, new_id: Callable[[], str]
) -> tuple[IssuedGrant, ...]:
    metering = entitlement.metering
    if metering is None:
        return ()
    start = metering.measure_usage_from
    if metering.issue_after_reset > 0:
        priority = metering.issue_after_reset_priority or DEFAULT_PRIORITY
        return (
            issue_after_reset(entitlement.id, metering.issue_after_reset, priority, start, new_id(), now),
        )
    grants = tuple(issue(grant, entitlement.id, new_id(), now) for grant in _issued(given)[2])
    period = usage_period_at(entitlement, now)
    for issued in grants:
        if period is not None:
            refuse_before_period(issued.grant, period.start)
    return grants
