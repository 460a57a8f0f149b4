"""`metergate.gateway.modules`: a project's code is loaded by its name, and what is wrong with it is a finding."""

from __future__ import annotations

import sys

import pytest

from metergate.gateway.hooks import RuntimeHooks
from metergate.gateway.modules import ProjectModules, is_builtin


@pytest.fixture(autouse=True)
def _no_trace_of_modules(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in [each for each in sys.modules if each.split(".")[0] == "modules"]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path):
    """Writes files of a project and loads from it."""

    class Project:
        def write(self, **files: str) -> None:
            (tmp_path / "modules").mkdir(exist_ok=True)
            for name, text in files.items():
                path = tmp_path / "modules" / f"{name.replace('__', '/')}.py"
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)

        def load(self, module: str, export: str = "default"):
            self.findings: list[str] = []
            return ProjectModules(tmp_path).load(
                module, export, lambda finding: self.findings.append(str(finding))
            )

        def hooks(self) -> RuntimeHooks:
            self.findings = []
            return ProjectModules(tmp_path).runtime_hooks(lambda finding: self.findings.append(str(finding)))

    return Project()


@pytest.mark.parametrize(
    "module", ["$import(./modules/x)", "$import( ./modules/x )", "./modules/x", "$import(./modules/x.py)"]
)
def test_a_module_is_loaded_by_the_name_the_json_has(project, module):
    project.write(x="def default(request, context):\n    return 7\n")
    assert project.load(module)(None, None) == 7
    assert project.findings == []


def test_modules_import_each_other_both_ways(project):
    project.write(
        a="from modules.b import VALUE\nfrom .sub.c import OTHER\nresult = VALUE + OTHER\n",
        b="VALUE = 1\n",
        sub__c="from ..b import VALUE\nOTHER = VALUE + 1\n",
    )
    assert project.load("$import(./modules/a)", "result") == 3
    assert project.load("$import(./modules/sub/c)", "OTHER") == 2


def test_a_module_is_loaded_once(tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "x.py").write_text("state = []\n")
    modules = ProjectModules(tmp_path)
    first = modules.load("./modules/x", "state", print)
    assert modules.load("./modules/x", "state", print) is first


def test_another_project_has_modules_of_its_own(tmp_path):
    loaded = []
    for name in ("one", "two"):
        folder = tmp_path / name / "modules"
        folder.mkdir(parents=True)
        (folder / "x.py").write_text("from modules.y import NAME\n")
        (folder / "y.py").write_text(f"NAME = {name!r}\n")
        loaded.append(ProjectModules(tmp_path / name).load("./modules/x", "NAME", print))
    assert loaded == ["one", "two"]


def test_a_name_with_a_hyphen_is_a_file_with_a_hyphen(project):
    project.write(**{"my-policy": "def default(): ..."})
    assert callable(project.load("$import(./modules/my-policy)"))


@pytest.mark.parametrize(
    ("module", "export", "finding"),
    [
        (
            "$import(./modules/y)",
            "default",
            "error: $.module: There is no modules/y.py. There are broken, old, policy.",
        ),
        (
            "$import(./modules/polcy)",
            "default",
            'error: $.module: There is no modules/polcy.py. Did you mean "policy"?',
        ),
        (
            "$import(./modules/policy)",
            "defualt",
            'error: $.export: modules/policy.py has no "defualt". Did you mean "default"?',
        ),
        (
            "$import(./modules/old)",
            "default",
            'error: $.export: modules/old.py has no "default". It has check.',
        ),
        (
            "$import(./modules/policy.ts)",
            "default",
            (
                "error: $.module: modules/policy.ts is not Python. "
                'Write it as modules/policy.py and "$import(./modules/policy)".'
            ),
        ),
        (
            "$import(./modules/typed)",
            "default",
            "error: $.module: modules/typed.ts is not Python. Modules are Python here: write modules/typed.py.",
        ),
        (
            "$import(./modules/../secret)",
            "default",
            (
                'error: $.module: "../secret" cannot be the name of a module. '
                'Write "$import(./modules/name)" for modules/name.py.'
            ),
        ),
        (
            "$import(lodash)",
            "default",
            (
                "error: $.module: $import(lodash) is not a module of the project. "
                'Write "$import(./modules/name)" for modules/name.py.'
            ),
        ),
        ("$import(./modules/broken)", "default", "error: modules/broken.py: line 2: '(' was never closed."),
    ],
)
def test_what_cannot_be_found_is_explained(project, tmp_path, module, export, finding):
    project.write(policy="def default(): ...\n", old="def check(): ...\n", broken="x = 1\ndefault = (\n")
    (tmp_path / "modules" / "typed.ts").write_text("export default function () {}")
    assert project.load(module, export) is None
    assert project.findings == [finding]


