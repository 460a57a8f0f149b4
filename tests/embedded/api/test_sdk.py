"""OpenMeter's own Python SDK (`openmeter` on the package index) does its documented calls against the server.

Each scenario is run by both of its clients: what the synchronous one returns is taken as it is, what the
asynchronous one returns is awaited.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from corehttp.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from openmeter.models import (
    CustomerCreate,
    CustomerReplaceUpdate,
    CustomerUsageAttribution,
    EntitlementBooleanCreateInputs,
    EntitlementGrantCreateInputV2,
    EntitlementMeteredV2CreateInputs,
    EntitlementStaticCreateInputs,
    Event,
    ExpirationPeriod,
    FeatureCreateInputs,
    MeterCreate,
    MeterQueryRequest,
    MeterUpdate,
    NotificationChannelWebhookCreateRequest,
    NotificationEventResendRequest,
    NotificationRuleBalanceThresholdCreateRequest,
    NotificationRuleBalanceThresholdValue,
    NotificationRuleBalanceThresholdValueType,
    PortalToken,
    RecurringPeriodCreateInput,
    ResetEntitlementUsageInput,
    SubjectUpsert,
)

from metergate.testing import embedded_openmeter
from openmeter import Client, aio

START = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
TOKEN = "sesame"
CONFIG = {
    "meters": [
        {
            "slug": "tokens",
            "aggregation": "SUM",
            "eventType": "prompt",
            "valueProperty": "$.tokens",
            "groupBy": {"model": "$.model"},
        }
    ],
    "features": [
        {"key": "tokens", "name": "Tokens", "meterSlug": "tokens"},
        {"key": "sso", "name": "SSO"},
        {"key": "models", "name": "Models"},
    ],
    "customers": [{"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["s1"]}}],
}


@pytest.fixture
def server():
    with embedded_openmeter(start=START, config=CONFIG, token=TOKEN) as openmeter:
        yield openmeter


@asynccontextmanager
async def sync_client(url: str, token: str) -> AsyncIterator[Client]:
    with Client(endpoint=url, token=token) as client:
        yield client


def async_client(url: str, token: str) -> aio.Client:
    return aio.Client(endpoint=url, token=token)


@pytest.fixture(params=[sync_client, async_client], ids=["sync", "async"])
def run(request, server):
    """Run a scenario, an async function of a client, to its end."""

    def run(scenario, token=TOKEN):
        async def main():
            async with request.param(server.url, token) as client:
                return await scenario(client)

        return asyncio.run(main())

    return run


async def done(value):
    return await value if inspect.isawaitable(value) else value


async def collected(pages):
    """All items of a list that the client fetches page by page."""
    if hasattr(pages, "__aiter__"):
        return [item async for item in pages]
    return list(pages)


def prompt(identifier: str, tokens: object = 10, **attributes: object) -> Event:
    fields = {
        "id": identifier,
        "source": "my-app",
        "specversion": "1.0",
        "type": "prompt",
        "subject": "acme",
        "time": START,
        "data": {"tokens": tokens, "model": "gpt-4o"},
    }
    return Event(**(fields | attributes))


def test_events_are_ingested_one_by_one_in_batches_and_as_json_and_listed(run):
    async def scenario(client):
        await done(client.events.ingest_event(prompt("1")))
        await done(client.events.ingest_event(prompt("1")))
        await done(client.events.ingest_events([prompt("2"), prompt("3", subject="s1", time=None)]))
        await done(client.events.ingest_events_json(prompt("4")))
        await done(client.events.ingest_events_json([prompt("5", data=None), prompt("6", tokens="x")]))
        listed = await done(client.events.list(limit=10))
        assert sorted(each.event.id for each in listed) == ["1", "2", "3", "4", "5", "6"]
        by_id = {each.event.id: each for each in listed}
        assert by_id["1"].event.data == {"tokens": 10, "model": "gpt-4o"}
        assert by_id["1"].event.time == by_id["1"].ingested_at == START
        assert by_id["3"].customer_id == by_id["1"].customer_id is not None
        assert "cannot be parsed" in by_id["6"].validation_error
        (mine,) = await done(client.events.list(subject="s1"))
        assert mine.event.id == "3"
        pages = client.events_v2.list(limit=2)
        assert len(await collected(pages)) == 6

    run(scenario)


def test_what_is_refused_is_the_clients_error_with_the_problem(run):
    async def scenario(client):
        with pytest.raises(HttpResponseError) as refused:
            await done(client.events.ingest_event(prompt("")))
        assert refused.value.status_code == 400
        with pytest.raises(ResourceNotFoundError):
            await done(client.meters.query_json("no_such_meter"))

    run(scenario)


def test_a_wrong_token_is_an_authentication_error(run):
    async def scenario(client):
        with pytest.raises(ClientAuthenticationError):
            await done(client.meters.list())

    run(scenario, token="wrong")


def test_meters_are_queried_in_every_form(run):
    async def scenario(client):
        await done(client.events.ingest_events([prompt("1", 1), prompt("2", 2, subject="s1")]))
        result = await done(client.meters.query_json("tokens"))
        assert result.data[0].value == 3
        grouped = await done(
            client.meters.query_json(
                "tokens",
                from_parameter=datetime(2026, 3, 15, tzinfo=UTC),
                to=datetime(2026, 3, 16, tzinfo=UTC),
                window_size="HOUR",
                window_time_zone="Europe/Berlin",
                group_by=["subject", "model"],
                filter_group_by={"model": "gpt-4o"},
            )
        )
        assert [(row.subject, row.value, row.group_by) for row in grouped.data] == [
            ("acme", 1, {"model": "gpt-4o"}),
            ("s1", 2, {"model": "gpt-4o"}),
        ]
        assert grouped.data[0].window_start == START
        posted = await done(client.meters.query("tokens", MeterQueryRequest(subject=["s1"])))
        assert [(row.subject, row.value) for row in posted.data] == [("s1", 2)]
        csv = await done(client.meters.query_csv("tokens"))
        assert csv.splitlines()[0] == "window_start,window_end,value"
        assert await done(client.meters.list_subjects("tokens")) == ["acme", "s1"]
        assert await done(client.meters.list_group_by_values("tokens", "model")) == ["gpt-4o"]

    run(scenario)


def test_meters_are_listed_shown_changed_and_deleted(run, server):
    body = {"slug": "calls", "aggregation": "COUNT", "eventType": "call"}
    server.call("POST", "/api/v1/meters", body)

    async def scenario(client):
        assert [meter.slug for meter in await done(client.meters.list())] == ["calls", "tokens"]
        changed = await done(client.meters.update("calls", MeterUpdate(name="All calls")))
        assert changed.name == (await done(client.meters.get("calls"))).name == "All calls"
        await done(client.meters.delete("calls"))
        assert [meter.slug for meter in await done(client.meters.list())] == ["tokens"]

    run(scenario)


def test_a_meter_is_made_though_openmeter_answers_another_status_than_it_describes(run):
    """OpenMeter's code answers 200 where its description, and so this SDK, has 201: so do we."""

    async def scenario(client):
        with pytest.raises(HttpResponseError) as other:
            await done(
                client.meters.create(MeterCreate(slug="calls", aggregation="COUNT", event_type="call"))
            )
        assert other.value.status_code == 200
        assert (await done(client.meters.get("calls"))).slug == "calls"

    run(scenario)


