"""`metergate.runtime`: a project's modules, written with its names alone, run in the gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

import metergate.runtime
from metergate.engine import Backends
from metergate.gateway.context import Context
from metergate.gateway.http import Headers, Request, Response
from metergate.gateway.pipeline import Pipeline
from metergate.gateway.project import load_project
from metergate.gateway.upstream import Upstream

POLICY = """
from metergate.runtime import ContextData, Context, Request, Response, User, environment, problems
from modules.shared import plan


async def authenticate(request: Request, context: Context, options, policy_name):
    if request.headers.get("x-key") != options["key"]:
        return problems.forbidden(request, context, {"detail": f"{policy_name} says no"}, {"x-why": "key"})
    request.user = User("acme", {"plan": environment["PLAN"]})
    plan.set(context, request.user.data["plan"])
    return request


def mark(response: Response, request: Request, context: Context, options, policy_name):
    response.headers["x-marked"] = policy_name
    return response
"""

SHARED = """
from metergate.runtime import ContextData

plan = ContextData[str]("plan")
"""

HANDLER = """
from metergate.runtime import OpenMeterInboundPolicy, Response, RuntimeProblem
from .shared import plan


def default(request, context):
    OpenMeterInboundPolicy.setMeters(context, {"type": "call", "data": {"id": request.params["id"]}})
    OpenMeterInboundPolicy.add_meters(context, [{"type": "tokens", "data": {"n": 3}}])
    return {"id": request.params["id"], "sub": request.user.sub, "plan": plan.get(context)}


async def fails(request, context):
    raise RuntimeProblem("no way on", {"step": 2})
"""

RUNTIME = """
def runtime_init(runtime):
    runtime.add_response_sending_hook(lambda response, request, context: stamp(response, context))


def stamp(response, context):
    response.headers.set("x-request", context.request_id)
"""


def custom(name: str, export: str, way: str, options: dict[str, str]) -> dict[str, object]:
    handler = {"export": export, "module": "$import(./modules/policies)", "options": options}
    return {"name": name, "policyType": f"custom-code-{way}", "handler": handler}


def route(export: str) -> dict[str, object]:
    return {
        "x-zuplo-route": {
            "corsPolicy": "app",
            "handler": {"export": export, "module": "$import(./modules/handler)"},
            "policies": {"inbound": ["auth"], "outbound": ["mark"]},
        }
    }


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "config").mkdir()
    (tmp_path / "modules").mkdir()
    sources = {"policies": POLICY, "shared": SHARED, "handler": HANDLER, "zuplo.runtime": RUNTIME}
    for name, source in sources.items():
        (tmp_path / "modules" / f"{name}.py").write_text(source)
    policies = [
        custom("auth", "authenticate", "inbound", {"key": "$env(KEY)"}),
        custom("mark", "mark", "outbound", {}),
    ]
    cors = [{"name": "app", "allowedOrigins": "https://app.example.com"}]
    (tmp_path / "config" / "policies.json").write_text(
        json.dumps({"policies": policies, "corsPolicies": cors})
    )
    paths = {"/items/{id}": {"get": route("default"), "post": route("fails"), "options": route("default")}}
    (tmp_path / "config" / "routes.oas.json").write_text(json.dumps({"openapi": "3.1.0", "paths": paths}))
    project, findings = load_project(
        tmp_path,
        environment={"KEY": "k1", "PLAN": "pro"},
        backends=Backends(None),
        upstream=Upstream(),
        strict=True,
    )
    assert findings == []
    assert project is not None
    yield Pipeline(project.router, project.hooks, project.policies)
    for name in [each for each in sys.modules if each.split(".")[0] == "modules"]:
        del sys.modules[name]


def answer(pipeline: Pipeline, method: str, path: str, **headers: str) -> tuple[Response, Context]:
    fields = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    context = Context("rid-1")
    response, _ = asyncio.run(pipeline.run(Request(method, path, headers=fields), context))
    return response, context


def test_a_request_goes_through_the_projects_code(pipeline):
    response, context = answer(pipeline, "GET", "/items/a%2Fb", x_key="k1", origin="https://app.example.com")
    assert response.status == 200
    assert json.loads(response.body) == {"id": "a/b", "sub": "acme", "plan": "pro"}
    assert response.headers["x-marked"] == "mark"
    assert response.headers["x-request"] == "rid-1"
    assert [meter.type for meter in metergate.runtime.OpenMeterInboundPolicy.get_meters(context)] == [
        "call",
        "tokens",
    ]


def test_a_refusal_is_a_problem_that_a_page_of_an_allowed_origin_can_read(pipeline):
    response, _ = answer(pipeline, "GET", "/items/1", origin="https://app.example.com")
    assert response.status == 403
    assert json.loads(response.body)["detail"] == "auth says no"
    assert response.headers["x-why"] == "key"
    assert response.headers["access-control-allow-origin"] == "https://app.example.com"


def test_a_preflight_is_answered_without_any_policy(pipeline):
    response, context = answer(
        pipeline,
        "OPTIONS",
        "/items/1",
        origin="https://app.example.com",
        access_control_request_method="POST",
    )
    assert response.status == 200
    assert response.headers["access-control-allow-methods"] == "GET, OPTIONS, POST"
    assert context.route is None


def test_an_options_request_that_is_no_preflight_takes_its_route(pipeline):
    response, context = answer(pipeline, "OPTIONS", "/items/1", x_key="k1")
    assert response.status == 200
    assert context.route is not None


def test_what_a_module_raises_is_a_500_without_its_text(pipeline, caplog):
    response, _ = answer(pipeline, "POST", "/items/1", x_key="k1")
    assert response.status == 500
    assert b"no way on" not in response.body
    assert "no way on" in caplog.text


def test_the_public_names_are_these():
    assert metergate.runtime.__all__ == [
        "ConfigurationError",
        "Context",
        "ContextData",
        "Headers",
        "OpenMeterInboundPolicy",
        "Request",
        "Response",
        "RuntimeHooks",
        "RuntimeProblem",
        "User",
        "environment",
        "problems",
    ]
    assert all(hasattr(metergate.runtime, name) for name in metergate.runtime.__all__)
