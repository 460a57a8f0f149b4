"""An upstream that gives no answer: what the client is told, and what the log says of it.

The client gets 502 or 504 and no cause, which may name inner hosts; that is for the log. A line takes 60 µs and more, and an
upstream that is down fails every request. So the first failure of an upstream is said in full, and while it goes on how many
there were, every `PERIOD_SECONDS`, for each kind of failure.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pyreqwest.exceptions import DecodeError, PyreqwestError, RequestTimeoutError

from metergate.gateway import problems
from metergate.gateway.failures import causes, is_connecting, reason

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.http import Request, Response

Kind = Literal["no_connection", "timeout", "unreadable", "broken", "malformed"]

PERIOD_SECONDS = 10.0
MOST = 500
"""Upstreams and kinds that are told apart at a time; a template can make any number of hosts."""

_OTHERS = "others"
_DETAILS: dict[Kind, str] = {
    "no_connection": "There is no connection to the upstream.",
    "timeout": "The upstream did not answer in time.",
    "unreadable": "The upstream's answer is not one that HTTP allows.",
    "broken": "The upstream broke off before it answered.",
    "malformed": "The upstream's address, or a header for it, is malformed.",
}
_MALFORMED = "(malformed address)"
_PORTS = {"http": 80, "https": 443}

_log = logging.getLogger("metergate.upstream")


class Outages:
    """Answers for upstreams that do not; of one event loop. `stop` says what is still to be said."""

    __slots__ = ("_periods",)

    def __init__(self) -> None:
        self._periods: dict[tuple[str, Kind], _Period] = {}

    def no_answer(self, failure: PyreqwestError, url: str, request: Request, context: Context) -> Response:
        """502 without a connection or an answer, 504 without one in time."""
        return self._answer(_kind(failure), reason(failure), url, request, context, causes(failure))

    def not_sent(self, failure: ValueError, url: str, request: Request, context: Context) -> Response:
        """An address that is no URL, or a header that cannot be sent: the HTTP client says so before it connects."""
        why = reason(failure) if isinstance(failure, PyreqwestError) else str(failure)
        return self._answer("malformed", why, url, request, context)

    def too_late(self, seconds: float, url: str, request: Request, context: Context) -> Response:
        """Nothing came for that long, while the client had no more to send."""
        return self._answer("timeout", f"nothing came for {seconds:g} s", url, request, context)

    def _answer(
        self,
        kind: Kind,
        why: str,
        url: str,
        request: Request,
        context: Context,
        inner: list[str] | None = None,
    ) -> Response:
        upstream = origin(url)
        if self._is_first(upstream, kind):
            extra = {"upstream": upstream, "kind": kind, "causes": inner}
            context.log.error("no answer from upstream %s: %s", upstream, why, extra=extra)
        problem = problems.gateway_timeout if kind == "timeout" else problems.bad_gateway
        return problem(request, context, {"detail": _DETAILS[kind]})

    def _is_first(self, upstream: str, kind: Kind) -> bool:
        """Whether to say it in full; otherwise it is counted."""
        key = (upstream, kind)
        if key not in self._periods and len(self._periods) >= MOST:
            key = (_OTHERS, kind)
        period = self._periods.get(key)
        if period is None:
            period = self._periods[key] = _Period()
            period.timer = asyncio.get_running_loop().call_later(PERIOD_SECONDS, self._end_period, key)
            return True
        period.unsaid += 1
        return False

    def _end_period(self, key: tuple[str, Kind]) -> None:
        period = self._periods[key]
        if not period.unsaid:
            del self._periods[key]
            return
        _say_more(key, period.unsaid)
        period.unsaid = 0
        period.timer = asyncio.get_running_loop().call_later(PERIOD_SECONDS, self._end_period, key)

    def stop(self) -> None:
        for key, period in self._periods.items():
            period.timer.cancel()
            if period.unsaid:
                _say_more(key, period.unsaid)
        self._periods.clear()


class _Period:
    """A time in which one upstream has failed in one way; how often since it was said last."""

    __slots__ = ("timer", "unsaid")

    def __init__(self) -> None:
        self.unsaid = 0
        self.timer: asyncio.TimerHandle


def _say_more(key: tuple[str, Kind], unsaid: int) -> None:
    upstream, kind = key
    extra = {"upstream": upstream, "kind": kind, "unsaid": unsaid}
    _log.error(
        "no answer from upstream %s: %d more requests, like the one before", upstream, unsaid, extra=extra
    )


def _kind(failure: PyreqwestError) -> Kind:
    if is_connecting(failure):
        return "no_connection"
    if isinstance(failure, RequestTimeoutError):
        return "timeout"
    return "unreadable" if isinstance(failure, DecodeError) else "broken"


def origin(url: str) -> str:
    """Scheme, host and port: what may be said of a URL. Its path may name a customer, the rest hold a credential."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return _MALFORMED
    if not host or not port:
        return _MALFORMED
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
