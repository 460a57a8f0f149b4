"""Values that belong to one request, under a name that policies, handlers and hooks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast, overload

if TYPE_CHECKING:
    from metergate.gateway.context import Context

T = TypeVar("T")
D = TypeVar("D")

_STORE = "metergate.context_data"


class ContextData(Generic[T]):
    """A typed place in every request's context: ``plan = ContextData[str]("plan")``, once per module.

    Two of the same name are the same place. What is set is gone with its request; it never shows in another.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def set(self, context: Context, value: T) -> None:
        """Keep ``value`` until the end of the request."""
        context.custom.setdefault(_STORE, {})[self.name] = value

    @overload
    def get(self, context: Context) -> T | None: ...

    @overload
    def get(self, context: Context, default: D) -> T | D: ...

    def get(self, context: Context, default: object = None) -> object:
        """What was set in this request, or ``default``."""
        return cast("T", context.custom.get(_STORE, {}).get(self.name, default))

    def __repr__(self) -> str:
        return f"ContextData({self.name!r})"
