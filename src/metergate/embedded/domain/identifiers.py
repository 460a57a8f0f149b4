"""ULIDs, the ids that OpenMeter gives to everything it makes (github.com/ulid/spec).

26 characters of Crockford's base 32: 48 bits of milliseconds, then 80 random bits; ids sort by the time they
were made.
"""

from __future__ import annotations

import os
import re
from datetime import datetime

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}")


def new_id(now: datetime) -> str:
    """A ULID of the time ``now`` (aware)."""
    return ulid(int(now.timestamp() * 1000), os.urandom(10))


def ulid(milliseconds: int, randomness: bytes) -> str:
    """The ULID of these 48 bits of time (milliseconds since 1970) and these 10 bytes."""
    number = milliseconds << 80 | int.from_bytes(randomness)
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def is_id(text: str) -> bool:
    """Whether the text has the form of a ULID, in upper or lower case."""
    return PATTERN.fullmatch(text) is not None