def test_subjects_customers_and_features_are_made_and_found(run):
    async def scenario(client):
        (subject,) = await done(client.subjects.upsert([SubjectUpsert(key="s2", display_name="Two")]))
        assert (await done(client.subjects.get("s2"))).display_name == subject.display_name == "Two"
        assert "s2" in [each.key for each in await done(client.subjects.list())]
        await done(client.subjects.delete("s2"))

        attribution = CustomerUsageAttribution(subject_keys=["s3"])
        made = await done(
            client.customers.create(CustomerCreate(name="Other", key="other", usage_attribution=attribution))
        )
        shown = await done(client.customers.get("other"))
        assert (shown.id, shown.usage_attribution.subject_keys) == (made.id, ["s3"])
        replaced = CustomerReplaceUpdate(name="Renamed", key="other", usage_attribution=attribution)
        assert (await done(client.customers.update(made.id, replaced))).name == "Renamed"
        assert (await done(client.customers.list(page_size=1))).total_count == 2
        await done(client.customers.delete("other"))

        feature = await done(
            client.features.create(
                FeatureCreateInputs(
                    key="gpt", name="GPT", meter_slug="tokens", meter_group_by_filters={"model": "gpt-4o"}
                )
            )
        )
        assert feature.meter_group_by_filters == {"model": "gpt-4o"}
        assert (await done(client.features.get(feature.id))).key == "gpt"
        listed = await done(client.features.list(meter_slug=["tokens"]))
        assert sorted(each["key"] for each in listed) == ["gpt", "tokens"]
        await done(client.features.delete("gpt"))

    run(scenario)


