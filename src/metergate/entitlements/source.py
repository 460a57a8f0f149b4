"""Where the answers of OpenMeter come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from metergate.openmeter.batch import BatchAccess
from metergate.openmeter.values import SubjectAccess


class AccessSource(Protocol):
    """Where answers come from: ``metergate.openmeter.access.AccessClient``, or a stand-in of a test."""

    async def access(self, subject: str) -> SubjectAccess:
        """All features of a subject. Raises OpenMeterError."""

    async def query(self, subjects: Sequence[str], features: Sequence[str]) -> BatchAccess | None:
        """Who of these has access to what; None where that is not offered. Raises OpenMeterError."""

    def count_requests(self, on_request: Callable[[], None]) -> None:
        """Call this before each HTTP request."""

    async def close(self) -> None:
        """Close what is open."""
