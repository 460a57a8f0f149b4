"""What ``metergate keys`` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from metergate.cli.keys import create, revoke
from metergate.errors import UsageError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": "{plan}"}, r'--metadata is not JSON \(.*\): write an object, \{"plan": "gold"\}'),
        ({"metadata": "[]"}, r'--metadata is not an object: write \{"plan": "gold"\}'),
        ({"expires": "tomorrow"}, r"--expires 'tomorrow' is not a time: write 2027-01-01T00:00:00Z"),
        ({"expires": "2027-01-01T00:00:00"}, r"expires needs a time zone"),
        ({"name": " "}, r"a consumer needs a name"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_no_key_is_made(options, message, project):
    with pytest.raises(UsageError, match=f"^{message}$"):
        create(**{"name": "acme", "project": project, **options})
    assert not (project / "config" / "consumers.json").exists()


def test_a_folder_without_config_is_no_project(tmp_path):
    (tmp_path / "config").touch()
    with pytest.raises(UsageError, match="config is not there: name a project's folder with --project DIR"):
        create("acme", tmp_path)


def test_a_key_that_is_not_there_cannot_be_revoked(project):
    with pytest.raises(UsageError, match="there is no key 'abc': `metergate keys list` shows them"):
        revoke("abc", project)
