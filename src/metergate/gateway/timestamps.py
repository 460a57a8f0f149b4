"""Times as logs and problems show them."""

from __future__ import annotations

import time
from functools import lru_cache


def timestamp(millis: int) -> str:
    """Milliseconds since 1970 as RFC 3339 in UTC: ``2026-07-01T12:00:00.123Z``."""
    return f"{_second(millis // 1000)}.{millis % 1000:03d}Z"


def now() -> str:
    """The `timestamp` of this moment."""
    return timestamp(time.time_ns() // 1_000_000)


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
