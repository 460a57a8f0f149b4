"""``OpenIdJwtInboundPolicy``: who calls is known by a signed token (JWT) of an identity provider.

A token is verified once per worker; until it expires it is then one dictionary look-up. `user.sub` is the claim
``sub`` (or ``subPropertyName``), `user.data` all claims.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt
from jwt.exceptions import ExpiredSignatureError, InvalidAudienceError, InvalidIssuerError, PyJWTError

from metergate.errors import error, warning
from metergate.gateway import problems
from metergate.gateway.http import Request, Response, User
from metergate.gateway.model import NamedPolicy
from metergate.gateway.options import Options
from metergate.gateway.policies.bearer import Credential, Refusal, credential
from metergate.gateway.policies.jwks import ASYMMETRIC, JwksStatistics, JwksUnavailable, KeySet
from metergate.policy.data import copied

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Site

SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
CACHE_LIMIT = 10_000
CACHE_SECONDS = 300.0
"""The longest a verified token is believed without a look at its signature; less where it expires earlier."""

LEEWAY_SECONDS = 5
"""How far the provider's clock may be from ours."""

LONGEST_TOKEN = 16_384
_SHORTEST_SECRET = 32

_log = logging.getLogger("metergate.gateway")


class TokenRefused(Exception):  # becomes a 401; its text goes to the client
    """The token is not good enough; the message says why, without repeating any of it."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token has to be: ``issuer`` and ``audience`` None are not looked at."""

    issuer: str | None
    audience: list[str] | None
    subject_claim: str
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class JwtStatistics:
    """``cached`` tokens at present; ``evicted`` before they expired, because the cache was full."""

    cached: int
    verified: int
    refused: int
    evicted: int
    keys: JwksStatistics | None


def build(options: Any, site: Site) -> NamedPolicy | None:
    """Options: ``issuer``, ``audience`` (text or a list), ``jwkUrl`` or ``secret``, ``subPropertyName`` (sub),
    ``allowUnauthenticatedRequests`` (false), ``authHeader`` (Authorization)."""
    read = Options(options)
    jwk_url, secret = read.optional("jwkUrl"), read.optional("secret")
    rules = TokenRules(
        read.optional("issuer"),
        _audience(read),
        read.text("subPropertyName", "sub"),
        SYMMETRIC if secret else ASYMMETRIC,
    )
    get = credential(read.text("authHeader", "Authorization"), "Bearer")
    refuse = Refusal("Bearer", read.flag("allowUnauthenticatedRequests", False))
    read.tolerate("oAuthResourceMetadataEnabled", "headers")
    _check_source(read, jwk_url, secret)
    if jwk_url and rules.audience is None:
        message = "Without an audience every token of this provider is good here, also those made for others."
        read.findings.append(warning("$", message, 'Write "audience": "https://api.example.com".'))
    if not read.report(site):
        return None
    verifier = Verifier(rules, get, refuse, secret=secret, jwk_url=jwk_url)
    return NamedPolicy(site.name, inbound=verifier, resource=verifier)


def _audience(read: Options) -> list[str] | None:
    if isinstance(read.values.get("audience"), list):
        return read.texts("audience", '"https://api.example.com"') or None
    one = read.optional("audience")
    return None if one is None else [one]


def _check_source(read: Options, jwk_url: str | None, secret: str | None) -> None:
    """Exactly one of ``jwkUrl`` and ``secret``: with both, whoever knows the public key could sign."""
    failed = any(finding.path in ("$.jwkUrl", "$.secret") for finding in read.findings)
    if jwk_url and secret:
        read.refuse("secret", '"secret" and "jwkUrl" exclude each other.', "Leave one of them out.")
    elif not jwk_url and not secret and not failed:
        fix = 'Write "jwkUrl": "https://issuer.example.com/.well-known/jwks.json".'
        read.findings.append(error("$", 'Neither "jwkUrl" nor "secret" is given.', fix))
    elif not jwk_url and not secret:
        read.findings.append(error("$", "No key can be checked without that variable.", "Set it."))
    if jwk_url and (urlsplit(jwk_url).scheme not in ("http", "https") or not urlsplit(jwk_url).hostname):
        read.refuse("jwkUrl", "This is not an http(s) URL.", "Write the whole URL with https://.")
    if secret and len(secret.encode()) < _SHORTEST_SECRET:
        fix = f"Use at least {_SHORTEST_SECRET} random bytes (RFC 7518, 3.2)."
        read.doubt("secret", "The secret is so short that it can be guessed from a token.", fix)