def test_an_exception_while_loading_names_the_innermost_line_of_the_project(project):
    project.write(a="\nfrom modules.b import f\nf()\n", b="import json\ndef f():\n    json.loads('{')\n")
    assert project.load("./modules/a") is None
    (finding,) = project.findings
    assert finding.startswith("error: modules/b.py: line 3: JSONDecodeError: Expecting property name")


@pytest.mark.parametrize(
    ("code", "finding"),
    [("import nothing_like_it", "ModuleNotFoundError"), ("raise SystemExit(3)", "SystemExit")],
)
def test_whatever_a_module_raises_is_a_finding(project, code, finding):
    project.write(x=f"{code}\n")
    assert project.load("./modules/x") is None
    assert project.findings[0].startswith(f"error: modules/x.py: line 1: {finding}: ")


def test_a_broken_module_is_said_once(tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "x.py").write_text("1/0\n")
    modules = ProjectModules(tmp_path)
    findings = []
    assert modules.load("./modules/x", "a", findings.append) is None
    assert modules.load("./modules/x", "b", findings.append) is None
    assert len(findings) == 1


@pytest.mark.parametrize("file", ["zuplo.runtime", "runtime"])
def test_runtime_hooks_are_registered_at_the_start(project, file):
    project.write(
        **{
            file: "from modules.b import hook\ndef runtime_init(runtime):\n    runtime.add_request_hook(hook)\n"
        },
        b="def hook(request, context): ...\n",
    )
    assert [hook.__name__ for hook in project.hooks().request] == ["hook"]
    assert project.findings == []


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        (
            "def runtime_ini(r): ...\n",
            'error: modules/runtime.py: There is no function runtime_init. Did you mean "runtime_ini"?',
        ),
        (
            "def runtime_init(r):\n    r.addRequestHook(1)\n",
            "error: modules/runtime.py: line 2: AttributeError: ",
        ),
        (
            "async def runtime_init(r): ...\n",
            "error: modules/runtime.py: runtime_init is async. Make it a plain function.",
        ),
        ("x = (\n", "error: modules/runtime.py: line 1: '(' was never closed."),
    ],
)
def test_what_is_wrong_with_the_runtime_module_is_a_finding(project, code, finding):
    project.write(runtime=code)
    project.hooks()
    assert [each[: len(finding)] for each in project.findings] == [finding]


def test_of_two_runtime_modules_one_counts(project):
    project.write(**{"zuplo.runtime": "def runtime_init(r): ...", "runtime": "1/0"})
    project.hooks()
    assert project.findings == [
        "warning: modules/runtime.py: modules/runtime.py has no effect beside modules/zuplo.runtime.py. Keep one of them."
    ]


def test_a_project_without_modules_has_no_hooks(tmp_path):
    assert ProjectModules(tmp_path).runtime_hooks(print) == RuntimeHooks()


@pytest.mark.parametrize(
    ("module", "builtin"),
    [("$import(@zuplo/runtime)", True), ("$import( @zuplo/runtime )", True), ("$import(./modules/x)", False)],
)
def test_the_built_in_runtime_is_known(module, builtin):
    assert is_builtin(module) is builtin
