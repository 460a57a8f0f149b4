"""``metergate openmeter backup, restore, import, export``: on the folder of a stopped server, and on a running one."""

from __future__ import annotations

import http.client
import json
import resource
import tarfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner, Result

from metergate.cli import openmeter_export, openmeter_import, stores
from metergate.cli.application import application
from metergate.cli.openmeter import read_days
from metergate.cli.stores import StoreError
from metergate.embedded.store.folder import FILE, lock_folder
from metergate.embedded.store.restoring import Damaged
from metergate.errors import ConfigurationError, UsageError
from metergate.testing.processes import HOST, Server, openmeter_server

METERS = {
    "meters": [
        {"slug": "calls", "eventType": "request", "aggregation": "COUNT"},
        {"slug": "tokens", "eventType": "request", "aggregation": "SUM", "valueProperty": "$.tokens"},
    ]
}


def command(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(application, ["openmeter", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def event(number: int, **attributes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"id {number}",
        "source": "tests",
        "type": "request",
        "subject": "acme, inc.",
        "time": f"2026-03-01T00:00:{number % 60:02}Z",
        "data": {"tokens": number, "text": 'a "quoted"\nline'},
    } | attributes


def write_lines(file: Path, lines: Sequence[Any]) -> Path:
    file.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8"
    )
    return file


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def measure(server: Server, slug: str = "calls") -> float:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request("GET", f"/api/v1/meters/{slug}/query")
        return float(json.loads(connection.getresponse().read())["data"][0]["value"])
    finally:
        connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The empty data folder of a server that is not running."""
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
def filled(folder: Path, tmp_path: Path) -> Path:
    command(
        "import",
        write_lines(tmp_path / "filled.jsonl", [event(number) for number in range(50)]),
        "--data",
        folder,
    )
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with openmeter_server(tmp_path / "running", METERS) as running:
        yield running


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_what_is_exported_and_imported_elsewhere_is_the_same(filled, tmp_path, ending):
    file, other = tmp_path / f"events.{ending}", tmp_path / "other"
    other.mkdir()
    assert "50 events written" in command("export", file, "--data", filled).stdout
    assert "50 events taken in, 0 lines wrong" in command("import", file, "--data", other).stdout
    command("export", tmp_path / "again.jsonl", "--data", other)
    assert read_lines(tmp_path / "again.jsonl") == [event(number) for number in range(50)]
    assert not list(tmp_path.glob("*.partial*"))


def test_wrong_lines_are_named_and_counted_and_all_others_are_there(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(openmeter_import, "BATCH", 2)
    monkeypatch.setattr(openmeter_import, "SHOWN", 3)
    lines = [event(1), "{", event(2, subject=None), "", event(3, time="yesterday"), event(4), "[]", event(1)]
    file = write_lines(tmp_path / "events.jsonl", lines)
    result = command("import", file, "--data", folder, status=1)
    assert "3 events taken in, 4 lines wrong" in result.stdout
    said = result.stderr.splitlines()
    assert [line.split(": ")[0] for line in said[:3]] == [f"{file}:{number}" for number in (2, 3, 5)]
    assert said[3:] == [f"{file}: more lines are wrong; they are counted"]
    command("export", tmp_path / "out.jsonl", "--data", folder)
    assert [each["id"] for each in read_lines(tmp_path / "out.jsonl")] == ["id 1", "id 4"]


def test_a_csv_needs_its_columns_and_may_have_others(folder, tmp_path):
    file = tmp_path / "events.csv"
    file.write_text(
        "id,source,type,x,subject,data\n1,s,request,y,a,\n2,s,request,y,,\n3,s,request,y,b,{]\n", "utf-8"
    )
    result = command("import", file, "--data", folder, status=1)
    assert "1 events taken in, 2 lines wrong" in result.stdout
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [f"{file}:3", f"{file}:4"]
    file.write_text("id,source\n1,s\n", "utf-8")
    with pytest.raises(ConfigurationError, match=r"events\.csv: has no column type, subject"):
        command("import", file, "--data", folder)


def test_a_parquet_file_of_others_with_timestamps_and_structs_is_understood(folder, tmp_path):
    file = tmp_path / "events.parquet"
    duckdb.sql(
        "SELECT 'a' AS id, 's' AS source, 'request' AS type, 'x' AS subject, TIMESTAMP '2026-03-01 01:02:03.5' AS time, "
        "{'tokens': 5} AS data, 1 AS other"
    ).write_parquet(str(file))
    command("import", file, "--data", folder)
    command("export", tmp_path / "out.jsonl", "--data", folder)
    (found,) = read_lines(tmp_path / "out.jsonl")
    assert (found["time"], found["data"]) == ("2026-03-01T01:02:03Z", {"tokens": 5})
    file.write_bytes(b"no parquet")
    with pytest.raises(ConfigurationError, match=r"events\.parquet"):
        command("import", file, "--data", folder)


def test_a_running_server_takes_a_file_in_and_gives_it_out(server, tmp_path):
    file = write_lines(tmp_path / "events.jsonl", [event(number) for number in range(2500)])
    for _ in range(2):  # known the second time
        command("import", file, "--url", server.url)
        assert (measure(server), measure(server, "tokens")) == (2500, sum(range(2500)))
    assert "2,500 events written" in command("export", tmp_path / "out.csv", "--url", server.url).stdout
    assert (
        (tmp_path / "out.csv")
        .read_text("utf-8")
        .startswith("id,source,type,subject,time,data\nid 0,tests,request,")
    )


def test_a_replay_that_was_killed_goes_on_and_nothing_counts_twice(filled, server, tmp_path, monkeypatch):
    monkeypatch.setattr(stores.read_page, "__defaults__", (20,))
    monkeypatch.setattr(openmeter_export, "BATCH", 7)
    state = tmp_path / "state.json"
    replay = ("export", "--to", server.url, "--data", filled, "--state", state)
    append, sent = stores.ServerStore.append, []

    def append_some(self: Any, lines: Sequence[bytes]) -> None:
        if len(sent) == 4:
            raise KeyboardInterrupt
        sent.append(lines)
        append(self, lines)

    monkeypatch.setattr(stores.ServerStore, "append", append_some)
    command(*replay, status=130)
    assert 0 < json.loads(state.read_text())["after"] < 49
    monkeypatch.setattr(stores.ServerStore, "append", append)
    assert "30 events sent, 0 refused" in command(*replay).stdout
    assert (measure(server), measure(server, "tokens")) == (50, sum(range(50)))
    assert "0 events sent" in command(*replay).stdout
    with pytest.raises(UsageError, match="is of an export from"):
        command("export", "--to", "http://127.0.0.1:1", "--data", filled, "--state", state)


def test_an_event_that_the_other_side_refuses_is_named_and_the_rest_is_sent(filled, tmp_path, monkeypatch):
    taken: list[bytes] = []

    def refuse_one(self: Any, lines: Sequence[bytes]) -> None:
        if any(b'"id 7"' in line for line in lines):
            raise stores.Refused("no sevens")
        taken.extend(lines)

    monkeypatch.setattr(stores.ServerStore, "append", refuse_one)
    to = ("export", "--to", "http://127.0.0.1:1", "--data", filled, "--state", tmp_path / "state.json")
    result = command(*to, status=1)
    assert "49 events sent, 1 refused" in result.stdout
    assert "no sevens" in result.stderr
    assert [json.loads(line)["id"] for line in taken] == [
        f"id {number}" for number in range(50) if number != 7
    ]


def test_a_backup_of_a_running_server_is_a_folder_to_start_from(server, tmp_path):
    command(
        "import",
        write_lines(tmp_path / "events.jsonl", [event(number) for number in range(30)]),
        "--url",
        server.url,
    )
    assert "copy: " in command("backup", tmp_path / "copy", "--url", server.url).stdout
    command("backup", tmp_path / "copy.tar", "--url", server.url)
    with tarfile.open(tmp_path / "copy.tar") as archive:
        assert "openmeter.duckdb" in archive.getnames()
    with openmeter_server(tmp_path / "copy") as restored:
        assert measure(restored) == 30
    with pytest.raises(UsageError, match="is there already"):
        command("backup", tmp_path / "copy", "--url", server.url)


def test_a_backup_of_a_stopped_server_needs_no_server(filled, tmp_path):
    command("backup", tmp_path / "copy", "--data", filled)
    command("export", tmp_path / "out.jsonl", "--data", tmp_path / "copy")
    assert len(read_lines(tmp_path / "out.jsonl")) == 50


@pytest.fixture
def archive(filled: Path, tmp_path: Path) -> Path:
    command("backup", tmp_path / "copy.tar", "--data", filled)
    return tmp_path / "copy.tar"


def test_what_is_restored_from_a_backup_is_all_of_it(filled, archive, tmp_path):
    for source in (archive, filled):
        data = tmp_path / "new" / source.name
        assert f"{data}: 50 events" in command("restore", source, "--data", data).stdout
        assert sorted(file.name for file in data.iterdir()) == ["lock", FILE]
        command("export", tmp_path / "out.jsonl", "--data", data)
        assert read_lines(tmp_path / "out.jsonl") == [event(number) for number in range(50)]


def test_a_folder_that_holds_anything_is_not_restored_into(archive, filled, tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis").write_text("long work")
    for used, name in ((filled, "openmeter.duckdb"), (tmp_path / "papers", "thesis")):
        before = {file.name: file.read_bytes() for file in used.iterdir()}
        with pytest.raises(UsageError, match=f"is not empty, it holds {name}"):
            command("restore", archive, "--data", used)
        assert {file.name: file.read_bytes() for file in used.iterdir()} == before


def test_of_a_damaged_archive_nothing_is_restored(archive, tmp_path):
    whole, data = archive.read_bytes(), tmp_path / "new"
    damaged = [
        (whole[:-2048], "SHA256SUMS is missing"),
        (whole[: len(whole) // 2], "not all of one"),
        (whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], "does not match"),
        (whole.replace(b"openmeter.duckdb", b"../../etc/passwd", 1), "is no backup"),
        (b"", "is no backup"),
        (b"nonsense" * 1000, "is no backup"),
    ]
    for content, message in damaged:
        archive.write_bytes(content)
        with pytest.raises(Damaged, match=message):
            command("restore", archive, "--data", data)
        assert not data.exists()
    data.mkdir()
    with pytest.raises(Damaged):
        command("restore", archive, "--data", data)
    assert [file.name for file in data.iterdir()] == ["lock"]


def test_of_a_folder_with_a_damaged_database_nothing_is_restored(filled, tmp_path):
    content = (filled / FILE).read_bytes()
    headers = 3 * 4096
    (filled / FILE).write_bytes(content[:headers] + bytes(len(content) - headers))
    with pytest.raises(Damaged, match="the backup is damaged: "):
        command("restore", filled, "--data", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (filled / FILE).unlink()
    with pytest.raises(Damaged, match=r"openmeter\.duckdb is missing"):
        command("restore", filled, "--data", tmp_path / "new")
    with duckdb.connect(str(filled / FILE)) as connection:
        connection.execute("CREATE TABLE papers (text VARCHAR)")
    with pytest.raises(Damaged, match="its tables are papers"):
        command("restore", filled, "--data", tmp_path / "new")


def test_a_folder_in_use_is_neither_restored_from_nor_into(archive, filled, tmp_path):
    with lock_folder(filled), pytest.raises(ConfigurationError, match="is in use by process"):
        command("restore", filled, "--data", tmp_path / "new")
    (tmp_path / "new").mkdir()
    with lock_folder(tmp_path / "new"), pytest.raises(ConfigurationError, match="is in use by process"):
        command("restore", archive, "--data", tmp_path / "new")


def test_after_a_restore_that_was_killed_no_server_begins_with_nothing_and_it_can_be_given_again(
    archive, tmp_path
):
    killed = tmp_path / "new"
    (killed / "restore.partial").mkdir(parents=True)
    (killed / "restore.partial" / FILE).write_bytes(b"half of it")
    with pytest.raises(ConfigurationError, match="has not come to its end"):
        command("export", tmp_path / "out.jsonl", "--data", killed)
    command("restore", archive, "--data", killed)
    command("export", tmp_path / "out.jsonl", "--data", killed)
    assert len(read_lines(tmp_path / "out.jsonl")) == 50


def test_on_a_full_disk_nothing_is_left_of_a_backup_or_a_restore(archive, filled, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for arguments in (
        ("backup", tmp_path / "new.tar", "--data", filled),
        ("backup", tmp_path / "new", "--data", filled),
        ("restore", archive, "--data", tmp_path / "new"),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (archive.stat().st_size // 2, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                command(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert sorted(tmp_path.rglob("*")) == before


def test_a_server_that_is_not_there_is_said_after_some_tries(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "FIRST_WAIT_SECONDS", 0)
    file = write_lines(tmp_path / "events.jsonl", [event(1)])
    for arguments in (("import", file), ("export", tmp_path / "out.csv"), ("backup", tmp_path / "copy")):
        with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:1 does not answer"):
            command(*arguments, "--url", "http://127.0.0.1:1")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "a.jsonl", "--to", "http://x"), "one of the two"),
        (("export",), "one of the two"),
        (("import", "a.txt"), "ending"),
        (("import", "a.jsonl", "--url", "nonsense"), "is no URL"),
        (("import", "a.jsonl", "--data", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, ConfigurationError, StoreError), match=message):
        command(*arguments)


def test_days_are_read_and_nothing_else():
    assert read_days("400d") == timedelta(days=400)
    assert "such as 400d" in command("--data", "d", "--retention", "year", status=2).stderr
