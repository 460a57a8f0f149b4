"""The public keys of an identity provider, as its JWKS document (RFC 7517) gives them; fetched, kept, fetched again.

When keys are fetched:

1. at the first token that needs them, which waits;
2. at a token whose key is unknown (the provider has a new one), which waits, but at most every ``again_seconds``, so
   that made-up key ids do not become a load on the provider;
3. in the background once they are older than ``fresh_seconds``; meanwhile the old ones serve.

All who wait wait for one fetch. One that fails leaves the old keys in place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

FRESH_SECONDS = 600.0
AGAIN_SECONDS = 10.0
TIMEOUT_SECONDS = 5.0
MOST_BYTES = 1 << 20
MOST_KEYS = 100

_log = logging.getLogger("metergate.gateway")

# Which algorithms a key may be used with where it does not say. Only asymmetric ones: a symmetric one would let whoever
# knows the public key sign.
_ALGORITHMS: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ASYMMETRIC = frozenset(name for names in _ALGORITHMS.values() for name in names)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One usable key: its ``kid`` (None where it has none), the key, and the algorithms it verifies."""

    kid: str | None
    key: Any
    algorithms: frozenset[str]


class JwksUnavailable(Exception):  # a state of the provider that becomes a 503, not an error of ours
    """There are no keys yet, and the provider gives none."""


@dataclass(frozen=True, slots=True)
class JwksStatistics:
    """``age_seconds`` of the keys is None before the first fetch."""

    keys: int
    fetches: int
    failed_fetches: int
    age_seconds: float | None


class KeySet:
    """The keys behind one URL, in one worker."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        fresh_seconds: float = FRESH_SECONDS,
        again_seconds: float = AGAIN_SECONDS,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._again_seconds = again_seconds
        self._on_change = on_change
        self._keys: tuple[PublicKey, ...] = ()
        self._document = b""
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetches = 0
        self._failed_fetches = 0
        self._fetching: asyncio.Task[None] | None = None
        self._client: Client | None = None

    def begin(self) -> None:
        """Fetch the keys in the background, so that the first request need not wait."""
        self._fetch_if_due()

    def find(self, kid: str | None, algorithm: str) -> list[PublicKey]:
        """The keys that a token with this header may be signed with; without a ``kid`` every one of the right kind."""
        if self._fetched is not None and self._clock() - self._fetched > self._fresh_seconds:
            self._fetch_if_due()
        return [
            key
            for key in self._keys
            if algorithm in key.algorithms and (kid is None or key.kid is None or key.kid == kid)
        ]

    def may_know_more(self) -> bool:
        """Whether to `refresh` for a key that is unknown now: a fetch is under way or due, or there never was one."""
        return self._fetched is None or self._fetching is not None or self._due()

    async def refresh(self) -> None:
        """Wait for the fetch that is under way or due. Raises `JwksUnavailable` where there are no keys after it."""
        self._fetch_if_due()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        if self._fetched is None:
            raise JwksUnavailable(f"no keys from {self._url}")

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        if self._client is not None:
            await self._client.close()
            self._client = None

    def statistics(self) -> JwksStatistics:
        age = None if self._fetched is None else self._clock() - self._fetched
        return JwksStatistics(len(self._keys), self._fetches, self._failed_fetches, age)

    def _due(self) -> bool:
        return self._tried is None or self._clock() - self._tried >= self._again_seconds

    def _fetch_if_due(self) -> None:
        if self._fetching is None and self._due():
            self._tried = self._clock()
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            document = await self._get()
            keys = read_keys(document)
        except (PyreqwestError, OSError, ValueError) as problem:
            self._failed_fetches += 1
            _log.error("the JWKS document cannot be used, %d keys stay: %s", len(self._keys), problem)
        else:
            self._fetches += 1
            self._fetched = self._clock()
            if document != self._document:
                self._on_change()
            self._keys, self._document = keys, document
        finally:
            self._fetching = None

    async def _get(self) -> bytes:
        if self._client is None:
            self._client = ClientBuilder().timeout(timedelta(seconds=TIMEOUT_SECONDS)).build()
        async with self._client.get(self._url).build_streamed() as response:
            if response.status != 200:
                raise ValueError(f"the provider answered {response.status}")
            data = bytearray()
            while (chunk := await response.body_reader.read_chunk()) is not None:
                data += chunk
                if len(data) > MOST_BYTES:
                    raise ValueError(f"the document is larger than {MOST_BYTES} bytes")
            return bytes(data)


def read_keys(document: bytes) -> tuple[PublicKey, ...]:
    """The keys of a JWKS document that can verify a signature. Others are passed over; none at all is a ValueError."""
    value = msgspec.json.decode(document)
    rows = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        raise ValueError('the document has no list "keys"')
    keys = [key for row in rows[:MOST_KEYS] if isinstance(row, dict) and (key := _read_key(row)) is not None]
    if not keys:
        raise ValueError("the document has no key that can verify a signature")
    return tuple(keys)


def _read_key(row: dict[str, Any]) -> PublicKey | None:
    kind, curve = row.get("kty"), row.get("crv", "")
    algorithms = _ALGORITHMS.get((kind, "" if kind == "RSA" else curve)) if isinstance(kind, str) else None
    if algorithms is None or row.get("use", "sig") != "sig":
        return None
    own = row.get("alg")
    if own is not None and own not in algorithms:
        return None
    kid = row.get("kid")
    try:
        key = PyJWK(row, algorithm=own or algorithms[0]).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    return PublicKey(kid if isinstance(kid, str) else None, key, frozenset([own] if own else algorithms))
