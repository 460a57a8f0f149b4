"""What ``metergate keys`` refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from metergate.cli.keys import create, list_keys, revoke
from metergate.errors import UsageError
from metergate.gateway.consumers import create_key


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": "{plan}"}, r'--metadata is not JSON \(.*\): write an object, \{"plan": "gold"\}'),
        ({"metadata": "[]"}, r'--metadata is not an object: write \{"plan": "gold"\}'),
        ({"expires": "tomorrow"}, r"--expires 'tomorrow' is not a time: write 2\d{3}-01-01T00:00:00Z"),
        (
            {"expires": "2999-01-01T00:00:00"},
            r"expires 2999-01-01T00:00:00 has no time zone: write 2999-01-01T00:00:00Z",
        ),
        (
            {"expires": "2020-01-01T00:00:00Z"},
            r"expires 2020-01-01T00:00:00\+00:00 is over, .*: write a time to come, 2\d{3}-01-01T00:00:00Z, .*",
        ),
        ({"name": " "}, r"a consumer needs a name"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_no_key_is_made(options, message, project):
    with pytest.raises(UsageError, match=f"^{message}$"):
        create(**{"name": "acme", "project": project, **options})
    assert not (project / "config" / "consumers.json").exists()


def test_a_key_that_is_over_is_shown_as_such(project, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    past, future = datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
    for name, expires in (("old", past), ("new", future), ("ever", None)):
        create_key(
            project / "config" / "consumers.json", name, expires=expires, now=datetime(2019, 1, 1, tzinfo=UTC)
        )
    list_keys(project)
    said = {line.split()[1]: "over" in line for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert (said["old"], said["new"], said["ever"]) == (True, False, False)


def test_a_project_without_keys_says_how_to_make_one(project, capsys):
    list_keys(project)
    assert (
        capsys.readouterr().out
        == f"no keys yet: make one with `metergate keys create NAME --project {project}`\n"
    )


def test_a_folder_without_config_is_no_project(tmp_path):
    (tmp_path / "config").touch()
    with pytest.raises(UsageError, match="config is not there: name a project's folder with --project DIR"):
        create("acme", tmp_path)


def test_a_key_that_is_not_there_cannot_be_revoked(project):
    with pytest.raises(UsageError, match="there is no key 'abc': `metergate keys list` shows them"):
        revoke("abc", project)
