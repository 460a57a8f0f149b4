"""``/api/v1/notification``: channels, rules, and the events that came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.listing import (
    ID,
    KEY_OR_ID,
    identifier,
    names,
    ordered,
    present,
    read_page,
    segment,
)
from metergate.embedded.api.problems import Invalid
from metergate.embedded.api.requests import boolean, json_body, json_response, moment
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.domain.notifications import (
    THRESHOLD,
    Attempt,
    Channel,
    ChannelInput,
    Delivery,
    Id,
    NotificationEvent,
    Rule,
    RuleInput,
    resent,
)
from metergate.embedded.notifications.sample import sample_event
from metergate.embedded.services import Services

_CHANNELS = "/api/v1/notification/channels"
_RULES = "/api/v1/notification/rules"
_EVENTS = "/api/v1/notification/events"
_ORDERS = {
    "id": lambda item: item.id,
    "type": lambda item: getattr(item, "type", ""),
    "createdAt": lambda item: item.created_at,
    "updatedAt": lambda item: item.updated_at,
}
_EVENT_ORDERS = {name: _ORDERS[name] for name in ("createdAt", "id")}


class ResendInput(msgspec.Struct, frozen=True):
    """To which channels to send an event again; none named: to all it was for."""

    channels: list[Id] | msgspec.UnsetType = msgspec.UNSET


_read_channel = msgspec.json.Decoder(ChannelInput).decode
_read_rule = msgspec.json.Decoder(RuleInput).decode
_read_resend = msgspec.json.Decoder(ResendInput).decode


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    return [*_channel_routes(services), *_rule_routes(services), *_event_routes(services)]


def _channel_routes(services: Services) -> list[Route]:
    store, clock = services.catalog.notifications, services.clock

    async def list_them(request: Request) -> Response:
        found = _listed(request, store.channels())
        return json_response(read_page(request).of(ordered(request, found, _ORDERS, "id"), channel_view))

    async def create(request: Request) -> Response:
        given = await json_body(request, _read_channel)
        return json_response(channel_view(await store.save_channel(given, clock())), 201)

    async def get(request: Request) -> Response:
        return json_response(channel_view(store.channel(identifier(request, "channel"))))

    async def update(request: Request) -> Response:
        given = await json_body(request, _read_channel)
        changed = await store.save_channel(given, clock(), identifier(request, "channel"))
        return json_response(channel_view(changed))

    async def delete(request: Request) -> Response:
        await store.delete_channel(identifier(request, "channel"), clock())
        return Response(status_code=204)

    return _five(_CHANNELS, "channel", list_them, create, get, update, delete)


def _rule_routes(services: Services) -> list[Route]:
    store, clock = services.catalog.notifications, services.clock
    view = _rule_view(services)

    async def list_them(request: Request) -> Response:
        channels = set(request.query_params.getlist("channel"))
        features = set(names(request, "feature", KEY_OR_ID))
        known = {feature.id: feature.key for feature in services.catalog.features.all()}
        found = [
            rule
            for rule in _listed(request, store.rules())
            if (not channels or channels & set(rule.channels))
            and (not features or features & {name for each in rule.features for name in (each, known[each])})
        ]
        return json_response(read_page(request).of(ordered(request, found, _ORDERS, "id"), view))

    async def create(request: Request) -> Response:
        made = await store.save_rule(await json_body(request, _read_rule), clock())
        services.notifier.resume()
        return json_response(view(made), 201)

    async def get(request: Request) -> Response:
        return json_response(view(store.rule(identifier(request, "rule"))))

    async def update(request: Request) -> Response:
        given = await json_body(request, _read_rule)
        changed = await store.save_rule(given, clock(), identifier(request, "rule"))
        services.notifier.resume()
        return json_response(view(changed))

    async def delete(request: Request) -> Response:
        await store.delete_rule(identifier(request, "rule"), clock())
        return Response(status_code=204)

    async def test(request: Request) -> Response:
        event = sample_event(store, store.rule(identifier(request, "rule")), clock())
        await store.add(event)
        services.notifier.resume()
        return json_response(_event_view(services)(event), 201)

    one = f"{_RULES}/{{rule}}/test"
    return [
        *_five(_RULES, "rule", list_them, create, get, update, delete),
        Route(one, test, methods=["POST"]),
    ]


def _event_routes(services: Services) -> list[Route]:
    store, clock = services.catalog.notifications, services.clock
    view = _event_view(services)

    async def list_them(request: Request) -> Response:
        found = ordered(request, _wanted(request, store.events()), _EVENT_ORDERS, "createdAt")
        return json_response(read_page(request).of(found, view))

    async def get(request: Request) -> Response:
        return json_response(view(store.event(segment(request, "event"))))

    async def resend(request: Request) -> Response:
        name = identifier(request, "event")
        given = await json_body(request, _read_resend)
        event = store.event(name)
        names = given.channels or list(store.ever_rule(event.rule).channels)
        channels = [store.channel(name) for name in names]
        if shut := [channel.id for channel in channels if not channel.open]:
            raise Invalid(f"notification channel {shut[0]} is disabled")
        await store.change(resent(event, channels, clock()))
        services.notifier.resume()
        return Response(status_code=202)

    return [
        Route(_EVENTS, list_them, methods=["GET"]),
        Route(f"{_EVENTS}/{{event}}", get, methods=["GET"]),
        Route(f"{_EVENTS}/{{event}}/resend", resend, methods=["POST"]),
    ]


def _five(
    path: str, name: str, list_them: Any, create: Any, get: Any, update: Any, delete: Any
) -> list[Route]:
    one = f"{path}/{{{name}}}"
    return [
        Route(path, list_them, methods=["GET"]),
        Route(path, create, methods=["POST"]),
        Route(one, get, methods=["GET"]),
        Route(one, update, methods=["PUT"]),
        Route(one, delete, methods=["DELETE"]),
    ]


def _listed(request: Request, items: Sequence[Any]) -> list[Any]:
    """Those that are neither deleted nor disabled, unless these are asked for as well."""
    deleted, disabled = boolean(request, "includeDeleted"), boolean(request, "includeDisabled")
    return [
        item for item in items if (deleted or item.deleted_at is None) and (disabled or not item.disabled)
    ]


def _wanted(request: Request, events: Sequence[NotificationEvent]) -> list[NotificationEvent]:
    start, end = moment(request, "from"), moment(request, "to")
    features, subjects = (set(request.query_params.getlist(name)) for name in ("feature", "subject"))
    rules, channels = (set(names(request, name, ID)) for name in ("rule", "channel"))

    def wanted(event: NotificationEvent) -> bool:
        return (
            (start is None or event.created_at >= start)
            and (end is None or event.created_at <= end)
            and (not features or bool(features & set(event.feature)))
            and (not subjects or bool(subjects & set(event.subject)))
            and (not rules or event.rule in rules)
            and (not channels or bool(channels & {delivery.channel for delivery in event.deliveries}))
        )

    return list(filter(wanted, events))


def channel_view(channel: Channel) -> dict[str, Any]:
    """The channel as the API shows it, with its secret."""
    return {"disabled": channel.disabled} | present(
        id=channel.id,
        type="WEBHOOK",
        name=channel.name,
        url=channel.url,
        signingSecret=channel.signing_secret,
        customHeaders=channel.custom_headers,
        metadata=channel.metadata,
        createdAt=format_rfc3339(channel.created_at),
        updatedAt=format_rfc3339(channel.updated_at),
        deletedAt=channel.deleted_at and format_rfc3339(channel.deleted_at),
    )


def _rule_view(services: Services) -> Callable[[Rule], dict[str, Any]]:
    def view(rule: Rule) -> dict[str, Any]:
        features = [services.catalog.features.find(feature) for feature in rule.features]
        shown = present(
            id=rule.id,
            type=rule.type,
            name=rule.name,
            metadata=rule.metadata,
            createdAt=format_rfc3339(rule.created_at),
            updatedAt=format_rfc3339(rule.updated_at),
            deletedAt=rule.deleted_at and format_rfc3339(rule.deleted_at),
            features=[{"id": feature.id, "key": feature.key} for feature in features] or None,
            thresholds=rule.thresholds if rule.type == THRESHOLD else None,
        )
        channels = [{"id": channel, "type": "WEBHOOK"} for channel in rule.channels]
        return shown | {"disabled": rule.disabled, "channels": channels}

    return view


def _event_view(services: Services) -> Callable[[NotificationEvent], dict[str, Any]]:
    rule_view, store = _rule_view(services), services.catalog.notifications

    def view(event: NotificationEvent) -> dict[str, Any]:
        return {
            "id": event.id,
            "type": event.type,
            "createdAt": format_rfc3339(event.created_at),
            "rule": rule_view(store.ever_rule(event.rule)),
            "deliveryStatus": [_delivery_view(delivery) for delivery in event.deliveries],
            "payload": msgspec.Raw(event.payload.encode()),
        }

    return view


def _delivery_view(delivery: Delivery) -> dict[str, Any]:
    shown = {
        "channel": {"id": delivery.channel, "type": "WEBHOOK"},
        "state": delivery.state,
        "reason": delivery.reason,
        "updatedAt": format_rfc3339(delivery.updated_at),
        "attempts": [_attempt_view(attempt) for attempt in delivery.attempts],
    }
    if delivery.next_attempt is not None:
        shown["nextAttempt"] = format_rfc3339(delivery.next_attempt)
    return shown


def _attempt_view(attempt: Attempt) -> dict[str, Any]:
    response = {"body": attempt.body, "durationMs": attempt.duration_ms, "url": attempt.url}
    return {
        "state": attempt.state,
        "timestamp": format_rfc3339(attempt.timestamp),
        "response": response | present(statusCode=attempt.status_code),
    }
