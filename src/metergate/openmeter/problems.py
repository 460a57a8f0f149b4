"""What an answer of OpenMeter to a read means. Plain functions: an answer in, a value or an error out.

A *lack* is an answer about what was asked for (no such customer). Everything else that is not a 200 is
about OpenMeter or the way to it and raises, because it says nothing about the subject:

* 200: the body.
* 404: ``Lack.ABSENT``. 412: ``Lack.DELETED``.
* 400: ``Lack.REFUSED``, OpenMeter's validation turned the name down, so nobody has it. 414 and 431 too: the
  name is longer than what some server on the way takes.
* 401, and a 403 in JSON: OpenMeterUnauthorized, our key was refused. A 403 of another kind: OpenMeterBlocked,
  since firewalls answer with pages, and for one request rather than for all.
* 429: OpenMeterThrottled. 3xx, and a lack that is not OpenMeter's: OpenMeterMisdirected. All others:
  OpenMeterOutage.

404, 412 and 400 count only with OpenMeter's own problem body (see `is_openmeters`). A bare 404 comes from a
proxy or from an ``apiUrl`` that is not OpenMeter's, one with another problem from some other API, and
believing it would lock every paying customer out.
"""

from __future__ import annotations

import email.utils
import enum
from typing import Any

import msgspec

from metergate.errors import (
    OpenMeterBlocked,
    OpenMeterMisdirected,
    OpenMeterOutage,
    OpenMeterThrottled,
    OpenMeterUnauthorized,
)

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
        OpenMeterUnauthorized, OpenMeterBlocked, OpenMeterThrottled, OpenMeterMisdirected, OpenMeterOutage: as in
            the list above.
    """
    if status == 200:
        return body
    if status in _TOO_LONG:
        return Lack.REFUSED
    problem = read_problem(status, content_type, body)
    if problem is not None and status in _LACKS and is_openmeters(problem, status):
        return _LACKS[status]
    said = f"{endpoint} answered {status}" + _detail(problem)
    if status == 401 or (status == 403 and _is_json(body)):
        raise OpenMeterUnauthorized(said)
    if status == 403:
        raise OpenMeterBlocked(
            f"{said} with no JSON, so not by OpenMeter but by a firewall or proxy before it"
        )
    if status == 429:
        raise OpenMeterThrottled(said, read_retry_after(retry_after, wall_time))
    if 300 <= status < 400:
        raise OpenMeterMisdirected(f"{said}, a redirect, which is not followed: set apiUrl to where it leads")
    if status in _LACKS:
        raise OpenMeterMisdirected(f"{said} in a form that is not OpenMeter's: check apiUrl")
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


def is_openmeters(problem: dict[str, Any], status: int) -> bool:
    """Whether a problem is one of OpenMeter's: ``about:blank``, and an instance that is a request id, if any.

    Other frameworks link a page in ``type`` (ASP.NET, this gateway) or name the path in ``instance`` (Spring).
    """
    instance = problem.get("instance", "urn:request:")
    return (
        problem.get("type") == "about:blank"
        and problem.get("status") == status
        and isinstance(instance, str)
        and instance.startswith("urn:request:")
    )


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


def _is_json(body: bytes) -> bool:
    """Whether a body is an object, which an API's answer is and a page is not."""
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _detail(problem: dict[str, Any] | None) -> str:
    detail = problem.get("detail") if problem is not None else None
    return f" ({detail[:200]})" if isinstance(detail, str) and detail else ""
