"""Notifications: where they go (channels), what they are about (rules), and what became of each (events).

Rules: openmeter/notification (rule.go, consumer/entitlementbalancethreshold.go, consumer/entitlementreset.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from metergate.embedded.domain.grants import Ledger
from metergate.embedded.domain.issuance import decimal
from metergate.embedded.domain.webhooks import RETRIES, SECRET_PATTERN

Id = Annotated[str, Meta(pattern="^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}\\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Kind = Literal["usage", "balance"]
RuleType = Literal[
    "entitlements.balance.threshold", "entitlements.reset", "invoice.created", "invoice.updated"
]
ThresholdType = Literal["PERCENT", "NUMBER", "balance_value", "usage_percentage", "usage_value"]
State = Literal["SUCCESS", "FAILED", "SENDING", "PENDING", "RESENDING"]
THRESHOLD: RuleType = "entitlements.balance.threshold"
RESET: RuleType = "entitlements.reset"
_PERCENTAGES = ("PERCENT", "usage_percentage")
HUNDRED = Decimal(100)


class Threshold(Struct, frozen=True):
    """A usage that is exceeded, in units or in percent of all grants, or a balance that is fallen below."""

    type: ThresholdType
    value: float

    @property
    def kind(self) -> Kind:
        return "balance" if self.type == "balance_value" else "usage"


class ChannelInput(Struct, frozen=True, rename="camel", kw_only=True):
    """What a client says of a channel."""

    type: Literal["WEBHOOK"]
    name: Name
    url: str
    disabled: bool = False
    metadata: dict[str, str] | None = None
    custom_headers: dict[str, str] | UnsetType = UNSET
    signing_secret: Annotated[str, Meta(pattern=SECRET_PATTERN)] | UnsetType = UNSET


class Channel(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A webhook. Its signing secret is shown to who asks for the channel, and nowhere else."""

    id: str
    name: str
    url: str
    signing_secret: str
    created_at: datetime
    updated_at: datetime
    disabled: bool = False
    metadata: dict[str, str] | None = None
    custom_headers: dict[str, str] = {}
    deleted_at: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether anything is delivered to it."""
        return not self.disabled and self.deleted_at is None

    def __repr__(self) -> str:
        return f"<Channel {self.id}>"


class RuleInput(Struct, frozen=True, rename="camel", kw_only=True):
    """What a client says of a rule. ``features`` are keys or ids."""

    type: RuleType
    name: Name
    channels: Annotated[list[Id], Meta(min_length=1)]
    disabled: bool = False
    metadata: dict[str, str] | None = None
    thresholds: Annotated[list[Threshold], Meta(min_length=1, max_length=10)] | UnsetType = UNSET
    features: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET


class Rule(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A rule. ``features`` are ids; none named: all."""

    id: str
    type: RuleType
    name: str
    channels: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    disabled: bool = False
    metadata: dict[str, str] | None = None
    thresholds: tuple[Threshold, ...] = ()
    features: tuple[str, ...] = ()
    deleted_at: datetime | None = None

    @property
    def active(self) -> bool:
        return not self.disabled and self.deleted_at is None

    def about(self, feature_id: str) -> bool:
        """Whether it concerns this feature."""
        return not self.features or feature_id in self.features


class Attempt(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One try to deliver. Without a ``status_code`` there was no answer, and the body says why."""

    state: State
    timestamp: datetime
    body: str
    duration_ms: int
    url: str
    status_code: int | None = None


class Delivery(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """What became of an event on one channel; ``tries`` since it was last to be sent."""

    channel: str
    state: State
    updated_at: datetime
    reason: str = ""
    attempts: tuple[Attempt, ...] = ()
    next_attempt: datetime | None = None
    tries: int = 0


class NotificationEvent(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Something that happened. ``payload`` is the JSON text that is delivered, the same to every channel."""

    id: str
    type: RuleType
    created_at: datetime
    rule: str
    payload: str
    deliveries: tuple[Delivery, ...] = ()
    feature: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether it is still to be delivered somewhere."""
        return any(delivery.next_attempt is not None for delivery in self.deliveries)


class Mark(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a rule said last of an entitlement, so that it does not say it again in the same usage period."""

    id: str
    period_start: datetime
    threshold: Threshold | None = None


def reached(thresholds: Iterable[Threshold], ledger: Ledger) -> list[Threshold]:
    """The thresholds to tell of: of those that usage has exceeded the highest, of those of a balance the lowest.

    Nothing is reached before there were any grants: every percentage would be.
    """
    available = ledger.available
    if available == 0:
        return []
    found: dict[Kind, tuple[Decimal, Threshold]] = {}
    for threshold in thresholds:
        level = _level(threshold, available)
        if not _active(threshold, level, ledger):
            continue
        known = found.get(threshold.kind)
        if known is None or (level < known[0]) == (threshold.kind == "balance"):
            found[threshold.kind] = (level, threshold)
    return [threshold for _, threshold in found.values()]


def _level(threshold: Threshold, available: Decimal) -> Decimal:
    value = decimal(threshold.value)
    return available * value / HUNDRED if threshold.type in _PERCENTAGES else value


def _active(threshold: Threshold, level: Decimal, ledger: Ledger) -> bool:
    if threshold.kind == "usage":
        return level < ledger.usage
    return level > ledger.balance or level == ledger.balance == 0


def first_deliveries(channels: Sequence[Channel], now: datetime) -> tuple[Delivery, ...]:
    """One for each channel that is open, to be tried at once."""
    return tuple(
        Delivery(channel=channel.id, state="PENDING", updated_at=now, next_attempt=now)
        for channel in channels
        if channel.open
    )


def resent(event: NotificationEvent, channels: Sequence[Channel], now: datetime) -> NotificationEvent:
    """The event, to be delivered to these channels again, its former attempts remembered."""
    known = {delivery.channel: delivery for delivery in event.deliveries}
    for channel in channels:
        old = known.get(channel.id) or Delivery(channel=channel.id, state="PENDING", updated_at=now)
        known[channel.id] = msgspec.structs.replace(
            old, state="RESENDING", updated_at=now, next_attempt=now, tries=0
        )
    return msgspec.structs.replace(event, deliveries=tuple(known.values()))


def after_attempt(event: NotificationEvent, channel: str, attempt: Attempt) -> NotificationEvent:
    """The event after a try; where it did not succeed, with the time of the next one as long as there is one."""
    deliveries = tuple(
        _tried(delivery, attempt) if delivery.channel == channel else delivery
        for delivery in event.deliveries
    )
    return msgspec.structs.replace(event, deliveries=deliveries)


def _tried(delivery: Delivery, attempt: Attempt) -> Delivery:
    again = attempt.state != "SUCCESS" and delivery.tries < len(RETRIES)
    return msgspec.structs.replace(
        delivery,
        state="SENDING" if again else attempt.state,
        reason="" if attempt.state == "SUCCESS" else _reason(attempt),
        updated_at=attempt.timestamp,
        attempts=(*delivery.attempts, attempt),
        next_attempt=attempt.timestamp + RETRIES[delivery.tries] if again else None,
        tries=delivery.tries + 1,
    )


def _reason(attempt: Attempt) -> str:
    return attempt.body if attempt.status_code is None else f"answered {attempt.status_code}"
