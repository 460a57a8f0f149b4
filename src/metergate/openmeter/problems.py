"""What an answer of OpenMeter to a read means. Plain functions: an answer in, a value or an error out.

A *lack* is an answer about what was asked for (no such customer). Everything else that is not a 200 is
about OpenMeter or the way to it and raises, because it says nothing about the subject:

* 200: the body.
* 404: ``Lack.ABSENT``. 412: ``Lack.DELETED``.
* 400: ``Lack.REFUSED``, OpenMeter's validation turned the name down, so nobody has it. 414 and 431 too: the
  name is longer than what some server on the way takes.
* 401, 403: OpenMeterUnauthorized. 429: OpenMeterThrottled. All others: OpenMeterOutage.

404, 412 and 400 count only with a problem body (RFC 9457, what OpenMeter sends with every error). A bare
404 comes from a proxy or from an ``apiUrl`` that is not OpenMeter's, and believing it would lock every
paying customer out.
"""

from __future__ import annotations

import email.utils
import enum
from typing import Any

import msgspec

from metergate.errors import OpenMeterOutage, OpenMeterThrottled, OpenMeterUnauthorized

LONGEST_RETRY_AFTER = 600.0
"""Seconds. A longer ``Retry-After`` counts as this: a slip in a proxy must not end the checks for a day."""


class Lack(enum.Enum):
    """Why there is nothing to read: there is none, it was deleted, or its name cannot exist."""

    ABSENT = "absent"
    DELETED = "deleted"
    REFUSED = "refused"


_LACKS = {404: Lack.ABSENT, 412: Lack.DELETED, 400: Lack.REFUSED}
_TOO_LONG = frozenset({414, 431})


def read_answer(
    status: int, content_type: str, retry_after: str | None, body: bytes, *, endpoint: str, wall_time: float
) -> bytes | Lack:
    """The body of a 200, or what is lacking.

    Args:
        content_type: the header, empty where there is none.
        retry_after: the header ``Retry-After`` as sent, delta-seconds or an HTTP date.
        endpoint: how the error names what was asked, without names of subjects in it.
        wall_time: seconds since 1970, to read a ``Retry-After`` that is a date.

    Raises:
        OpenMeterUnauthorized, OpenMeterThrottled, OpenMeterOutage: as in the list above.
    """
    if status == 200:
        return body
    if status in _TOO_LONG:
        return Lack.REFUSED
    problem = read_problem(status, content_type, body)
    if problem is not None and status in _LACKS:
        return _LACKS[status]
    said = f"{endpoint} answered {status}" + _detail(problem)
    if status in (401, 403):
        raise OpenMeterUnauthorized(said)
    if status == 429:
        raise OpenMeterThrottled(said, read_retry_after(retry_after, wall_time))
    if 300 <= status < 400:
        raise OpenMeterOutage(f"{said}, a redirect, which is not followed: set apiUrl to where it leads")
    if status in _LACKS:
        raise OpenMeterOutage(f"{said} without a problem body, so not by OpenMeter: check apiUrl")
    raise OpenMeterOutage(said)


def read_problem(status: int, content_type: str, body: bytes) -> dict[str, Any] | None:
    """The problem of an error answer; None where the body is none.

    Accepts ``application/problem+json``, and any JSON object that repeats the status, since proxies rewrite
    media types.
    """
    try:
        problem = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(problem, dict):
        return None
    named = content_type.partition(";")[0].strip().lower() == "application/problem+json"
    return problem if named or problem.get("status") == status else None


def read_retry_after(value: str | None, wall_time: float) -> float | None:
    """Seconds to wait, 0 to LONGEST_RETRY_AFTER; None where the header is missing or cannot be read."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Digits beyond this many are longer than the bound whatever they say.
        return min(float(value[:12]), LONGEST_RETRY_AFTER)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(moment - wall_time, 0.0), LONGEST_RETRY_AFTER)


def _detail(problem: dict[str, Any] | None) -> str:
    detail = problem.get("detail") if problem is not None else None
    return f" ({detail[:200]})" if isinstance(detail, str) and detail else ""
