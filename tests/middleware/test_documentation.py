"""The code blocks of docs/middleware.md run as they stand there, against a real OpenMeter."""

from __future__ import annotations

import asyncio
import re
import sys
from itertools import count
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings
from tests.middleware.applications import django as _configured  # noqa: F401  # Django has one configuration

from metergate.middleware import HEALTH_PATHS, Metergate
from metergate.middleware.callers import _NAMES
from metergate.middleware.host import DRAIN_SECONDS

NUMBERS = count()
PAGE = (Path(__file__).parents[2] / "docs" / "middleware.md").read_text()


def block(heading, number=0):
    """What a block under that heading defines."""
    section = PAGE.partition(f"\n## {heading}\n" if heading else "\n")[2].partition("\n## ")[0]
    code = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[number]
    module = ModuleType(f"documented_{next(NUMBERS)}")
    sys.modules[module.__name__] = module  # where Litestar looks what annotations mean
    exec(compile(code, f"docs/middleware.md: {heading}", "exec"), module.__dict__)  # noqa: S102  # our own page
    return vars(module)


@pytest.fixture
def configured(openmeter, tmp_path, monkeypatch):
    """The variables that the page speaks of."""
    monkeypatch.setenv("METERGATE_OPENMETER_URL", openmeter.url)
    monkeypatch.setenv("OPENMETER_API_KEY", "key")
    monkeypatch.setenv("METERGATE_SPOOL", str(tmp_path))


@pytest.fixture
def may(configured, customer):
    """Who may call twice, and not chat."""
    return customer(f"reader-{next(NUMBERS)}", 2)


def statuses(gate, transport, user):
    """Of three things and a chat, then of nobody's."""

    async def whole():
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                paths = ["/chat", "/things/1", "/things/2", "/things/3"]
                answers = [await client.get(path, headers={"X-User": user}) for path in paths]
                return [each.status_code for each in [*answers, await client.get("/things/1")]]
        finally:
            await gate.stop()

    try:
        return asyncio.run(whole())
    finally:
        gate.drain(0.0)


@pytest.mark.parametrize("heading", ["FastAPI", "Litestar", "Quart"])
def test_the_block_of_an_asgi_framework_meters_and_limits(may, heading):
    shown = block(heading)
    gate = getattr(shown["gate"], "metergate", shown["gate"])
    assert statuses(gate, httpx.ASGITransport(shown["app"]), may) == [403, 200, 200, 403, 401]


def test_the_block_of_starlette_meters_and_limits(may):
    shown = block("Starlette, and any ASGI application")
    assert statuses(shown["gate"], httpx.ASGITransport(shown["app"]), may) == [404, 200, 200, 403, 401]


def test_the_blocks_of_django_meter_and_limit(may):
    views = ModuleType("documented_urls")
    vars(views).update(block("Django", 1))
    shown = {name: value for name, value in block("Django").items() if name.isupper()}
    gate = Metergate(**shown.pop("METERGATE"))
    sessions = shown["MIDDLEWARE"].pop(0), shown["MIDDLEWARE"].pop(0)
    assert all(name.startswith("django.contrib.") for name in sessions), "those need a database"
    with override_settings(METERGATE=gate, ROOT_URLCONF=views, **shown):
        assert statuses(gate, httpx.ASGITransport(ASGIHandler()), may) == [403, 200, 200, 403, 401]


@pytest.mark.parametrize(
    ("heading", "of_chat"), [("Flask", 403), ("Any WSGI application", 200)], ids=["flask", "wsgi"]
)
def test_the_block_of_a_wsgi_application_meters_and_limits(may, heading, of_chat):
    shown = block(heading)
    gate = getattr(shown["gate"], "metergate", shown["gate"])
    paths = ["/chat", "/things/1", "/things/2", "/things/3"]
    with httpx.Client(transport=httpx.WSGITransport(shown["app"]), base_url="http://shop") as client:
        found = [client.get(path, headers={"X-User": may}).status_code for path in paths]
        found.append(client.get("/things/1").status_code)
    gate.drain(0.0)
    assert found == ([403, 200, 200, 403, 401] if of_chat == 403 else [200, 200, 403, 403, 401])


def test_the_first_block_is_a_metergate(configured):
    assert block("")["gate"].engine.policy.required_entitlements == ("calls",)


def test_the_block_of_setting_meters_needs_a_request():
    assert callable(block("Setting meters")["handle"])


def test_names_and_numbers_are_those_of_the_code():
    text = " ".join(PAGE.split())
    assert all(f"`{path}`" in text for path in HEALTH_PATHS)
    assert f"the first of {', '.join(f'`{name}`' for name in _NAMES)}" in text
    assert f"sent for up to {DRAIN_SECONDS:g} seconds" in text
