"""What is wrong with a value that came from a variable is said of the variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metergate.engine import Backends
from metergate.errors import error, warning
from metergate.gateway.origins import Origins
from metergate.gateway.project import load_project
from metergate.gateway.upstream import Upstream
from metergate.testing.projects import custom_policy, forward, openmeter_policy, route, write_project

ORIGINS = Origins({"URL": "x", "HOST": "h", "EMPTY": " "}, {"URL": 3, "EMPTY": 4})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("$env(URL)", "error: .env: line 3, URL: is wrong. Write y."),
        ("$env(HOST)", "error: environment: HOST: is wrong. Write y."),
        ("$env(EMPTY)", "error: .env: line 4, EMPTY: is wrong. Give EMPTY a value."),
        ("$env(NONE)", "error: $.a: is wrong. Write y."),
        ("${env.URL}", "error: $.a: is wrong. Write y."),
        (
            "http://$env(HOST)/$env(URL)",
            "error: $.a: is wrong. It holds HOST (from the environment), URL (.env, line 3). Write y.",
        ),
        ("x", "error: $.a: is wrong. Write y."),
        (5, "error: $.a: is wrong. Write y."),
    ],
)
def test_a_finding_names_the_variable_that_the_value_is(written, said):
    assert str(ORIGINS.blamed(error("$.a", "is wrong.", "Write y."), {"a": written})) == said


def test_a_template_has_its_own_form():
    found = error("$.baseUrl", "is wrong.")
    blamed = ORIGINS.blamed(found, {"baseUrl": "${env.URL}"}, ("baseUrl",))
    assert (blamed.file, blamed.path) == (".env", "line 3, URL")
    assert ORIGINS.blamed(found, {"baseUrl": "$env(URL)"}, ("baseUrl",)) == found


def test_a_value_deep_inside_is_found_and_the_name_of_an_option_is_not_its_value():
    written = {"a": [{"b c": "$env(URL)"}]}
    assert ORIGINS.blamed(error('$.a[0]["b c"]', "is wrong."), written).file == ".env"
    assert ORIGINS.blamed(error("$.a", "is wrong."), written).file == ""
    unknown = warning('$.a[0]["b c"]', 'The option "b c" is not known and has no effect.')
    assert ORIGINS.blamed(unknown, written) == unknown


def said(folder: Path, environment: dict[str, str] | None = None, **options: Any) -> list[str]:
    """What is said of a project with one openmeter policy behind code of its own, on two routes."""
    handler = forward("${env.UPSTREAM_URL}")
    routes = {name: {"get": route(handler, inbound=["who", "metered"])} for name in ("/a", "/b")}
    write_project(
        folder, routes, [custom_policy("who", "who"), openmeter_policy(**options)], path_mode="open-api"
    )
    (folder / "modules").mkdir()
    (folder / "modules" / "who.py").write_text("def default(request, *_):\n    return request\n")
    backends = Backends(folder / "spool")
    _, findings = load_project(folder, backends=backends, upstream=Upstream(), environment=environment)
    return [str(finding) for finding in findings]


GOOD = {"OPENMETER_API_KEY": "k", "UPSTREAM_URL": "http://127.0.0.1:9001"}


def test_a_wrong_openmeter_of_the_environment_is_not_blamed_on_the_policies(tmp_path):
    url = {"METERGATE_OPENMETER_URL": "ftp://x"}
    [finding] = said(tmp_path, GOOD | url)
    assert finding.startswith(
        'error: environment: METERGATE_OPENMETER_URL (policy metered): "ftp://x" has to begin'
    )


def test_a_wrong_openmeter_of_the_env_file_is_said_with_its_line(tmp_path, monkeypatch):
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("METERGATE_OPENMETER_URL", raising=False)
    (tmp_path / ".env").write_text("# ours\n\nMETERGATE_OPENMETER_URL=ftp://x\nOPENMETER_API_KEY=\n")
    [finding] = said(tmp_path)
    assert finding.startswith(
        'error: .env: line 3, METERGATE_OPENMETER_URL (policy metered): "ftp://x" has to begin'
    )
    monkeypatch.setenv("METERGATE_OPENMETER_URL", "gopher://x")
    (tmp_path / "again").mkdir()
    (tmp_path / ".env").rename(tmp_path / "again" / ".env")
    [finding] = said(tmp_path / "again")
    assert finding.startswith('error: environment: METERGATE_OPENMETER_URL (policy metered): "gopher://x"')


def test_a_variable_that_nothing_reads_is_said_where_it_is_set(tmp_path):
    (tmp_path / ".env").write_text("METERGATE_OPENMETR_URL=http://127.0.0.1:8888\n")
    [finding] = said(tmp_path, GOOD | {"METERGATE_OPENMETR_URL": "http://127.0.0.1:8888"})
    assert finding == (
        "warning: .env: line 1, METERGATE_OPENMETR_URL: Nothing reads this variable, so it has no effect here. "
        "Did you mean METERGATE_OPENMETER_URL?"
    )


def test_any_option_that_a_variable_gives_is_said_with_that_variable(tmp_path):
    variables = {"CODES": "2xy", "TTL": "soon", "OM": "http://om/api/v1"}
    options = {
        "meterOnStatusCodes": "$env(CODES)",
        "entitlementCheck": {"ttlSeconds": "$env(TTL)"},
        "apiUrl": "$env(OM)",
    }
    places = [finding.split(" (policy")[0] for finding in said(tmp_path, GOOD | variables, **options)]
    assert sorted(places) == [
        "error: environment: CODES",
        "error: environment: TTL",
        "warning: environment: OM",
    ]


def test_an_option_of_a_policy_wins_over_the_variable(tmp_path):
    assert said(tmp_path, GOOD | {"METERGATE_OPENMETER_URL": "ftp://x"}, apiUrl="http://127.0.0.1:8888") == []
