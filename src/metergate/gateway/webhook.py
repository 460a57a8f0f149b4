"""OpenMeter's notifications at ``POST /__metergate/webhooks/openmeter``, where ``METERGATE_WEBHOOK_SECRET`` is set."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metergate.engine.webhook import (
    LOOKS_PER_SECOND,
    REFUSED,
    Notices,
    SigningKey,
    Webhook,
    WebhookStatistics,
)
from metergate.errors import Finding, UsageError, error
from metergate.gateway import problems
from metergate.gateway.clientbody import ClientGone, ClientSilent
from metergate.gateway.http import BodyTooLarge, Request, Response

if TYPE_CHECKING:
    from metergate.gateway.context import Context

VARIABLE = "METERGATE_WEBHOOK_SECRET"
PAGE_PATH = "/__metergate/webhooks/openmeter"
MOST_BYTES = 256 * 1024
"""Of a message; those of OpenMeter are a few thousand."""

_FOLDER = "notices"

_log = logging.getLogger("metergate.gateway")


def examine(variables: Mapping[str, str]) -> Finding | None:
    """What is wrong with the secret, if anything; it is not repeated."""
    try:
        signing_key(variables)
    except UsageError as wrong:
        return error("$", f"{VARIABLE} is not right: {wrong}.", "Correct it, or leave it out for no webhook.")
    return None


def signing_key(variables: Mapping[str, str]) -> SigningKey | None:
    """The key of the channel; None where the secret is not set, or empty. Raises UsageError where it is none."""
    secret = variables.get(VARIABLE, "")
    return SigningKey(secret) if secret.strip() else None


class WebhookPage:
    """The page, and this worker's ear for what the others were told.

    ``key`` is that of the channel; None where there is none: then the page is not there (404). ``folder`` is where the
    workers of this gateway meet, None where there is one only. ``expire`` is called with each subject whose entitlements
    have changed. `start` and `stop` are awaited in the worker.
    """

    def __init__(self, key: SigningKey | None, folder: Path | None, expire: Callable[[str], None]) -> None:
        self._notices = Notices(None if folder is None else folder / _FOLDER, expire)
        self._webhook = Webhook(key, self._notices) if key is not None else None
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        return self._webhook is not None

    def statistics(self) -> WebhookStatistics:
        return WebhookStatistics({}) if self._webhook is None else self._webhook.statistics()

    async def start(self) -> None:
        """Listen from now on. A folder that cannot be used is logged: then each worker hears of its own messages only."""
        if self._webhook is None:
            return
        try:
            self._notices.open()
        except OSError as failure:
            _log.error("webhooks refresh the worker that receives them only, their folder fails: %s", failure)
            return
        self._listening = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        self._notices.close()

    async def _listen(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(1 / LOOKS_PER_SECOND)
            try:
                self._notices.look()
                failing = False
            except OSError as failure:
                if not failing:
                    _log.error("what webhooks told the other workers cannot be read: %s", failure)
                failing = True

    async def __call__(self, request: Request, context: Context) -> Response:
        """204 for every message that is genuine, 401 for others, 405 and 413 for what is no message."""
        if self._webhook is None:
            return problems.not_found(request, context, {"detail": f"{VARIABLE} is not set."})
        if request.method != "POST":
            return problems.method_not_allowed(request, context, None, {"allow": "POST"})
        try:
            body = await _read(request)
        except BodyTooLarge:
            detail = f"The message is larger than the {MOST_BYTES} bytes that are accepted."
            return problems.content_too_large(request, context, {"detail": detail})
        except ClientSilent:
            return problems.request_timeout(request, context)
        except ClientGone:
            return problems.bad_request(request, context)
        outcome = self._webhook.receive(request.headers.get, body)
        if outcome in REFUSED:
            return problems.unauthorized(request, context, {"detail": REFUSED[outcome]})
        return Response.trusted(204, [("cache-control", "no-store")], b"")


async def _read(request: Request) -> bytes:
    """The body, read no further than is accepted."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise BodyTooLarge(MOST_BYTES)
    return body