def test_entitlements_are_made_used_reset_and_overridden(run, server):
    period = RecurringPeriodCreateInput(interval="MONTH")
    metered = EntitlementMeteredV2CreateInputs(type="metered", feature_key="tokens", usage_period=period)

    async def scenario(client):
        entitlements, single = client.customer_entitlements_v2, client.customer_entitlement_v2
        made = await done(entitlements.post("acme", metered))
        assert made["currentUsagePeriod"]["to"] == "2026-04-15T12:00:00Z"
        grant = await done(
            single.create_customer_entitlement_grant(
                "acme",
                "tokens",
                EntitlementGrantCreateInputV2(
                    amount=100, effective_at=START, expiration=ExpirationPeriod(duration="DAY", count=1)
                ),
            )
        )
        assert grant.expires_at == datetime(2026, 3, 16, 12, 0, tzinfo=UTC)
        await done(client.events.ingest_event(prompt("1", 30)))
        value = await done(single.get_customer_entitlement_value("acme", "tokens"))
        assert (value.has_access, value.balance, value.usage, value.overage) == (True, 70, 30, 0)
        later = await done(
            single.get_customer_entitlement_value("acme", "tokens", time=datetime(2026, 3, 17, tzinfo=UTC))
        )
        assert (later.has_access, later.balance) == (False, 0)
        history = await done(single.get_customer_entitlement_history("acme", "tokens", window_size="DAY"))
        assert history.windowed_history == []
        assert history.burndown_history[0].grant_usages[0].usage == 30
        server.clock.move(hours=1)
        await done(single.reset_customer_entitlement("acme", "tokens", ResetEntitlementUsageInput()))
        value = await done(single.get_customer_entitlement_value("acme", "tokens"))
        assert (value.balance, value.usage) == (70, 0)
        assert (await done(single.get_grants("acme", "tokens"))).items_property[0].id == grant.id
        await done(client.grants.delete(grant.id))
        assert (await done(client.grants_v2.list())).items_property[0].voided_at == server.clock.now
        new = await done(entitlements.override("acme", "tokens", metered))
        assert new["id"] != made["id"]
        await done(entitlements.delete("acme", "tokens"))

    run(scenario)


def test_access_is_told_at_once_and_feature_by_feature(run):
    async def scenario(client):
        post = client.customer_entitlements_v2.post
        await done(post("acme", EntitlementBooleanCreateInputs(type="boolean", feature_key="sso")))
        await done(
            post(
                "acme", EntitlementStaticCreateInputs(type="static", feature_key="models", config='{"a": 1}')
            )
        )
        await done(
            post(
                "acme",
                EntitlementMeteredV2CreateInputs(
                    type="metered",
                    feature_key="tokens",
                    usage_period=RecurringPeriodCreateInput(interval="DAY"),
                    issue_after_reset=5,
                ),
            )
        )
        await done(client.events.ingest_event(prompt("1", 7)))
        access = await done(client.customer.get_customer_access("acme"))
        assert {key: value.has_access for key, value in access.entitlements.items()} == {
            "sso": True,
            "models": True,
            "tokens": False,
        }
        assert access.entitlements["models"].config == '{"a": 1}'
        value = client.customer_entitlement.get_customer_entitlement_value
        assert (await done(value("acme", "tokens"))).overage == 2
        assert (await done(value("acme", "nothing"))).has_access is False
        assert len(await done(client.entitlements.list())) == 3
        page = await done(client.entitlements_v2.list(customer_keys=["acme"], page_size=2))
        assert (page.total_count, len(page.items_property)) == (3, 2)
        one = await done(client.entitlements_v2.get(page.items_property[0]["id"]))
        assert one["featureKey"] == "sso"

    run(scenario)


