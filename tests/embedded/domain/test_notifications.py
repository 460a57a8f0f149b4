"""Which thresholds are told of, and what becomes of a delivery."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from metergate.embedded.domain.grants import Ledger
from metergate.embedded.domain.notifications import (
    Attempt,
    Channel,
    Delivery,
    NotificationEvent,
    Threshold,
    after_attempt,
    first_deliveries,
    reached,
    resent,
)
from metergate.embedded.domain.webhooks import RETRIES

NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


def ledger(usage, granted=100):
    balance = max(granted - usage, 0)
    return Ledger(
        NOW,
        NOW,
        {"g": Decimal(balance)},
        owed=Decimal(max(usage - granted, 0)),
        usage=Decimal(usage),
        consumed=Decimal(min(usage, granted)),
    )


def named(*thresholds):
    return [Threshold(name, value) for name, value in thresholds]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (50, []),
        (51, [("usage_percentage", 50)]),
        (80, [("usage_percentage", 50)]),
        (81, [("usage_value", 80), ("balance_value", 20)]),
        (96, [("NUMBER", 95), ("balance_value", 5)]),
        (100, [("NUMBER", 95), ("balance_value", 0)]),
        (101, [("PERCENT", 100), ("balance_value", 0)]),
    ],
)
def test_of_each_kind_the_most_urgent_that_is_reached_is_told(usage, expected):
    thresholds = named(
        ("usage_percentage", 50),
        ("PERCENT", 100),
        ("usage_value", 80),
        ("NUMBER", 95),
        ("balance_value", 20),
        ("balance_value", 5),
        ("balance_value", 0),
    )
    assert reached(thresholds, ledger(usage)) == named(*expected)
    assert reached(thresholds[::-1], ledger(usage)) in (named(*expected), named(*expected[::-1]))


def test_without_any_grant_nothing_is_reached():
    assert reached(named(("usage_percentage", 0), ("balance_value", 5)), ledger(5, granted=0)) == []


def channel(**fields):
    return Channel(
        id="C", name="", url="http://x", signing_secret="whsec_x", created_at=NOW, updated_at=NOW, **fields
    )


def event(*channels):
    return NotificationEvent(
        id="E",
        type="entitlements.reset",
        created_at=NOW,
        rule="R",
        payload="{}",
        deliveries=first_deliveries(channels, NOW),
    )


def attempt(status):
    state = "SUCCESS" if status == 200 else "FAILED"
    return Attempt(state=state, timestamp=NOW, body="no answer", duration_ms=1, url="", status_code=status)


def test_only_to_open_channels_is_anything_delivered():
    assert event(channel(disabled=True), channel(deleted_at=NOW)).deliveries == ()
    assert event(channel()).pending


def test_a_success_ends_it_and_failures_are_tried_again_later_and_later_until_the_last():
    sent = after_attempt(event(channel()), "C", attempt(200))
    assert (sent.pending, sent.deliveries[0].state, sent.deliveries[0].reason) == (False, "SUCCESS", "")
    failing, waits = event(channel()), []
    while failing.pending:
        failing = after_attempt(failing, "C", attempt(None))
        delivery = failing.deliveries[0]
        waits += [delivery.next_attempt - NOW] if delivery.next_attempt else []
    assert tuple(waits) == RETRIES
    assert (delivery.state, delivery.reason, len(delivery.attempts)) == ("FAILED", "no answer", 8)


def test_sending_again_begins_anew_and_remembers_the_attempts():
    sent = after_attempt(event(channel()), "C", attempt(200))
    again = resent(sent, [channel()], NOW)
    assert again.deliveries[0] == Delivery(
        channel="C",
        state="RESENDING",
        updated_at=NOW,
        attempts=sent.deliveries[0].attempts,
        next_attempt=NOW,
    )
    assert again.pending


def test_a_channel_shows_no_secret():
    assert "whsec" not in repr(channel())
