"""Every decision told: in a line of the log at debug, and in a response header, where a policy wants that."""

from __future__ import annotations

import logging

_log = logging.getLogger("metergate.engine")


def explanation(reason: str, age: float | None, *, shadowed: bool) -> str:
    """The value of the header: ``granted; age=1.2``, in the form of RFC 9651, as a list of one.

    ``age`` is how many seconds ago OpenMeter was asked, left out where it was not. ``shadow`` marks a denial that blocked
    nothing.
    """
    told = reason if age is None else f"{reason}; age={age:.3f}".rstrip("0").removesuffix(".")
    return f"{told}; shadow" if shadowed else told


class Explanations:
    """Tells of each decision of one policy. ``wanted`` is False where nobody wants to know: then do not call `tell`.

    ``header`` is the name of the header, None for no header. Whether the log is at debug is looked at once, here.
    """

    __slots__ = ("_policy", "_traces", "header", "wanted")

    def __init__(self, policy: str, header: str | None) -> None:
        self._policy = policy
        self._traces = _log.isEnabledFor(logging.DEBUG)
        self.header = header
        self.wanted = self._traces or header is not None

    def tell(
        self, reason: str, age: float | None, *, shadowed: bool, subject: str | None, route: str
    ) -> str | None:
        """Write the line; the value for the header, None where there is none."""
        if self._traces:
            extra = {
                "policy": self._policy,
                "subject": subject,
                "route": route,
                "reason": reason,
                "age": None if age is None else round(age, 3),
                "shadow": shadowed or None,
            }
            _log.debug("policy %s decided: %s", self._policy, reason, extra=extra)
        return None if self.header is None else explanation(reason, age, shadowed=shadowed)
