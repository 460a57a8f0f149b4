"""The request that is being served, wherever in the application's code one is: for `set_meters` and its like."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from metergate.engine import Decision, Metering
from metergate.errors import UsageError
from metergate.policy.model import Meter

current: ContextVar[Metering | None] = ContextVar("metergate", default=None)


def set_meters(meters: Any) -> None:
    """The run-time meters of the request that is being served: one or a list; see `metergate.engine.Metering.set_meters`.

    Raises:
        UsageError: a bad argument, or no request that Metergate meters is being served here.
    """
    metering().set_meters(meters)


def add_meters(meters: Any) -> None:
    """As `set_meters`, but earlier run-time meters stay."""
    metering().add_meters(meters)


def get_meters() -> tuple[Meter, ...]:
    """The run-time meters set so far."""
    return metering().get_meters()


async def check(feature: str) -> Decision:
    """What would be decided now of a feature for who pays for this request; see `metergate.engine.Metering.check`."""
    return await metering().check(feature)


async def balance(feature: str) -> float | None:
    """What is left of a feature to who pays for this request; see `metergate.engine.Metering.balance`."""
    return await metering().balance(feature)


def metering() -> Metering:
    """That of the request that is being served. Raises UsageError where there is none."""
    found = current.get()
    if found is None:
        raise UsageError(
            "no request that Metergate meters is being served here: call it while one is, behind the middleware, on a path "
            "that it does not exclude"
        )
    return found
