"""What expressions are computed from, and which of it they take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from metergate.policy.subject import UserLike

_NONE: Mapping[Any, Any] = MappingProxyType({})


class Facts(msgspec.Struct):
    """One request and its response, as far as `Needs` asks for it; None, or left out of a mapping, is missing.

    ``path`` is as the client wrote it, without the query. ``query`` has the first value of each name, decoded. Names of
    headers are lower case; what stands in several lines is joined by ``", "``. Bytes are those of the bodies as they
    travelled. ``route`` is the route's template (``/orders/{id}``). ``body`` has members of the response's JSON body by
    their paths. ``duration_ms`` is from the request's arrival to the response's end.
    """

    method: str | None = None
    path: str | None = None
    query: Mapping[str, str] = _NONE
    request_headers: Mapping[str, str] = _NONE
    request_bytes: int | None = None
    status: int | None = None
    response_headers: Mapping[str, str] = _NONE
    response_bytes: int | None = None
    body: Mapping[tuple[str, ...], Any] = _NONE
    route: str | None = None
    user: UserLike | None = None
    duration_ms: float | None = None


class Needs(msgspec.Struct, frozen=True):
    """The facts that cost something and that expressions take. Method, path, status, route and user cost nothing.

    ``members`` are the paths into the response's JSON body; where there is none, the body is not looked at.
    """

    query: frozenset[str] = frozenset()
    request_headers: frozenset[str] = frozenset()
    response_headers: frozenset[str] = frozenset()
    members: frozenset[tuple[str, ...]] = frozenset()
    request_bytes: bool = False
    response_bytes: bool = False
    duration: bool = False

    @property
    def response_body(self) -> bool:
        """Whether the response's body has to be looked at."""
        return bool(self.members)

    def __or__(self, other: Needs) -> Needs:
        """What both need together."""
        return Needs(
            self.query | other.query,
            self.request_headers | other.request_headers,
            self.response_headers | other.response_headers,
            self.members | other.members,
            self.request_bytes or other.request_bytes,
            self.response_bytes or other.response_bytes,
            self.duration or other.duration,
        )