class Verifier:
    """The policy: a plain call where the token is known or its key is here, else an awaitable."""

    __slots__ = (
        "_cache",
        "_evicted",
        "_get",
        "_jwt",
        "_keys",
        "_now",
        "_refuse",
        "_refused",
        "_rules",
        "_secret",
        "_verified",
    )

    def __init__(
        self,
        rules: TokenRules,
        get: Credential,
        refuse: Refusal,
        *,
        secret: str | None = None,
        jwk_url: str | None = None,
        now: Callable[[], float] = time.time,
        keys: KeySet | None = None,
    ) -> None:
        self._rules = rules
        self._get = get
        self._refuse = refuse
        self._secret = secret
        self._now = now
        self._cache: dict[str, tuple[str, dict[str, Any], float]] = {}
        self._keys = keys or (KeySet(jwk_url, on_change=self._cache.clear) if jwk_url else None)
        self._jwt = jwt.PyJWT()
        self._verified = self._refused = self._evicted = 0

    async def start(self) -> None:
        if self._keys is not None:
            self._keys.begin()

    async def stop(self) -> None:
        if self._keys is not None:
            await self._keys.close()

    def __call__(
        self, request: Request, context: Context
    ) -> Request | Response | Awaitable[Request | Response]:
        token = self._get(request)
        if not token:
            return self._refuse(request, context, "This API needs a bearer token, and the request has none.")
        found = self._cache.get(token)
        if found is not None and found[2] > self._now():
            request.user = User(found[0], copied(found[1]))
            return request
        try:
            if self._needs_fetch(token):
                return self._after_fetch(request, context, token)
            return self._let_in(request, token)
        except TokenRefused as problem:
            return self._turn_away(request, context, problem)

    def _needs_fetch(self, token: str) -> bool:
        if self._keys is None:
            return False
        kid, algorithm = self._header(token)
        return not self._keys.find(kid, algorithm) and self._keys.may_know_more()

    async def _after_fetch(self, request: Request, context: Context, token: str) -> Request | Response:
        assert self._keys is not None  # noqa: S101  # for the type checker: only called where it needs a fetch
        try:
            await self._keys.refresh()
            return self._let_in(request, token)
        except TokenRefused as problem:
            return self._turn_away(request, context, problem)
        except JwksUnavailable:
            detail = "The token could not be checked: its issuer's keys are not available. Try again shortly."
            return problems.service_unavailable(request, context, {"detail": detail}, {"retry-after": "5"})

    def _turn_away(self, request: Request, context: Context, problem: TokenRefused) -> Request | Response:
        self._refused += 1
        return self._refuse(request, context, str(problem))

    def _let_in(self, request: Request, token: str) -> Request:
        claims = self._claims(token)
        subject = claims.get(self._rules.subject_claim)
        if isinstance(subject, int) and not isinstance(subject, bool):
            subject = str(subject)
        if not isinstance(subject, str) or not subject:
            raise TokenRefused(f"The token has no claim {self._rules.subject_claim}.")
        self._verified += 1
        self._remember(token, subject, claims)
        request.user = User(subject, copied(claims))
        return request

    def _header(self, token: str) -> tuple[str | None, str]:
        """The key id and the algorithm that a token names. Raises `TokenRefused`."""
        if len(token) > LONGEST_TOKEN:
            raise TokenRefused("The token is too long.")
        try:
            header = jwt.get_unverified_header(token)
        except (PyJWTError, ValueError):
            raise TokenRefused("The token is not a JWT.") from None
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            raise TokenRefused("The token is signed with an algorithm that is not accepted here.")
        return (kid if isinstance(kid, str) else None), algorithm

    def _claims(self, token: str) -> dict[str, Any]:
        kid, algorithm = self._header(token)
        keys = [self._secret] if self._keys is None else [key.key for key in self._keys.find(kid, algorithm)]
        for key in keys:
            try:
                return self._decode(token, key, algorithm)
            except jwt.InvalidSignatureError:
                continue
        raise TokenRefused("The token's signature is not valid." if keys else "The token's key is not known.")

    def _decode(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        rules = self._rules
        try:
            return self._jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=rules.audience,
                issuer=rules.issuer,
                leeway=LEEWAY_SECONDS,
                options={"verify_aud": rules.audience is not None, "verify_sub": False, "verify_jti": False},
            )
        except jwt.InvalidSignatureError:
            raise
        except ExpiredSignatureError:
            raise TokenRefused("The token has expired.") from None
        except InvalidAudienceError:
            raise TokenRefused("The token is for another audience.") from None
        except InvalidIssuerError:
            raise TokenRefused("The token is of another issuer.") from None
        except (PyJWTError, ValueError, TypeError):
            raise TokenRefused("The token is not valid.") from None

    def _remember(self, token: str, subject: str, claims: dict[str, Any]) -> None:
        until = self._now() + CACHE_SECONDS
        expires = claims.get("exp")
        if isinstance(expires, int | float):
            until = min(until, expires + LEEWAY_SECONDS)
        if len(self._cache) >= CACHE_LIMIT:
            oldest = next(iter(self._cache))
            self._evicted += self._cache.pop(oldest)[2] > self._now()
        self._cache[token] = (subject, claims, until)

    def statistics(self) -> JwtStatistics:
        keys = self._keys.statistics() if self._keys is not None else None
        return JwtStatistics(len(self._cache), self._verified, self._refused, self._evicted, keys)
