"""``metergate openmeter`` where it cannot serve: the last line on stderr is why, and nothing else is there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from metergate.embedded.store.folder import FILE
from metergate.testing.processes import HOST, Server, free_port, metergate_command, openmeter_server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``running``."""
    return tmp_path_factory.mktemp("served") / "data"


@pytest.fixture(scope="module")
def running(served: Path) -> Iterator[Server]:
    with openmeter_server(served) as server:
        yield server


def failing_start(folder: Path, port: int | None = None) -> str:
    """All that it says."""
    command = metergate_command("openmeter", "--data", str(folder), "--port", str(port or free_port()))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    return ended.stderr


def test_a_second_server_on_the_folder_is_refused_in_one_line(served, running):
    assert failing_start(served) == (
        f"error: The data folder {served} is in use by process {running.pid}. "
        "Stop that one first, or name another folder with --data.\n"
    )


def test_a_port_in_use_is_refused_in_one_line_and_no_folder_is_made(running, tmp_path):
    assert failing_start(tmp_path / "data", running.port) == (
        f"error: {HOST}:{running.port} cannot be listened on: Address already in use. "
        "Choose another with --host or --port.\n"
    )
    assert not (tmp_path / "data").exists()


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    (tmp_path / FILE).write_bytes(bytes(20_000))
    (line,) = failing_start(tmp_path).splitlines()
    assert line.startswith(f"error: {tmp_path / FILE} cannot be opened: ")


def test_a_database_of_somebody_else_is_refused_in_one_line(tmp_path):
    """It is found out when the folder is open already: nothing of that may be left to complain at the end."""
    with duckdb.connect(str(tmp_path / FILE)) as connection:
        connection.execute("CREATE TABLE meters (length INTEGER)")
    (line,) = failing_start(tmp_path).splitlines()
    assert line.startswith(f"error: {tmp_path} does not hold the tables of an embedded OpenMeter: ")
    assert line.endswith("Name another with --data.")
