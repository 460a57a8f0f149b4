"""Channels, rules, and the events that came of them; all in memory too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from metergate.embedded.api.problems import BadRequest, Invalid, NotFound, Problem
from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.notifications import (
    RESET,
    THRESHOLD,
    Channel,
    ChannelInput,
    Mark,
    NotificationEvent,
    Rule,
    RuleInput,
)
from metergate.embedded.domain.webhooks import address_findings, header_findings, make_secret, signing_key
from metergate.embedded.store.database import Cursor, Database
from metergate.embedded.store.features import FeatureStore
from metergate.embedded.store.shelf import Shelf

T = TypeVar("T", Channel, Rule)
_TABLES = ("notification_channels", "notification_rules", "notification_events", "notification_marks")
SCHEMA = [
    f"CREATE TABLE IF NOT EXISTS {table} (id VARCHAR NOT NULL, number BIGINT NOT NULL, document VARCHAR NOT NULL)"
    for table in _TABLES
]
MAX_EVENTS = 10_000
"""Of more, the oldest are forgotten."""


class NotificationStore:
    """``changes`` is held while anything of it changes."""

    def __init__(self, database: Database, features: FeatureStore) -> None:
        self._database = database
        self._features = features
        self._changes = asyncio.Lock()
        self._channels = Shelf("notification_channels", Channel)
        self._rules = Shelf("notification_rules", Rule)
        self._events = Shelf("notification_events", NotificationEvent)
        self._marks = Shelf("notification_marks", Mark)
        for shelf in (self._channels, self._rules, self._events, self._marks):
            shelf.load(database)
        self._pending = {event.id for event in self.events() if event.pending}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to watch for and nothing to deliver."""
        return not self._pending and not any(rule.active for rule in self.rules())

    def channels(self) -> list[Channel]:
        """Every channel, deleted ones too."""
        return list(self._channels.items.values())

    def rules(self) -> list[Rule]:
        """Every rule, deleted ones too."""
        return list(self._rules.items.values())

    def events(self) -> list[NotificationEvent]:
        """Every event that is remembered."""
        return list(self._events.items.values())

    def channel(self, identifier: str) -> Channel:
        """The channel with this id. Raises NotFound, for a deleted one too."""
        found = self._channels.items.get(identifier)
        if found is None or found.deleted_at is not None:
            raise NotFound(f"notification channel not found: {identifier}")
        return found

    def ever_channel(self, identifier: str) -> Channel:
        """The same, a deleted one too."""
        return self._channels.items[identifier]

    def rule(self, identifier: str) -> Rule:
        """The rule with this id. Raises NotFound, for a deleted one too."""
        found = self._rules.items.get(identifier)
        if found is None or found.deleted_at is not None:
            raise NotFound(f"notification rule not found: {identifier}")
        return found

    def ever_rule(self, identifier: str) -> Rule:
        """The same, a deleted one too."""
        return self._rules.items[identifier]

    def event(self, identifier: str) -> NotificationEvent:
        """The event with this id. Raises NotFound."""
        found = self._events.items.get(identifier)
        if found is None:
            raise NotFound(f"notification event not found: {identifier}")
        return found

    def mark(self, identifier: str) -> Mark | None:
        """What was said last, None where nothing was."""
        return self._marks.items.get(identifier)

    async def save_channel(
        self, given: ChannelInput, now: datetime, identifier: str | None = None
    ) -> Channel:
        """A new channel, or that with this id changed. Raises Invalid, NotFound."""
        custom = given.custom_headers or {}
        if findings := [*address_findings(given.url), *header_findings(custom)]:
            raise Invalid("\n".join(findings))
        async with self._changes:
            old = None if identifier is None else self.channel(identifier)
            channel = Channel(
                id=old.id if old else new_id(now),
                name=given.name,
                url=given.url,
                signing_secret=_checked_secret(given, old),
                created_at=old.created_at if old else now,
                updated_at=now,
                disabled=given.disabled,
                metadata=given.metadata or None,
                custom_headers=custom,
            )
            return await self._put(self._channels, channel)

    async def delete_channel(self, identifier: str, now: datetime) -> None:
        """Raises NotFound, and Invalid while a rule has it."""
        async with self._changes:
            channel = self.channel(identifier)
            if any(channel.id in rule.channels and rule.deleted_at is None for rule in self.rules()):
                raise Invalid(f"notification channel {channel.id} is used by a rule; delete that first")
            await self._put(self._channels, msgspec.structs.replace(channel, deleted_at=now, updated_at=now))

    async def save_rule(self, given: RuleInput, now: datetime, identifier: str | None = None) -> Rule:
        """A new rule, or that with this id changed. Raises BadRequest, Invalid, NotFound."""
        async with self._changes:
            old = None if identifier is None else self.rule(identifier)
            if given.type not in (THRESHOLD, RESET):
                raise Problem(f"notifications of {given.type} are not served here", status=501)
            if old is not None and old.type != given.type:
                raise Invalid(f"the type of notification rule {old.id} cannot be changed")
            if (given.type == THRESHOLD) != bool(given.thresholds):
                raise Invalid(f"thresholds are required for {THRESHOLD} and not allowed for others")
            rule = Rule(
                id=old.id if old else new_id(now),
                type=given.type,
                name=given.name,
                channels=tuple(self.channel(channel).id for channel in dict.fromkeys(given.channels)),
                created_at=old.created_at if old else now,
                updated_at=now,
                disabled=given.disabled,
                metadata=given.metadata or None,
                thresholds=tuple(given.thresholds or ()),
                features=tuple(self._feature_id(feature) for feature in given.features or ()),
            )
            return await self._put(self._rules, rule)

    def _feature_id(self, id_or_key: str) -> str:
        """Raises 400 for a feature that is not there: it is not the rule that was looked for."""
        try:
            return self._features.find(id_or_key).id
        except NotFound as exception:
            raise BadRequest(f"feature not found: {id_or_key}") from exception

    async def delete_rule(self, identifier: str, now: datetime) -> None:
        """Raises NotFound."""
        async with self._changes:
            rule = self.rule(identifier)
            await self._put(self._rules, msgspec.structs.replace(rule, deleted_at=now, updated_at=now))

    async def add(self, event: NotificationEvent, marks: Iterable[Mark] = ()) -> None:
        """Keep a new event, and that it was said, both or none."""
        marks = list(marks)
        surplus = list(self._events.items)[: max(len(self._events.items) + 1 - MAX_EVENTS, 0)]

        def put(cursor: Cursor) -> None:
            self._events.put(cursor, event)
            for mark in marks:
                self._marks.put(cursor, mark)
            for identifier in surplus:
                self._events.drop(cursor, identifier)

        await self._database.write(put)
        self._keep_event(event)
        for mark in marks:
            self._marks.keep(mark)
        for identifier in surplus:
            self._events.forget(identifier)
            self._pending.discard(identifier)

    async def change(self, event: NotificationEvent) -> None:
        """Keep what became of an event."""
        await self._database.write(lambda cursor: self._events.put(cursor, event))
        self._keep_event(event)

    def _keep_event(self, event: NotificationEvent) -> None:
        self._events.keep(event)
        (self._pending.add if event.pending else self._pending.discard)(event.id)

    def due(self, now: datetime) -> Sequence[tuple[NotificationEvent, str]]:
        """The events that are to be delivered by now, each with its channel."""
        return [
            (event, delivery.channel)
            for event in map(self.event, tuple(self._pending))
            for delivery in event.deliveries
            if delivery.next_attempt is not None and delivery.next_attempt <= now
        ]

    async def _put(self, shelf: Shelf[T], item: T) -> T:
        await self._database.write(lambda cursor: shelf.put(cursor, item))
        shelf.keep(item)
        return item


def _checked_secret(given: ChannelInput, old: Channel | None) -> str:
    if not given.signing_secret:
        return old.signing_secret if old else make_secret()
    try:
        signing_key(given.signing_secret)
    except ValueError as exception:
        raise Invalid(str(exception)) from exception
    return given.signing_secret
