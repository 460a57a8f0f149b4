"""What the authentication policies share: a credential from a header, and the answer to a request without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from metergate.gateway import problems
from metergate.gateway.http import Headers, Request, Response

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.options import Options

Credential = Callable[[Request], str | None]
"""The credential of a request; None where there is none in the form that is asked for."""


def read_credential(read: Options) -> tuple[Credential, str]:
    """The getter that ``authHeader`` (Authorization) and ``authScheme`` (Bearer, "" for none) ask for, and a challenge.

    The challenge is the value of ``www-authenticate`` in a 401, which has to carry one (RFC 9110, 11.6.1).
    """
    header = read.text("authHeader", "Authorization")
    scheme = read.phrase("authScheme", "Bearer").strip()
    return credential(header, scheme), scheme or "ApiKey"


def credential(header: str, scheme: str) -> Credential:
    """Reads ``header: scheme credential``; the scheme without case, as RFC 9110 (11.1) has it."""
    header = header.lower()
    prefix = f"{scheme} ".lower() if scheme else ""
    length = len(prefix)

    def get(request: Request) -> str | None:
        for name, value in request.headers.items:
            if name == header:
                if not length:
                    return value
                return value[length:].strip(" ") if value[:length].lower() == prefix else None
        return None

    return get


class Refusal:
    """Answers requests without a valid credential: a 401, or the request itself where such requests may go on."""

    __slots__ = ("_allow", "_headers")

    def __init__(self, challenge: str, allow: bool) -> None:
        self._allow = allow
        self._headers = Headers({"www-authenticate": challenge})

    def __call__(self, request: Request, context: Context, detail: str) -> Request | Response:
        if self._allow:
            return request
        return problems.unauthorized(request, context, {"detail": detail}, self._headers)
