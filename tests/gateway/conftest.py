"""What the tests of handlers and policies are built with: a site that takes findings, and one request's context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from metergate.engine import Backends
from metergate.errors import Finding
from metergate.gateway.asgi import Gateway
from metergate.gateway.context import BACKGROUND, Context
from metergate.gateway.handlers.function import wrap
from metergate.gateway.hooks import RuntimeHooks
from metergate.gateway.http import Response
from metergate.gateway.model import NamedPolicy, Route, Site
from metergate.gateway.paths import parse_pattern
from metergate.gateway.pipeline import Pipeline
from metergate.gateway.policies import customcode
from metergate.gateway.router import Router
from metergate.gateway.upstream import Upstream
from metergate.testing.asgi import AsgiClient, Called


class SiteParts:
    """A `Site` named ``mine`` in a folder of its own; what is reported, loaded and named is in plain attributes."""

    def __init__(self, directory: Path) -> None:
        self.findings: list[Finding] = []
        self.exports: dict[tuple[str, str], Any] = {}
        self.policies: dict[str, Callable[[], NamedPolicy | None]] = {}
        self.environment: dict[str, str] = {}
        self.directory = directory

    def named(self, name: str = "mine") -> Site:
        return Site(
            name=name,
            directory=self.directory,
            environment=self.environment,
            report=self.findings.append,
            load=lambda module, export: self.exports.get((module, export)),
            backends=Backends(None),
            upstream=Upstream(timeout=5.0, connect_timeout=2.0),
            policy=lambda wanted: self.policies[wanted]() if wanted in self.policies else None,
        )

    @property
    def said(self) -> list[str]:
        """Each finding as ``severity path message fix``."""
        return [f"{one.severity} {one.path} {one.message} {one.fix}".strip() for one in self.findings]


@pytest.fixture
def parts(tmp_path: Path) -> SiteParts:
    return SiteParts(tmp_path)


@pytest.fixture
def context() -> Context:
    return Context("3f0c0a2e-0000-4000-8000-000000000000")


class ServedRoutes:
    """Routes of plain functions behind a `Gateway`, called without sockets. What is observed is in ``observed``."""

    def __init__(self, *routes: Route, hooks: RuntimeHooks | None = None, **options: Any) -> None:
        self.observed: list[tuple[str, str, int]] = []
        named = {policy.name: policy for route in routes for policy in (*route.inbound, *route.outbound)}
        router = Router((route.method, parse_pattern(route.path, "url-pattern"), route) for route in routes)
        self.gateway = Gateway(
            Pipeline(router, hooks or RuntimeHooks(), {**named, **options.pop("policies", {})}),
            observe=lambda route, method, status, seconds: self.observed.append((route, method, status)),
            **options,
        )
        self.call = AsgiClient(self.gateway).call

    def ask(self, target: str = "/", method: str = "GET", **options: Any) -> Called:
        """One request on an event loop of its own, and what has run on after it."""

        async def asking() -> Called:
            called = await asyncio.wait_for(self.call(target, method, **options), 20)
            await BACKGROUND.drain(5)
            return called

        return asyncio.run(asking())


@pytest.fixture
def serve() -> Callable[..., ServedRoutes]:
    """``serve(handler, inbound=[...], outbound=[...], method=..., path=..., cors=..., hooks=..., ...)``."""

    def make(
        handler: Callable[..., Any] = lambda request, context: Response("ok"),
        *,
        inbound: Sequence[NamedPolicy | Callable[..., Any]] = (),
        outbound: Sequence[NamedPolicy | Callable[..., Any]] = (),
        method: str = "GET",
        path: str = "/",
        cors: Any = None,
        **options: Any,
    ) -> ServedRoutes:
        ways = (
            tuple(_policy(f"in-{n}", one, customcode.inbound) for n, one in enumerate(inbound)),
            tuple(_policy(f"out-{n}", one, customcode.outbound) for n, one in enumerate(outbound)),
        )
        return ServedRoutes(Route(method, path, wrap(handler), *ways, cors=cors), **options)

    return make


def _policy(
    name: str, one: NamedPolicy | Callable[..., Any], make: Callable[..., NamedPolicy]
) -> NamedPolicy:
    return one if isinstance(one, NamedPolicy) else make(one, {}, name)
