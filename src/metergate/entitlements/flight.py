"""One read of OpenMeter."""

from __future__ import annotations

import asyncio

from metergate.entitlements.budget import Urgency
from metergate.entitlements.snapshot import Snapshot


class Flight:
    """One read of one subject.

    ``urgency`` is its class in the queue. ``began`` is when OpenMeter was asked, None while it is queued.
    ``deferred``: it could not start at once, so that only those wait for it who have no usable answer.
    ``alone``: it is not, or not any more, for a batch query. ``together``: it is part of one now. ``blank``: such a
    query shall bring a provisional answer, because nothing is known that it could confirm.
    ``overdue``: somebody has waited for it as long as they may, so that nobody else does. ``expired``: what it
    brings was changed after it began. ``done``: it is over, and ``snapshot`` is what it brought, None where it
    failed.
    """

    __slots__ = (
        "alone", "began", "blank", "deferred", "done", "expired", "landing",
        "overdue", "snapshot", "subject", "together", "urgency",
    )  # fmt: skip

    def __init__(self, subject: str, urgency: Urgency, *, alone: bool) -> None:
        self.subject = subject
        self.urgency = urgency
        self.alone = alone
        self.began: float | None = None
        self.blank = False
        self.deferred = self.together = self.overdue = self.expired = self.done = False
        self.snapshot: Snapshot | None = None
        self.landing: asyncio.Future[None] | None = None
