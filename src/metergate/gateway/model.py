"""A loaded project: routes with their policies and handler, ready to run. Made by `project`, run by `pipeline`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from metergate.errors import Finding
from metergate.gateway.http import Request, Response

if TYPE_CHECKING:
    from pathlib import Path

    from metergate.engine import Backends
    from metergate.gateway.context import Context
    from metergate.gateway.cors import CorsPolicy
    from metergate.gateway.upstream import Upstream

InboundResult = Request | Response
Inbound = Callable[[Request, "Context"], "InboundResult | Awaitable[InboundResult]"]
"""An inbound policy, ready to run: returns a request (go on with that one) or a response (stop). May be async."""

Outbound = Callable[[Response, Request, "Context"], "Response | Awaitable[Response]"]
Handler = Callable[[Request, "Context"], "Response | Awaitable[Response]"]


@dataclass(slots=True)
class Site:
    """What a policy or handler may use while it is built: where it stands, and what all share.

    ``environment`` is what `$env` reads. ``report`` takes findings whose paths are relative to the options (`$`);
    the loader puts file, position and policy name in front.
    """

    name: str
    directory: Path
    environment: Mapping[str, str]
    report: Callable[[Finding], None]
    load: Callable[[str, str], Any]
    """``load(module, export)``: the attribute of a project's module (`$import(./modules/x)`); reports and returns None."""
    backends: Backends
    upstream: Upstream
    policy: Callable[[str], Any]
    """``policy(name)``: another policy of the project by name, built (for composites); None where there is none."""


class Lifecycle(Protocol):
    """A policy or handler object may have these; they run in each worker process, on its event loop."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy ready to run under its name. ``inbound`` or ``outbound`` is None where it does not go that way."""

    name: str
    inbound: Inbound | None = None
    outbound: Outbound | None = None
    resource: object = None
    """What has `start` and `stop`, if anything."""


@dataclass(slots=True)
class Route:
    """One method of one path. ``label`` (`GET /users/{id}`) is its name in logs and metrics, ``raw`` its OpenAPI object."""

    method: str
    path: str
    handler: Handler
    inbound: tuple[NamedPolicy, ...] = ()
    outbound: tuple[NamedPolicy, ...] = ()
    cors: CorsPolicy | None = None
    operation_id: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    handler_resource: object = None
    label: str = ""

    def __post_init__(self) -> None:
        self.label = self.label or f"{self.method} {self.path}"
