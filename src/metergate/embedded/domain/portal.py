"""Portal tokens: what a consumer is given to look at his own usage, and nothing else.

They are JWTs, signed with a secret of the server (openmeter/portal/adapter/token.go); no token is kept.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import jwt
from msgspec import Struct

from metergate.embedded.domain.moments import EPOCH, SECOND

ISSUER = "openmeter"
ALGORITHM = "HS256"
LIFE = timedelta(hours=1)
"""How long a token holds where nothing else is said."""


class PortalToken(Struct, frozen=True):
    """Whom it is for, which meters it opens (none named: all), and until when."""

    id: str
    subject: str
    expires_at: datetime
    allowed_meters: tuple[str, ...] = ()


class InvalidToken(ValueError):
    """A token that opens nothing; its text is for the client."""


def sign(token: PortalToken, secret: str, now: datetime) -> str:
    """The token as a consumer gets it."""
    claims: dict[str, Any] = {
        "Namespace": "default",
        "Id": token.id,
        "AllowedMeterSlugs": list(token.allowed_meters),
        "iss": ISSUER,
        "sub": token.subject,
        "exp": (token.expires_at - EPOCH) // SECOND,
        "iat": (now - EPOCH) // SECOND,
    }
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


def verify(text: str, secret: str, now: datetime) -> PortalToken:
    """The token that this server signed. Raises InvalidToken for any other, and for one that has expired."""
    options: Any = {"require": ["exp", "sub", "iss"], "verify_exp": False, "verify_iat": False}
    try:
        claims = jwt.decode(text, secret, algorithms=[ALGORITHM], issuer=ISSUER, options=options)
        expires_at = EPOCH + claims["exp"] * SECOND
        token = PortalToken(
            str(claims["Id"]), str(claims["sub"]), expires_at, tuple(claims["AllowedMeterSlugs"])
        )
    except (jwt.InvalidTokenError, KeyError, TypeError, OverflowError) as exception:
        raise InvalidToken(f"invalid token: {exception}") from exception
    if token.expires_at <= now:
        raise InvalidToken("token expired")
    return token
