"""`metergate.gateway.environment`: where variables come from, and what ``$env(NAME)`` becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.environment import (
    EnvFile,
    Environment,
    misplaced,
    misspelt,
    read_env_file,
    read_environment,
    resolve,
)
from metergate.policy.fields import Unset

VARIABLES = {"KEY": "s3cret", "HOST": "api.example.com", "EMPTY": ""}


def test_the_process_wins_over_the_file(tmp_path):
    (tmp_path / ".env").write_text('A=1\nB="two words"\n# no\nexport C=3\n')
    assert read_environment(tmp_path, {"A": "9", "PATH": "/bin"}) == {
        "A": "9",
        "B": "two words",
        "C": "3",
        "PATH": "/bin",
    }
    assert read_env_file(tmp_path).findings == []


def test_a_dollar_in_a_value_of_the_file_is_a_dollar(tmp_path):
    (tmp_path / ".env").write_text("SECRET=a${HOME}b$c\n")
    assert read_env_file(tmp_path).values == {"SECRET": "a${HOME}b$c"}


def test_no_file_is_no_finding(tmp_path):
    assert read_env_file(tmp_path) == EnvFile()


def test_a_line_that_sets_nothing_is_said(tmp_path):
    (tmp_path / ".env").write_text("A=1\n\n# no\nWITHOUT\n\n\n=3\n\nB=2\n")
    file = read_env_file(tmp_path)
    assert file.values == {"A": "1", "B": "2"}
    assert file.lines == {"A": 1, "B": 9}
    assert [str(finding) for finding in file.findings] == [
        "warning: .env: line 4: This sets no variable. Write NAME=value.",
        "warning: .env: line 7: This sets no variable. Write NAME=value.",
    ]


def test_a_file_that_is_not_text_is_a_finding(tmp_path):
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe")
    findings = read_env_file(tmp_path).findings
    assert [str(each) for each in findings] == ["error: .env: The file cannot be read: it is not UTF-8."]


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("$env(KEY)", "s3cret"),
        (" $env( KEY ) ", "s3cret"),
        ("$env(NONE)", Unset("NONE")),
        ("$env(EMPTY)", ""),
        ("https://$env(HOST)/v1", "https://api.example.com/v1"),
        ("$env(KEY)$env(HOST)", "s3cretapi.example.com"),
        (["$env(KEY)", {"deep": [{"er": "$env(HOST)"}]}], ["s3cret", {"deep": [{"er": "api.example.com"}]}]),
        ({"n": 1, "b": True, "z": None}, {"n": 1, "b": True, "z": None}),
        ("costs $5", "costs $5"),
    ],
)
def test_variables_are_put_in_at_any_depth(written, becomes):
    assert resolve(written, VARIABLES) == (becomes, [])


RIGHT = "Write $env(NAME), NAME being letters, digits and _."


@pytest.mark.parametrize(
    ("written", "finding"),
    [
        ("$env(MY-KEY)", f"error: $.o: $env(MY-KEY) is not a variable. {RIGHT}"),
        ("$ENV(KEY)", f"error: $.o: $ENV(KEY) is not a variable. {RIGHT}"),
        ("$env KEY", f"error: $.o: $env is not a variable. {RIGHT}"),
        (
            ["https://$env(HOTS)/"],
            'warning: $.o[0]: The environment variable HOTS is not set and leaves a gap. Did you mean "HOST"?',
        ),
        ("${env.KEY}", "warning: $.o: ${env.KEY} would be used as it stands here. Write $env(KEY)."),
        (
            {"$env(KEY)": 1},
            "error: $.o: $env(KEY) cannot stand here. It may stand in options and in CORS policies.",
        ),
    ],
)
def test_what_looks_like_a_variable_and_is_none_is_said(written, finding):
    _, findings = resolve(written, VARIABLES, "$.o")
    assert [str(each) for each in findings] == [finding]


def test_templates_are_left_to_whoever_reads_them():
    options = {"baseUrl": "$env(HOST)", "other": "$env(HOST)", "url": "${env.HOST}"}
    value, findings = resolve(options, VARIABLES, untouched=("baseUrl",))
    assert value == {"baseUrl": "$env(HOST)", "other": "api.example.com", "url": "${env.HOST}"}
    assert findings == []


def test_a_variable_in_the_wrong_place_is_found_and_prose_is_not():
    document = {
        "name": "$env(NAME)",
        "options": {"x": "$env(OK)"},
        "list": [{"deep": "a $env(B) c"}],
        "description": "set $env(KEY) first",
    }
    assert [finding.path for finding in misplaced(document, allowed=("$.options",))] == [
        "$.name",
        "$.list[0].deep",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("METERGATE_OPENMETR_URL", "METERGATE_OPENMETER_URL"),
        ("METERGATE_URL", "METERGATE_OPENMETER_URL"),
        ("METERGATE_SPOOL_DIR", "METERGATE_SPOOL"),
        ("METERGATE_TOKEN", "METERGATE_OPENMETER_TOKEN"),
    ],
)
def test_a_variable_that_looks_like_one_of_ours_is_said(name, meant):
    [(said, finding)] = misspelt({name: "x", "PATH": "/bin", "METERGATE_OPENMETER_URL": "http://om"})
    assert (said, finding.severity, finding.fix) == (name, "warning", f"Did you mean {meant}?")


def test_a_variable_that_is_not_like_one_of_ours_is_not_said():
    others = (
        "METERGATE",
        "METERGATE_SPOOL",
        "METERGATE_REGION",
        "URL",
        "SPOOL_DIR",
        "METERGATE_GATEWAY_SETTINGS",
    )
    assert list(misspelt(dict.fromkeys(others, "x"))) == []


def test_modules_see_a_mapping_they_cannot_write():
    environment = Environment({"A": "1"})
    environment.bind({"B": "2"})
    assert dict(environment) == {"B": "2"}
    assert "2" not in repr(environment)
    with pytest.raises(TypeError):
        environment["C"] = "3"


@given(st.recursive(st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_holds_no_variable_is_unchanged(value):
    resolved, findings = resolve(value, {})
    assert findings or resolved == value
