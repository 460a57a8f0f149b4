"""OpenMeter's notifications: is a message genuine, and whose entitlements is it about. Pure: no I/O, no clock.

OpenMeter delivers them by Svix, whose scheme of signatures this is: HMAC-SHA256 over ``id.timestamp.body`` by the
channel's signing secret, in headers ``svix-id``, ``svix-timestamp`` and ``svix-signature``, which may also be called
``webhook-…`` (Standard Webhooks). While a secret is rotated there are several signatures, of which one has to fit.
Each try to deliver is signed anew, with the id unchanged and the time of the try.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from metergate.errors import UsageError

TOLERANCE_SECONDS = 300.0
"""How far a message's time may be from ours, either way."""

BALANCE_THRESHOLD: Final = "entitlements.balance.threshold"
RESET: Final = "entitlements.reset"

Verdict = Literal["genuine", "forged", "outdated"]
"""``outdated``: signed, but too long ago, or too far in the future."""

_PREFIXES = ("svix", "webhook")
_SECRET = re.compile(r"(?:whsec_)?([A-Za-z0-9+/]{32,100}={0,2})")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_MOST_ID = 256
_MOST_SIGNATURES = 16
_FORM = "a signing secret is whsec_ and 32 to 100 characters of base64, as OpenMeter shows it for the channel"


class SigningKey:
    """The key of a channel. It shows nowhere."""

    __slots__ = ("_key",)

    def __init__(self, secret: str) -> None:
        """``secret`` as OpenMeter shows it. Raises UsageError, which does not repeat it."""
        found = _SECRET.fullmatch(secret.strip())
        if found is None:
            raise UsageError(_FORM)
        text = found[1].rstrip("=")
        try:
            self._key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            raise UsageError(_FORM) from None

    def sign(self, envelope: Envelope, body: bytes) -> str:
        """The signature of a message, ``v1,…``."""
        signed = b"%s.%s.%s" % (envelope.id.encode(), envelope.timestamp.encode(), body)
        return "v1," + base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()

    def __repr__(self) -> str:
        return "<SigningKey ***>"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around a message: its id, when it was sent (seconds since 1970, as written), its signatures."""

    id: str
    timestamp: str
    signatures: str = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that is about entitlements, or about something else: then ``subjects`` is empty.

    ``subjects`` are all the keys and ids by which a gateway may know whom it is about.
    """

    type: str
    subjects: tuple[str, ...] = ()

    @property
    def changes_entitlements(self) -> bool:
        return self.type in (BALANCE_THRESHOLD, RESET)


def read_envelope(header: Callable[[str], str | None]) -> Envelope | None:
    """The envelope in a request's headers, each asked for by its name in lower case; None where one is missing or
    malformed."""
    for prefix in _PREFIXES:
        parts = [header(f"{prefix}-{name}") for name in ("id", "timestamp", "signature")]
        if any(part is not None for part in parts):
            message, timestamp, signatures = (part or "" for part in parts)
            if not 0 < len(message) <= _MOST_ID or not _TIMESTAMP.fullmatch(timestamp) or not signatures:
                return None
            return Envelope(message, timestamp, signatures)
    return None


def judge(key: SigningKey, envelope: Envelope, body: bytes, now: float) -> Verdict:
    """Whether a message is from who has the key, and from now (seconds since 1970)."""
    expected = key.sign(envelope, body).encode()
    given = envelope.signatures.split(" ", _MOST_SIGNATURES)[:_MOST_SIGNATURES]
    fits = [hmac.compare_digest(expected, one.encode("utf-8", "surrogatepass")) for one in given]
    if not any(fits):
        return "forged"
    return "genuine" if abs(now - int(envelope.timestamp)) <= TOLERANCE_SECONDS else "outdated"


def read_notification(body: bytes) -> Notification | None:
    """What a message says; None where it is none, or one about entitlements that does not say whose."""
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    kind = _member(message, "type")
    if not isinstance(kind, str) or not kind:
        return None
    read = Notification(kind)
    if not read.changes_entitlements:
        return read
    subjects = tuple(dict.fromkeys(_subjects(_member(message, "data"))))
    return Notification(kind, subjects) if subjects else None


def _subjects(data: Any) -> Iterator[str]:
    subject, customer = _member(data, "subject"), _member(data, "customer")
    keys = _member(_member(customer, "usageAttribution"), "subjectKeys")
    candidates = [
        _member(subject, "key"),
        _member(customer, "key"),
        *(keys if isinstance(keys, list) else ()),
        _member(_member(data, "entitlement"), "subjectKey"),
        _member(subject, "id"),
        _member(customer, "id"),
    ]
    for candidate in candidates:
        if isinstance(candidate, str) and candidate:
            yield candidate


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
