"""Webhooks as Svix sends them: a signature over id, time and body, and when to try again (standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from metergate.embedded.domain.moments import EPOCH, SECOND

PREFIX = "whsec_"
SECRET_PATTERN = r"^(whsec_)?[a-zA-Z0-9+/=]{32,100}\Z"  # noqa: S105 - a pattern
RETRIES = tuple(timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18000, 36000, 36000))
"""After how long to try again, counted from the try before; after the last one it has failed."""


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = frozenset(("connection", "content-length", "transfer-encoding"))
"""What says where a message ends is not the channel's to say."""


def make_secret() -> str:
    """A new signing secret: 32 random bytes."""
    return PREFIX + base64.b64encode(os.urandom(32)).decode()


def signing_key(secret: str) -> bytes:
    """The key in a signing secret. Raises ValueError, which does not repeat it."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("signingSecret must be base64, with or without whsec_ before it") from None


def address_findings(url: str) -> list[str]:
    """What is wrong with where to send to."""
    with contextlib.suppress(ValueError):  # of ports and brackets; it may repeat a password
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if usable and not re.search(r"[\x00-\x20\x7f]", parts.netloc):
            return []
    return ["url must begin with http:// or https:// and name a host"]


def header_findings(custom: Mapping[str, str]) -> list[str]:
    """What is wrong with what else to send; values are not told."""
    findings = [
        f"customHeaders: {name!r} is no name of a header" for name in custom if not _NAME.fullmatch(name)
    ]
    findings += [
        f"customHeaders: {name!r} has a value with control characters"
        for name, value in custom.items()
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
    ]
    findings += [f"customHeaders: {name} cannot be set" for name in custom if name.lower() in _FRAMING]
    return findings


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
