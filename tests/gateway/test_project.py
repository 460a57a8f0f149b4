"""`metergate.gateway.project`: a project folder in, a running order or exactly these findings out."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metergate.engine import Backends
from metergate.errors import Finding
from metergate.gateway.environment import read_environment
from metergate.gateway.model import NamedPolicy, Site
from metergate.gateway.project import Project, load_project
from metergate.gateway.upstream import Upstream

PROJECTS = Path(__file__).parent / "projects"
GOLDEN = sorted(path.name for path in PROJECTS.iterdir() if path.is_dir())


@pytest.fixture(autouse=True)
def _no_trace_of_modules(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in [each for each in sys.modules if each.split(".")[0] == "modules"]:
        del sys.modules[name]


def load(
    directory: Path, environment: Mapping[str, str] | None = None, **more: Any
) -> tuple[Project | None, list[Finding]]:
    variables = read_environment(directory, {}) if environment is None else environment
    spool = directory / ".metergate" / "spool"
    return load_project(
        directory, environment=variables, backends=Backends(spool), upstream=Upstream(), **more
    )


def unpack(name: str, folder: Path) -> Path:
    """A golden project as it would lie in a folder: its environment as `.env`, broken code under its own name."""
    directory = folder / name
    shutil.copytree(PROJECTS / name, directory)
    if (directory / "environment").is_file():
        (directory / "environment").rename(directory / ".env")
    for broken in directory.rglob("*.py.txt"):
        broken.rename(broken.with_suffix(""))
    return directory


@pytest.mark.parametrize("name", GOLDEN)
def test_a_project_has_exactly_these_findings(name, tmp_path):
    project, findings = load(unpack(name, tmp_path))
    found = "".join(f"{finding}\n" for finding in findings)
    assert found == (PROJECTS / name / "findings.txt").read_text()
    assert (project is None) == any(finding.severity == "error" for finding in findings)


def test_a_complete_project_is_ready_to_run(tmp_path):
    project, _ = load(unpack("complete", tmp_path))
    assert project is not None
    assert [route.label for route in project.routes] == [
        "GET /users/{id}",
        "GET /hello",
        "POST /hello",
        "GET /files/:path(.*)",
    ]
    found = project.router.match("GET", "/users/a%2Fb")
    assert found is not None
    route, params = found
    assert params == {"id": "a/b"}
    assert [policy.name for policy in route.inbound] == ["guarded"]
    assert [policy.name for policy in route.outbound] == ["tokens"]
    assert route.operation_id == "get-user"
    assert route.file == "config/a.oas.json"
    assert route.cors is not None
    assert route.cors.allows("https://x.preview.example.com")
    assert project.environment["TOKEN_FIELD"] == "usage"
    assert len(project.hooks.response_sending) == 1
    assert sorted(project.policies) == ["api-key", "guarded", "meter", "tokens"]


def test_under_strict_every_warning_is_an_error(tmp_path):
    directory = write(tmp_path, routes={"/a": {"get": operation()}}, policies=[own("unused")])
    project, findings = load(directory, policies=REGISTRY)
    assert project is not None
    assert [finding.severity for finding in findings] == ["warning"]
    project, findings = load(directory, policies=REGISTRY, strict=True)
    assert project is None
    assert [finding.severity for finding in findings] == ["error"]


def test_files_are_read_in_alphabetical_order_and_the_first_route_wins(tmp_path):
    directory = write(tmp_path, {"/a": {"get": operation()}}, [])
    text = (directory / "config" / "routes.oas.json").read_text()
    (directory / "config" / "b.oas.json").write_text(text)
    project, findings = load(directory)
    assert project is not None
    assert [route.file for route in project.routes] == ["config/b.oas.json", "config/routes.oas.json"]
    found = project.router.match("GET", "/a")
    assert found is not None
    assert found[0].file == "config/b.oas.json"
    assert [str(finding) for finding in findings] == [
        (
            'warning: config/routes.oas.json: $.paths["/a"].get.x-zuplo-route: GET /a is never reached: '
            "GET /a in config/b.oas.json comes first and takes its requests. Remove one of them."
        )
    ]
    (directory / "zuplo.jsonc").write_text('{"version": 1, "allowDuplicateRoutes": true}')
    assert load(directory)[1] == []


def test_where_request_hooks_may_authenticate_nothing_is_said_of_the_order(tmp_path):
    meter = {
        "name": "meter",
        "policyType": "openmeter-inbound",
        "handler": {
            "export": "OpenMeterInboundPolicy",
            "module": "$import(@zuplo/runtime)",
            "options": {"apiKey": "$env(KEY)", "meter": {"type": "call"}},
        },
    }
    directory = write(tmp_path, {"/a": {"get": operation(["meter"])}}, [meter])
    assert len(load(directory, {"KEY": "k"})[1]) == 1
    (directory / "modules").mkdir()
    hook = "def runtime_init(runtime):\n    runtime.add_request_hook(lambda request, context: request)\n"
    (directory / "modules" / "runtime.py").write_text(hook)
    assert load(directory, {"KEY": "k"})[1] == []


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"paths": []}', '{"paths": {"/a": {"get": {"x-zuplo-route": {"policies": []}}}}}'],
)
def test_routes_that_cannot_be_read_are_no_reason_to_say_that_no_route_uses_a_policy(text, tmp_path):
    directory = write(tmp_path, {}, [own("a"), own("b")])
    (directory / "config" / "routes.oas.json").write_text(text)
    _, findings = load(directory, policies=REGISTRY)
    assert {finding.file for finding in findings} == {"config/routes.oas.json"}
    assert [finding for finding in findings if finding.severity == "warning"] == []


@pytest.mark.parametrize("module", ["@zuplo/runtime", "$import(@zuplo/runtim)", "@zuplo/runtim"])
def test_a_misspelt_module_of_ours_is_not_taken_for_code_of_the_project(module, tmp_path):
    policy = own("a")
    policy["handler"]["module"] = module
    _, [finding] = load(write(tmp_path, {"/a": {"get": operation(["a"])}}, [policy]), policies=REGISTRY)
    assert (finding.severity, finding.path) == ("error", "$.policies[0].handler.module")
    assert finding.fix == 'Did you mean "$import(@zuplo/runtime)"?'


def test_policies_that_are_no_list_are_said_once(tmp_path):
    policies = {"a": own("a", {"key": "$env(KEY)"})}
    _, [finding] = load(write(tmp_path, {"/a": {"get": operation(["a"])}}, policies), policies=REGISTRY)
    assert finding.message == '"policies" has to be a list, not an object.'


def test_a_project_without_a_route_is_said_once_and_not_again_for_each_policy(tmp_path):
    _, findings = load(write(tmp_path, {}, [own("a"), own("b")]), policies=REGISTRY)
    assert [finding.message for finding in findings] == [
        "The project has no routes: every request is answered with 404."
    ]


def test_no_folder_is_a_finding(tmp_path):
    project, (finding,) = load(tmp_path / "gone", environment={})
    assert project is None
    assert finding.message.endswith("gone is not a folder.")
    assert finding.fix == "Name the folder of a project with --project DIR."


@pytest.mark.parametrize("inside", ["config", "modules", "config/policies.json", "config/more"])
def test_a_folder_without_config_is_no_project_and_the_one_above_it_may_be(inside, tmp_path):
    directory = write(tmp_path, {}, [])
    (directory / "modules").mkdir()
    (directory / "config" / "more").mkdir()
    project, (finding,) = load(directory / inside, environment={})
    assert project is None
    assert finding.severity == "error"
    assert finding.fix == f"Did you mean {tmp_path}? Name the folder of a project with --project DIR."


def test_no_secret_is_ever_shown(tmp_path):
    policies = [
        {
            "name": "meter",
            "policyType": "openmeter-inbound",
            "handler": {
                "export": "OpenMeterInboundPolicy",
                "module": "$import(@zuplo/runtime)",
                "options": {"apiKey": secret, "meter": {"type": ""}, "x": {"password": secret}},
            },
        }
        for secret in ("om_live_51", ["om_live_51"], {"key": "om_live_51"}, "om_live_51\n", "$env(KEY)")
    ]
    _, findings = load(write(tmp_path, {}, policies), environment={"KEY": "om_live_51"})
    assert findings
    assert not any("om_live_51" in str(finding) for finding in findings)


# --- the life cycle of what was built -------------------------------------------------------------------------


class Resource:
    """Writes down what happens to it."""

    def __init__(self, name: str, events: list[str], fails: str = "") -> None:
        self.name, self.events, self.fails = name, events, fails

    async def start(self) -> None:
        self.events.append(f"start {self.name}")
        if self.fails == "start":
            raise OSError(self.name)

    async def stop(self) -> None:
        self.events.append(f"stop {self.name}")
        if self.fails == "stop":
            raise OSError(self.name)


def with_resources(tmp_path: Path, *fails: str) -> tuple[Project, list[str]]:
    events: list[str] = []

    def build(options: Any, site: Site) -> NamedPolicy:
        fails = options.get("fails", "")
        return NamedPolicy(
            site.name, inbound=lambda request, context: request, resource=Resource(site.name, events, fails)
        )

    policies = [own(f"p{index}", {"fails": each}) for index, each in enumerate(fails)]
    names = [policy["name"] for policy in policies]
    routes = {"/a": {"get": operation(names), "put": operation(names)}}
    project, findings = load(write(tmp_path, routes, policies), policies={"Own": build})
    assert findings == []
    assert project is not None
    return project, events


def test_each_resource_is_started_once_and_stopped_in_reverse(tmp_path):
    project, events = with_resources(tmp_path, "", "")

    async def run() -> None:
        await project.start()
        await project.stop()
        await project.stop()

    asyncio.run(run())
    assert events == ["start p0", "start p1", "stop p1", "stop p0"]


def test_where_one_fails_to_start_those_before_are_stopped(tmp_path):
    project, events = with_resources(tmp_path, "", "start", "")
    with pytest.raises(OSError, match="p1"):
        asyncio.run(project.start())
    assert events == ["start p0", "start p1", "stop p1", "stop p0"]


def test_one_that_fails_to_stop_keeps_no_other_up(tmp_path):
    project, events = with_resources(tmp_path, "", "stop")

    async def run() -> None:
        await project.start()
        await project.stop()

    asyncio.run(run())
    assert events[2:] == ["stop p1", "stop p0"]


def test_a_factory_that_raises_is_a_finding(tmp_path):
    def build(options: Any, site: Site) -> NamedPolicy:
        raise RuntimeError("om_live_51")

    directory = write(tmp_path, {"/a": {"get": operation(["x"])}}, [own("x")])
    _, findings = load(directory, policies={"Own": build})
    assert [str(finding) for finding in findings] == [
        (
            "error: config/policies.json: $.policies[0].handler.options (policy x): "
            "It could not be built: RuntimeError. Please report this."
        )
    ]


# --- whatever is written, findings come out -------------------------------------------------------------------


def pass_through(options: Any, site: Site) -> NamedPolicy:
    return NamedPolicy(site.name, inbound=lambda request, context: request)


REGISTRY = {"Own": pass_through}


def own(name: str, options: Any = None) -> dict[str, Any]:
    handler = {"export": "Own", "module": "$import(@zuplo/runtime)", "options": options or {}}
    return {"name": name, "policyType": "own-inbound", "handler": handler}


def operation(inbound: Any = ()) -> dict[str, Any]:
    forward = {"baseUrl": "https://api.example.com"}
    handler = {"export": "urlForwardHandler", "module": "$import(@zuplo/runtime)", "options": forward}
    return {"x-zuplo-route": {"handler": handler, "policies": {"inbound": list(inbound)}}}


def write(folder: Path, routes: Any, policies: Any, **more: Any) -> Path:
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "policies.json").write_text(json.dumps({"policies": policies, **more}))
    (folder / "config" / "routes.oas.json").write_text(json.dumps({"openapi": "3.1.0", "paths": routes}))
    return folder


WORDS = st.sampled_from(
    [
        "",
        "x",
        "a",
        "/a",
        "/{a",
        "/:b(",
        "get",
        "inbound",
        "none",
        "$env(X)",
        "$env(",
        "${env.X}",
        "$import(@zuplo/runtime)",
        "$import(./modules/x)",
        "OpenMeterInboundPolicy",
        "CompositeInboundPolicy",
        "CustomCodeInboundPolicy",
        "urlForwardHandler",
        "urlRewriteHandler",
        "openmeter-inbound",
        "composite-inbound",
        "url-pattern",
        "https://a.example.com/${params.x}",
        "*",
    ]
)
KEYS = st.sampled_from(
    [
        "name",
        "policyType",
        "handler",
        "export",
        "module",
        "options",
        "type",
        "policies",
        "inbound",
        "outbound",
        "corsPolicy",
        "x-zuplo-route",
        "x-zuplo-path",
        "pathMode",
        "get",
        "post",
        "/a",
        "/b/{c}",
        "apiKey",
        "meter",
        "requiredEntitlements",
        "baseUrl",
        "rewritePattern",
        "allowedOrigins",
        "allowCredentials",
        "$ref",
        "paths",
        "$env(X)",
        "headers",
        "description",
    ]
)
VALUES = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)
ROUTES = st.dictionaries(KEYS | WORDS, st.dictionaries(KEYS, VALUES, max_size=3) | VALUES, max_size=3)
POLICIES = st.lists(
    st.fixed_dictionaries(
        {"name": WORDS, "policyType": WORDS},
        optional={
            "handler": st.fixed_dictionaries({"export": WORDS, "module": WORDS}, optional={"options": VALUES})
        },
    )
    | VALUES,
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(routes=ROUTES | VALUES, policies=POLICIES | VALUES, cors=VALUES, more=VALUES)
def test_whatever_the_json_holds_only_findings_come_out(tmp_path, routes, policies, cors, more):
    write(tmp_path, routes, policies, corsPolicies=cors)
    (tmp_path / "zuplo.jsonc").write_text(json.dumps(more))
    project, findings = load(tmp_path, environment={})
    assert (project is None) == any(finding.severity == "error" for finding in findings)
    assert not [finding for finding in findings if "could not be built" in finding.message]
    assert all(finding.message and finding.file for finding in findings)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(policies=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), routes=st.binary(max_size=60))
def test_whatever_bytes_the_files_hold_only_findings_come_out(tmp_path, policies, routes):
    write(tmp_path, {}, [])
    (tmp_path / "config" / "policies.json").write_bytes(policies)
    (tmp_path / "config" / "routes.oas.json").write_bytes(routes)
    project, findings = load(tmp_path, environment={})
    assert project is None or not [finding for finding in findings if finding.severity == "error"]


def test_a_policies_file_that_cannot_be_read_is_said_once_and_no_route_is_blamed_for_it(
    tmp_path: Path,
) -> None:
    shutil.copytree(Path("examples/quickstart"), tmp_path / "project")
    (tmp_path / "project" / "config" / "policies.json").write_text('{"policies": [}')

    project, findings = load_project(tmp_path / "project", backends=Backends(None), upstream=Upstream())

    assert project is None
    assert [finding.file for finding in findings if finding.severity == "error"] == ["config/policies.json"]
