"""How a destination is doing: the state, the last error, the age of what waits, and what is said about it in the log."""

from __future__ import annotations

import logging
from collections import deque
from typing import Literal

from metergate.delivery.dead_letters import DeadLetter
from metergate.delivery.response import Action, State
from metergate.openmeter.ingest import IngestAnswer

log = logging.getLogger("metergate.delivery")

REMINDER_SECONDS = 60.0
_BURIAL_SECONDS = 5.0
_MOST_MARKS = 512

_SAID: dict[str, tuple[int, str]] = {
    "retrying": (
        logging.WARNING,
        "OpenMeter at %s does not take events (%s). They are kept and sent again, for ever.",
    ),
    "throttled": (logging.WARNING, "OpenMeter at %s asks to wait (%s). Events are kept."),
    "unauthorized": (
        logging.ERROR,
        "OpenMeter at %s refuses the API key (%s). Events are kept. Check apiKey of the policies with this apiUrl.",
    ),
    "misdirected": (
        logging.ERROR,
        "What answers at %s is not OpenMeter (%s). Events are kept; check apiUrl, and any proxy on the way.",
    ),
    "refusing": (
        logging.ERROR,
        "OpenMeter at %s refuses every event (%s). They go to the dead letters, slowly, to be driven again later.",
    ),
    "blocked": (
        logging.ERROR,
        "Events for %s cannot be sent because of the spool's own disk (%s). They are kept.",
    ),
}


class Health:
    """Kept by the sender's thread; read by any. ``url`` names the destination in the log."""

    def __init__(self, url: str) -> None:
        self.state: State | Literal["blocked"] = "ok"
        self.last_error = ""
        self._url = url
        self._remind_at = 0.0
        self._burial_at = float("-inf")
        self._unsaid_burials = 0
        self._marks: deque[tuple[int, float]] = deque()

    def after_answer(self, action: Action, answer: IngestAnswer, now: float) -> None:
        """Takes note of what an answer meant."""
        if action.verdict != "delivered":
            self.last_error = f"{answer.status or 'no answer'}: {answer.detail}".rstrip(": ")
        self._become(action.state, now)

    def after_burial(self, letter: DeadLetter, now: float) -> None:
        """Says, not more often than every few seconds, that events went to the dead letters."""
        self._unsaid_burials += 1
        if now < self._burial_at:
            return
        log.error(
            "%d events went to the dead letters of %s, the last one because: %s",
            self._unsaid_burials,
            self._url,
            letter.detail or letter.status,
            extra={"status": letter.status},
        )
        self._unsaid_burials = 0
        self._burial_at = now + _BURIAL_SECONDS

    def blocked(self, error: OSError, now: float) -> None:
        """The disk does not let the sender go on."""
        self.last_error = str(error)
        self._become("blocked", now)

    def unblocked(self, now: float) -> None:
        """The disk is well again, and nothing waits for it."""
        if self.state == "blocked":
            self._become("ok", now)

    def note_pending(self, recorded: int, settled: int, now: float) -> None:
        """Keeps marks of how much was recorded by when, to know the age of what is not settled."""
        marks = self._marks
        while marks and marks[0][0] <= settled:
            marks.popleft()
        if recorded > (marks[-1][0] if marks else settled):
            marks.append((recorded, now))
        if len(marks) > _MOST_MARKS:  # a long outage: thin out, but never the oldest
            self._marks = deque(list(marks)[::2])

    def oldest_pending(self, now: float) -> float:
        """Seconds since the oldest event that is not settled was seen; 0 where there is none."""
        try:
            return now - self._marks[0][1]
        except IndexError:  # asked of any thread, while the sender takes marks away
            return 0.0

    def _become(self, state: State | Literal["blocked"], now: float) -> None:
        if state == "ok":
            if self.state != "ok":
                log.info("OpenMeter at %s takes events again, after %s.", self._url, self.state)
        elif state != self.state or now >= self._remind_at:
            self._remind_at = now + REMINDER_SECONDS
            level, message = _SAID[state]
            log.log(level, message, self._url, self.last_error, extra={"state": state})
        self.state = state  # last: who sees the state finds its reason in the log
