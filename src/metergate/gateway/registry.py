"""Factories by export name, each in a module that is imported when a project first uses it.

A project without a JWT policy never loads PyJWT, and one broken import shows at the policy that needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from metergate.gateway.model import Handler, NamedPolicy, Site

PolicyFactory = Callable[[Any, "Site"], "NamedPolicy | None"]
"""``build(options, site)``: the policy ready to run; None after an error went to ``site.report``."""

HandlerFactory = Callable[[Any, "Site"], "Handler | None"]
"""The same for a handler. One that has `start` and `stop` is its own resource."""


def policy(module: str, function: str = "build") -> PolicyFactory:
    """The factory of that module, imported at its first call."""

    def build(options: Any, site: Site) -> NamedPolicy | None:
        return cast("NamedPolicy | None", _factory(module, function)(options, site))

    return build


def handler(module: str, function: str = "build") -> HandlerFactory:
    """The factory of that module, imported at its first call."""

    def build(options: Any, site: Site) -> Handler | None:
        return cast("Handler | None", _factory(module, function)(options, site))

    return build


def _factory(module: str, function: str) -> Callable[..., Any]:
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), function))