def test_events_and_meters_are_filtered_by_conditions(run):
    """As dictionaries: its models for them, ``ListRequestFilter`` and ``FilterString``, this SDK cannot send."""

    async def scenario(client):
        batch = [prompt(str(number), subject=f"s{number}", tokens=number) for number in range(1, 4)]
        await done(client.events.ingest_events(batch))
        conditions = {"subject": {"$in": ["s1", "s2"]}, "time": {"$gte": "2026-03-15T00:00:00Z"}}
        found = await collected(client.events_v2.list(limit=1, filter=conditions))
        assert sorted(each.event.id for each in found) == ["1", "2"]
        usage = await done(
            client.meters.query_json("tokens", advanced_meter_group_by_filters={"model": {"$like": "gpt%"}})
        )
        assert usage.data[0].value == 6
        with pytest.raises(HttpResponseError) as refused:
            await collected(client.events_v2.list(filter={"subject": {"$eq": ""}}))
        assert refused.value.status_code == 400

    run(scenario)


def test_notifications_are_set_up_tried_and_taken_down(run):
    async def scenario(client):
        channels, rules, events = (
            client.notification_channels,
            client.notification_rules,
            client.notification_events,
        )
        hook = NotificationChannelWebhookCreateRequest(type="WEBHOOK", name="Hook", url="http://127.0.0.1:9/")
        channel = await done(channels.create(hook))
        assert (await done(channels.get(channel["id"])))["signingSecret"].startswith("whsec_")
        assert (await done(channels.list(include_disabled=True, order_by="createdAt"))).total_count == 1
        thresholds = [
            NotificationRuleBalanceThresholdValue(type=kind, value=50)
            for kind in NotificationRuleBalanceThresholdValueType
        ]
        rule = await done(
            rules.create(
                NotificationRuleBalanceThresholdCreateRequest(
                    type="entitlements.balance.threshold",
                    name="Half",
                    thresholds=thresholds,
                    channels=[channel["id"]],
                    features=["tokens"],
                )
            )
        )
        assert (await done(rules.list(feature=["tokens"], channel=[channel["id"]]))).total_count == 1
        event = await done(rules.test(rule["id"]))
        assert event.delivery_status[0].channel.id == channel["id"]
        assert (await done(events.get(event.id))).payload["id"] == event.id
        assert (await done(events.list(rule=[rule["id"]], order="DESC"))).total_count == 1
        await done(events.resend(event.id, NotificationEventResendRequest(channels=[channel["id"]])))
        await done(rules.delete(rule["id"]))
        await done(channels.delete(channel["id"]))
        with pytest.raises(ResourceNotFoundError):
            await done(channels.get(channel["id"]))

    run(scenario)


def test_a_consumer_sees_its_usage_with_a_portal_token(run, server):
    async def scenario(client):
        await done(client.events.ingest_events([prompt("1", 1), prompt("2", 2, subject="s1")]))
        asked = PortalToken(subject="s1", allowed_meter_slugs=["tokens"])
        token = await done(client.portal.portal_tokens.create(asked))
        assert (token.expired, token.expires_at) == (False, datetime(2026, 3, 15, 13, 0, tzinfo=UTC))
        with Client(endpoint=server.url, token=token.token) as consumer:
            meters = consumer.portal.portal_meters
            rows = meters.query_json("tokens", window_size="DAY", group_by=["model"]).data
            assert [(row.subject, row.value, row.group_by) for row in rows] == [
                ("s1", 2, {"model": "gpt-4o"})
            ]
            assert meters.query_csv("tokens").splitlines()[1].endswith("2.000000")
            with pytest.raises(ClientAuthenticationError):
                consumer.meters.list()
        for refused in (
            client.portal.portal_tokens.list,
            client.plans.list,
            client.currencies.list_currencies,
        ):
            with pytest.raises(HttpResponseError) as answer:
                await collected(await done(refused()))
            assert answer.value.status_code == 501

    run(scenario)
