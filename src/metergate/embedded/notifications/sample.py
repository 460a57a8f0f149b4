"""The event that a rule's test sends: like a real one, about nobody."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from metergate.embedded.domain.identifiers import new_id
from metergate.embedded.domain.moments import format_rfc3339
from metergate.embedded.domain.notifications import THRESHOLD, NotificationEvent, Rule, first_deliveries
from metergate.embedded.store.notifications import NotificationStore


def sample_event(store: NotificationStore, rule: Rule, now: datetime) -> NotificationEvent:
    """An event of the rule's type for the rule's channels."""
    identifier, moment = new_id(now), format_rfc3339(now)
    value = {"hasAccess": False, "balance": 0, "usage": 110, "overage": 10, "totalAvailableGrantAmount": 100}
    feature, subject = new_id(now), new_id(now)
    stamps = {"createdAt": moment, "updatedAt": moment}
    data: dict[str, Any] = {
        "entitlement": _entitlement(feature, moment, format_rfc3339(now + timedelta(days=1))),
        "feature": {"id": feature, "key": "test_feature", "name": "Test feature", **stamps},
        "subject": {"id": subject, "key": "test_subject", **stamps},
        "value": value,
    }
    if rule.type == THRESHOLD:
        data["threshold"] = rule.thresholds[0]
    body = {"id": identifier, "type": rule.type, "timestamp": moment, "data": data}
    return NotificationEvent(
        id=identifier,
        type=rule.type,
        created_at=now,
        rule=rule.id,
        payload=msgspec.json.encode(body).decode(),
        deliveries=first_deliveries(list(map(store.ever_channel, rule.channels)), now),
        feature=(feature, "test_feature"),
        subject=("test_subject",),
    )


def _entitlement(feature: str, now: str, end: str) -> dict[str, Any]:
    return {
        "id": feature,
        "type": "metered",
        "subjectKey": "test_subject",
        "featureId": feature,
        "featureKey": "test_feature",
        "createdAt": now,
        "updatedAt": now,
        "activeFrom": now,
        "lastReset": now,
        "measureUsageFrom": now,
        "isSoftLimit": False,
        "isUnlimited": False,
        "preserveOverageAtReset": False,
        "issueAfterReset": 100,
        "usagePeriod": {"interval": "DAY", "intervalISO": "P1D", "anchor": now},
        "currentUsagePeriod": {"from": now, "to": end},
    }
