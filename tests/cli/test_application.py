"""How the command line refuses, and what it says of failures: in lines, without a traceback."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from metergate.cli import application as module
from metergate.cli.application import application, run
from metergate.errors import ConfigurationError, Finding, UsageError, error

MISSING = "error: this needs more than is installed (duckdb is missing): pip install 'metergate[embedded]'"


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--log-level", "loud"),
        ("run", "--log-format", "xml"),
        ("run", "--port", "0"),
        ("run", "--port", "70000"),
        ("run", "--workers", "0"),
        ("run", "--upstream-timeout", "0"),
        ("run", "--max-body", "-1"),
        ("openmeter",),
        ("openmeter", "--data", "d", "--log-level", "loud"),
        ("demo", "--workers", "0"),
        ("keys", "create"),
        ("nonsense",),
    ],
)
def test_a_wrong_option_is_refused_with_status_2(arguments):
    done = CliRunner().invoke(application, arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "command", [("run",), ("check",), ("deadletters", "list"), ("deadletters", "redrive")]
)
def test_a_project_that_is_named_without_its_option_is_answered_with_the_option(
    command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    done = CliRunner().invoke(application, [*command, "shop"])
    assert done.exit_code == 2
    assert "A folder is named by an option: --project shop" in done.output
    assert "unexpected extra argument" in CliRunner().invoke(application, [*command, "nowhere"]).output


@pytest.mark.parametrize("command", ["run", "openmeter", "check", "keys", "deadletters", "demo"])
def test_every_command_is_listed_and_explains_itself(command):
    assert command in CliRunner().invoke(application, ["--help"]).output
    done = CliRunner().invoke(application, [command, "--help"])
    assert done.exit_code == 0
    assert "Usage: " in done.output


@pytest.mark.parametrize(
    ("wrong", "lines"),
    [
        (
            ConfigurationError(
                [
                    Finding("warning", "$.b", "is odd.", "Leave it out.", "f.json"),
                    Finding("error", "$.a", "is\n wrong.", "Write\n 1.", "f.json", "metered"),
                ]
            ),
            [
                "error: f.json: $.a (policy metered): is wrong. Write 1.",
                "warning: f.json: $.b: is odd. Leave it out.",
            ],
        ),
        (ConfigurationError("The folder is in use."), ["error: The folder is in use."]),
        (ConfigurationError([error("$", "is no object.")]), ["error: $: is no object."]),
        (UsageError("name a folder"), ["error: name a folder"]),
        (
            PermissionError(13, "Permission denied", "/x"),
            ["error: /x: Permission denied. Give this user access, or name another place."],
        ),
        (IsADirectoryError(21, "Is a directory", "/x"), ["error: /x: Is a directory."]),
        (OSError(28, "No space left on device"), ["error: [Errno 28] No space left on device"]),
        (
            ModuleNotFoundError("No module named 'duckdb'", name="duckdb"),
            [MISSING],
        ),
    ],
)
def test_what_went_wrong_is_a_line_each_and_status_2(wrong, lines, monkeypatch, capsys):
    def fail(**_: object) -> None:
        raise wrong

    monkeypatch.setattr(module, "application", fail)
    assert run() == 2
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("wrong", [ModuleNotFoundError("no", name="metergate.nonsense"), ZeroDivisionError()])
def test_a_mistake_of_ours_is_not_dressed_up_as_the_operator_s(wrong, monkeypatch):
    def fail(**_: object) -> None:
        raise wrong

    monkeypatch.setattr(module, "application", fail)
    with pytest.raises(type(wrong)):
        run()
