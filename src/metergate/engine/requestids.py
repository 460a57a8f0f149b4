"""Request ids: random UUIDs, drawn from the operating system many at a time, because a system call costs more than an id."""

from __future__ import annotations

import os
from typing import Final

_AT_A_TIME: Final = 128
_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))

_drawn: list[str] = []
# A child would hand out its parent's ids a second time.
os.register_at_fork(after_in_child=_drawn.clear)


def new_request_id() -> str:
    """A fresh UUID, version 4: 122 random bits from the operating system, so no fork and no client can repeat one."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            _draw()


def _draw() -> None:
    digits = os.urandom(16 * _AT_A_TIME).hex()
    _drawn.extend([_uuid(digits[start : start + 32]) for start in range(0, len(digits), 32)])


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"
