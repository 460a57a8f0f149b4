"""OpenMeter's notifications received: a subject whose balance has crossed a threshold or was reset is asked for at once.

    webhook = Webhook(SigningKey(secret), Notices(folder, backends.expire))
    webhook.notices.open()
    if webhook.receive(request.headers.get, body) in REFUSED: ...  # 401

A message that is genuine is answered as delivered (2xx) whatever becomes of it: one that came before, that is about
something else or that cannot be read would come again for hours, and in the end the channel would be shut off.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from metergate.engine.notices import LOOKS_PER_SECOND, Notices
from metergate.openmeter.webhooks import (
    TOLERANCE_SECONDS,
    SigningKey,
    judge,
    read_envelope,
    read_notification,
)

__all__ = [
    "LOOKS_PER_SECOND",
    "OUTCOMES",
    "REFUSED",
    "Notices",
    "Outcome",
    "SigningKey",
    "Webhook",
    "WebhookStatistics",
]

Outcome = Literal["refreshed", "duplicate", "ignored", "unreadable", "unsigned", "forged", "outdated"]
"""What became of a message. ``refreshed``: its subjects are asked for. ``duplicate``: its id came before. ``ignored``: it
is about something else. ``unreadable``: it is genuine, and we do not understand it. The rest are not genuine.
"""

OUTCOMES: tuple[Outcome, ...] = (
    "refreshed",
    "duplicate",
    "ignored",
    "unreadable",
    "unsigned",
    "forged",
    "outdated",
)

REFUSED: Mapping[Outcome, str] = {
    "unsigned": "The message is not signed: it needs the headers svix-id, svix-timestamp and svix-signature.",
    "forged": "The signature does not fit the message and the secret.",
    "outdated": f"The message was signed more than {TOLERANCE_SECONDS:g} seconds ago, or clocks differ.",
}
"""What the sender of a message that is not genuine is told."""

_log = logging.getLogger("metergate.engine")
_EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class WebhookStatistics:
    """``messages``: by what became of them."""

    messages: Mapping[str, int]


class Webhook:
    """Takes messages. On one event loop."""

    def __init__(
        self,
        key: SigningKey,
        notices: Notices,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            key: of the channel that OpenMeter sends to.
            notices: take care of the subjects, in all processes.
            now: seconds since 1970.
            clock: seconds that never go back.
        """
        self.notices = notices
        self._key = key
        self._now = now
        self._clock = clock
        self._said: dict[str, float] = {}
        self._messages: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    def receive(self, header: Callable[[str], str | None], body: bytes) -> Outcome:
        """Judge a message and do what it says. ``header`` gives a header by its name in lower case."""
        outcome = self._outcome(header, body)
        self._messages[outcome] += 1
        if outcome in REFUSED:
            self._say(outcome, "a message to the webhook was refused (%s); counted, said once a minute")
        elif outcome == "unreadable":
            self._say(
                outcome, "a signed message to the webhook cannot be read (%s); counted, said once a minute"
            )
        return outcome

    def statistics(self) -> WebhookStatistics:
        return WebhookStatistics(dict(self._messages))

    def _outcome(self, header: Callable[[str], str | None], body: bytes) -> Outcome:
        envelope = read_envelope(header)
        if envelope is None:
            return "unsigned"
        verdict = judge(self._key, envelope, body, self._now())
        if verdict != "genuine":
            return verdict
        notification = read_notification(body)
        if notification is None:
            return "unreadable"
        if not notification.changes_entitlements:
            return "ignored"
        try:
            return "refreshed" if self.notices.post(envelope.id, notification.subjects) else "duplicate"
        except OSError as failure:
            _log.error("the other workers cannot be told whose entitlements have changed: %s", failure)
            return "refreshed"

    def _say(self, outcome: str, message: str) -> None:
        now = self._clock()
        if now - self._said.get(outcome, float("-inf")) >= _EVERY_SECONDS:
            self._said[outcome] = now
            _log.warning(message, outcome, extra={"reason": outcome})
