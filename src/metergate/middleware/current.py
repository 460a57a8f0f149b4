"""The request that is being served, wherever in the application's code one is: for `set_meters` and its like."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, overload

from metergate.engine import Decision, Metering
from metergate.errors import UsageError
from metergate.policy.model import Meter

current: ContextVar[Metering | None] = ContextVar("metergate", default=None)


KEY = "metergate"
"""Where in a request's scope or environ its `Metering` is."""


@overload
def set_meters(meters: Any, /) -> None: ...
@overload
def set_meters(request: Any, meters: Any, /) -> None: ...
def set_meters(*arguments: Any) -> None:
    """The run-time meters of the request that is being served: one or a list; see `metergate.engine.Metering.set_meters`.

    ``set_meters(request, meters)`` names the request, whichever framework's it is: for code that runs elsewhere.

    Raises:
        UsageError: a bad argument, or no request that Metergate meters is being served here.
    """
    found, meters = _read(arguments)
    found.set_meters(meters)


@overload
def add_meters(meters: Any, /) -> None: ...
@overload
def add_meters(request: Any, meters: Any, /) -> None: ...
def add_meters(*arguments: Any) -> None:
    """As `set_meters`, but earlier run-time meters stay."""
    found, meters = _read(arguments)
    found.add_meters(meters)


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


def metering_of(request: Any) -> Metering:
    """That of a framework's request, a scope or an environ. Raises UsageError where there is none."""
    for holder in (getattr(request, "scope", None), getattr(request, "environ", None), request):
        found = holder.get(KEY) if isinstance(holder, Mapping) else None
        if isinstance(found, Metering):
            return found
    raise UsageError(
        "this request is none that Metergate meters: give it one that has passed the middleware, on a path that it does not "
        "exclude"
    )


def _read(arguments: tuple[Any, ...]) -> tuple[Metering, Any]:
    if len(arguments) == 1:
        return metering(), arguments[0]
    request, meters = arguments
    return metering_of(request), meters
