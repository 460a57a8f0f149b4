"""One try to deliver a notification: a signed POST, and what came of it."""

from __future__ import annotations

import time
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from metergate.embedded.domain.moments import Clock
from metergate.embedded.domain.notifications import Attempt, Channel, NotificationEvent
from metergate.embedded.domain.webhooks import headers

TIMEOUT = timedelta(seconds=15)
MAX_ANSWER = 1000
"""Characters of an answer that are kept."""
SUCCESS = range(200, 300)


class Deliverer:
    """Opens its connections with the first delivery."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._client: Client | None = None

    async def attempt(self, event: NotificationEvent, channel: Channel) -> Attempt:
        """Send the event to the channel once; any answer but 2xx within the time, and none, is a failure."""
        now, began = self._clock(), time.monotonic()
        status, answer = await self._send(event, channel)
        return Attempt(
            state="SUCCESS" if status in SUCCESS else "FAILED",
            timestamp=now,
            status_code=status,
            body=answer[:MAX_ANSWER],
            duration_ms=round((time.monotonic() - began) * 1000),
            url=channel.url,
        )

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _send(self, event: NotificationEvent, channel: Channel) -> tuple[int | None, str]:
        body = event.payload.encode()
        signed = headers(channel.signing_secret, event.id, self._clock(), body)
        custom = {name.lower(): value for name, value in channel.custom_headers.items()}
        sent = {"content-type": "application/json", **custom, **signed}
        try:
            request = self._connected().post(channel.url).headers(sent).body_bytes(body)
            response = await request.build().send()
            return response.status, bytes(await response.bytes()).decode(errors="replace")
        except (PyreqwestError, ValueError) as exception:
            return None, f"no answer: {type(exception).__name__}"

    def _connected(self) -> Client:
        if self._client is None:
            self._client = ClientBuilder().user_agent("metergate").timeout(TIMEOUT).build()
        return self._client
