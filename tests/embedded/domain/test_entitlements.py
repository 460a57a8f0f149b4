"""Entitlements: what may be made of an input, which usage period is when, and what a value comes to."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.entitlements import (
    Entitlement,
    EntitlementInputV2,
    Refused,
    ask,
    make_entitlement,
)
from metergate.embedded.domain.features import Feature
from metergate.embedded.domain.periods import Period, floor_minute
from metergate.embedded.domain.usage_periods import (
    UsageReset,
    last_reset,
    resets_between,
    usage_period_at,
)

NOW = datetime(2025, 3, 10, 12, 0, 30, tzinfo=UTC)
METERED = Feature(id="F1", key="api-request", name="", created_at=NOW, updated_at=NOW, meter_slug="requests")
PLAIN = Feature(id="F2", key="sso", name="", created_at=NOW, updated_at=NOW)


def make(feature=METERED, now=NOW, **fields):
    fields = {"type": "metered", "usagePeriod": {"interval": "MONTH"}} | fields
    given = msgspec.convert(
        {key: value for key, value in fields.items() if value is not None}, EntitlementInputV2
    )
    ids = (f"id{number}" for number in itertools.count(1))
    return make_entitlement(given, feature, "C1", now, lambda: next(ids))


def value(made, usages, time=NOW, *, gauge=False):
    entitlement, issued = made
    question = ask(entitlement, [each.grant for each in issued], time, gauge=gauge)
    return question.answer([Decimal(usages.get(phase.start, 0)) for phase in question.phases])


def figures(value):
    ledger = value.ledger
    return (value.has_access, *(float(each) for each in (ledger.balance, ledger.usage, ledger.overage)))


def test_measuring_and_the_first_period_begin_at_the_minute_of_making_unless_said_otherwise():
    entitlement, (grant,) = make(issueAfterReset=100)
    start = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
    assert entitlement.metering.measure_usage_from == grant.grant.effective_at == start
    assert usage_period_at(entitlement, NOW) == Period(start, datetime(2025, 4, 10, 12, 0, tzinfo=UTC))
    assert last_reset(entitlement, NOW) is None


def test_measuring_may_begin_with_the_current_period_or_at_any_time():
    period = {"interval": "MONTH", "anchor": "2025-01-31T00:00:40Z"}
    entitlement, _ = make(usagePeriod=period, measureUsageFrom="CURRENT_PERIOD_START")
    assert entitlement.metering.measure_usage_from == datetime(2025, 2, 28, tzinfo=UTC)
    entitlement, _ = make(usagePeriod=period, measureUsageFrom="2025-01-05T00:00:59+01:00")
    assert entitlement.metering.measure_usage_from == datetime(2025, 1, 4, 23, 0, tzinfo=UTC)
    assert last_reset(entitlement, NOW).at == datetime(2025, 2, 28, tzinfo=UTC)


def test_the_grant_of_issue_after_reset_never_ends_and_is_whole_after_every_reset():
    _, (issued,) = make(issueAfterReset=100.5, issueAfterResetPriority=7)
    grant = issued.grant
    assert (grant.amount, grant.min_rollover, grant.max_rollover) == (Decimal("100.5"),) * 3
    assert (grant.priority, grant.expires_at, issued.annotations) == (7, None, {"issueAfterReset": True})
    _, (default,) = make(issue={"amount": 3})
    assert default.grant.priority == 1


@pytest.mark.parametrize(
    ("feature", "fields", "message"),
    [
        (PLAIN, {}, "has no meter"),
        (METERED, {"usagePeriod": None}, "usagePeriod is required"),
        (METERED, {"usagePeriod": {"interval": "PT10M"}}, "at least PT1H"),
        (METERED, {"usagePeriod": {"interval": "DAY", "anchor": "yesterday"}}, "RFC 3339"),
        (METERED, {"measureUsageFrom": "SOMETIME"}, "measureUsageFrom"),
        (METERED, {"issueAfterResetPriority": 3}, "requires issueAfterReset"),
        (METERED, {"config": "{}"}, "not allowed"),
        (
            METERED,
            {"issueAfterReset": 5, "grants": [{"amount": 1, "effectiveAt": "2025-03-10T12:00:00Z"}]},
            "cannot be used together",
        ),
        (
            METERED,
            {"grants": [{"amount": 1, "effectiveAt": "2025-03-10T11:59:00Z"}]},
            "before the current usage",
        ),
        (METERED, {"grants": [{"amount": 0, "effectiveAt": "2025-03-10T12:00:00Z"}]}, "greater than 0"),
        (PLAIN, {"type": "static"}, "config is required"),
        (PLAIN, {"type": "static", "config": "{"}, "holds JSON"),
        (PLAIN, {"type": "boolean", "config": "{}"}, "only for static"),
        (msgspec.structs.replace(PLAIN, archived_at=NOW), {"type": "boolean"}, "archived"),
    ],
)
def test_what_cannot_be_an_entitlement_is_refused_with_the_reason(feature, fields, message):
    with pytest.raises(Refused, match=message):
        make(feature, **fields)


def test_usage_lowers_the_balance_until_access_ends_unless_the_limit_is_soft():
    start = floor_minute(NOW)
    assert figures(value(make(issueAfterReset=100), {start: 30})) == (True, 70, 30, 0)
    assert figures(value(make(issueAfterReset=100), {start: 100})) == (False, 0, 100, 0)
    assert figures(value(make(issueAfterReset=100, isSoftLimit=True), {start: 120})) == (True, 0, 120, 20)
    assert figures(value(make(), {start: 0})) == (False, 0, 0, 0)


def test_only_the_usage_of_the_current_period_is_asked_for_where_earlier_ones_cannot_matter():
    entitlement, issued = make(issueAfterReset=100)
    question = ask(entitlement, [issued[0].grant], NOW + timedelta(days=365), gauge=False)
    assert [phase.start for phase in question.phases] == [datetime(2026, 3, 10, 12, 0, tzinfo=UTC)]
    preserving, issued = make(issueAfterReset=100, preserveOverageAtReset=True)
    question = ask(preserving, [issued[0].grant], NOW + timedelta(days=365), gauge=False)
    assert len(question.phases) == 13


def test_overage_is_carried_over_only_where_it_is_preserved():
    later, start = NOW + timedelta(days=31), floor_minute(NOW)
    assert figures(value(make(issueAfterReset=100), {start: 130}, later)) == (True, 100, 0, 0)
    preserving = make(issueAfterReset=100, preserveOverageAtReset=True)
    assert figures(value(preserving, {start: 130}, later)) == (True, 70, 0, 0)


def test_inline_grants_keep_what_is_left_of_them_at_a_reset():
    made = make(grants=[{"amount": 50, "effectiveAt": "2025-03-10T12:00:00Z"}])
    assert figures(value(made, {floor_minute(NOW): 20}, NOW + timedelta(days=31))) == (True, 30, 0, 0)


def test_before_measuring_begins_there_is_nothing():
    made = make(issueAfterReset=100, measureUsageFrom="2025-03-11T00:00:00Z")
    assert figures(value(made, {})) == (False, 0, 0, 0)


def test_a_reset_by_hand_begins_a_period_and_moves_the_anchor():
    entitlement, _ = make()
    at = datetime(2025, 3, 20, 8, 0, tzinfo=UTC)
    metering = msgspec.structs.replace(entitlement.metering, resets=(UsageReset(at, at, True),))
    entitlement = msgspec.structs.replace(entitlement, metering=metering)
    assert usage_period_at(entitlement, at - timedelta(minutes=1)).end == at
    assert usage_period_at(entitlement, at) == Period(at, datetime(2025, 4, 20, 8, 0, tzinfo=UTC))
    resets = list(resets_between(entitlement, NOW, datetime(2025, 6, 1, tzinfo=UTC)))
    assert [(reset.at.isoformat()[:10], reset.preserve_overage) for reset in resets] == [
        ("2025-03-20", True),
        ("2025-04-20", False),
        ("2025-05-20", False),
    ]


@given(
    st.sampled_from(["DAY", "WEEK", "MONTH", "PT5H"]),
    st.lists(st.integers(1, 40_000), max_size=3, unique=True),
    st.integers(0, 60_000),
)
def test_the_last_reset_is_the_last_of_all_resets(interval, by_hand, minutes):
    entitlement, _ = make(usagePeriod={"interval": interval})
    start = entitlement.metering.measure_usage_from
    resets = tuple(UsageReset(start + timedelta(minutes=at), start, at % 2 == 0) for at in sorted(by_hand))
    metering = msgspec.structs.replace(entitlement.metering, resets=resets)
    entitlement = msgspec.structs.replace(entitlement, metering=metering)
    time = start + timedelta(minutes=minutes)
    known = list(resets_between(entitlement, start, time))
    assert [reset.at for reset in known] == sorted({reset.at for reset in known})
    assert last_reset(entitlement, time) == (known[-1] if known else None)


def test_what_is_kept_of_an_entitlement_is_read_back_the_same():
    entitlement, (issued,) = make(issueAfterReset=0.1, usagePeriod={"interval": "P2W"}, metadata={"a": "b"})
    assert msgspec.json.decode(msgspec.json.encode(entitlement), type=Entitlement) == entitlement
    assert msgspec.json.decode(msgspec.json.encode(issued), type=type(issued)) == issued
