"""Webhooks as Svix sends them: a signature over id, time and body, and when to try again (standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping
from datetime import datetime, timedelta

from metergate.embedded.domain.moments import EPOCH, SECOND

PREFIX = "whsec_"
SECRET_PATTERN = r"^(whsec_)?[a-zA-Z0-9+/=]{32,100}$"  # noqa: S105 - a pattern
RETRIES = tuple(timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18000, 36000, 36000))
"""After how long to try again, counted from the try before; after the last one it has failed."""


def make_secret() -> str:
    """A new signing secret: 32 random bytes."""
    return PREFIX + base64.b64encode(os.urandom(32)).decode()


def signing_key(secret: str) -> bytes:
    """The key in a signing secret. Raises ValueError, which does not repeat it."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("signingSecret must be base64, with or without whsec_ before it") from None


def headers(secret: str, identifier: str, time: datetime, body: bytes) -> dict[str, str]:
    """What goes with a message, under the names of both Svix and Standard Webhooks."""
    timestamp = str((time - EPOCH) // SECOND)
    content = f"{identifier}.{timestamp}.".encode() + body
    digest = hmac.digest(signing_key(secret), content, hashlib.sha256)
    fields: Mapping[str, str] = {
        "id": identifier,
        "timestamp": timestamp,
        "signature": "v1," + base64.b64encode(digest).decode(),
    }
    return {f"{prefix}-{name}": value for prefix in ("webhook", "svix") for name, value in fields.items()}
