"""Servers as real processes: they come up, say why when they do not, and leave nothing behind."""

from __future__ import annotations

import http.client
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from metergate.testing.process_table import group_members, parse_stat
from metergate.testing.processes import Server, ServerFailed, free_port, upstream_server

_SERVE = (
    "from http.server import HTTPServer, SimpleHTTPRequestHandler\n"
    "HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()"
)


def _server(tmp_path: Path, code: str, start_timeout: float = 10.0) -> Server:
    port = free_port()
    return Server(
        [sys.executable, "-c", code, str(port)],
        url=f"http://127.0.0.1:{port}",
        ready="/",
        log=tmp_path / "server.log",
        start_timeout=start_timeout,
    )


def _get(server: Server, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, {"X-Tag": "7"})
        return connection.getresponse().read()
    finally:
        connection.close()


def _eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def test_a_server_answers_when_start_returns_and_leaves_no_process_after_stop(tmp_path: Path) -> None:
    server = upstream_server(tmp_path / "log")
    with server:
        assert server.workers()
        assert _get(server, "/status/200") == b'{"status":200}'
        group = server.pid
    assert not server.running
    assert group_members(group) == []


def test_a_killed_server_starts_again_on_its_port(tmp_path: Path) -> None:
    with upstream_server(tmp_path / "log") as server:
        url, group = server.url, server.pid
        server.kill()
        assert group_members(group) == []
        assert not server.running
        server.restart()
        assert server.url == url
        assert server.pid != group
        assert _get(server, "/status/200") == b'{"status":200}'


def test_kill_worker_ends_a_child_and_not_the_main_process(tmp_path: Path) -> None:
    with upstream_server(tmp_path / "log") as server:
        victim = server.kill_worker()
        assert victim is not None
        assert victim != server.pid
        _eventually(lambda: victim not in [member.pid for member in group_members(server.pid)])


def test_a_server_that_ends_at_once_is_reported_with_its_command_status_and_output(tmp_path: Path) -> None:
    server = _server(tmp_path, "import sys; print('no such folder'); sys.exit(3)")
    with pytest.raises(ServerFailed, match=r"(?s)-c .* ended with status 3 before it served.*no such folder"):
        server.start()


def test_a_server_that_never_answers_is_reported_and_killed(tmp_path: Path) -> None:
    server = _server(tmp_path, "import time; time.sleep(60)", start_timeout=0.3)
    with pytest.raises(ServerFailed, match=r"did not serve / in 0\.3 s"):
        server.start()
    assert not server.running


def test_a_server_that_ignores_sigterm_is_killed_and_reported(tmp_path: Path) -> None:
    code = "import signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + _SERVE
    server = _server(tmp_path, code).start()
    group = server.pid
    with pytest.raises(ServerFailed, match="did not end within"):
        server.stop(timeout=0.3)
    assert group_members(group) == []


def test_children_that_outlive_their_main_process_are_ended_by_stop(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n" + _SERVE
    )
    server = _server(tmp_path, code).start()
    group = server.pid
    assert len(group_members(group)) == 2
    server.stop()
    assert group_members(group) == []


def test_a_variable_of_none_is_taken_away_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOES", "1")
    code = "import os; print(os.environ.get('GOES'), os.environ.get('COMES'))"
    server = Server(
        [sys.executable, "-c", code],
        url=f"http://127.0.0.1:{free_port()}",
        ready="/",
        log=tmp_path / "log",
        env={"GOES": None, "COMES": "2"},
    )
    with pytest.raises(ServerFailed, match="None 2"):
        server.start()


def test_a_process_name_with_blanks_and_brackets_does_not_shift_the_fields() -> None:
    assert parse_stat("17 (a) (b c) S 4 5 6 7 8") == ("S", 4, 5)


def test_group_members_sees_this_process_in_its_own_group() -> None:
    assert os.getpid() in [member.pid for member in group_members(os.getpgrp())]


def test_the_upstream_echoes_what_it_was_asked(tmp_path: Path) -> None:
    with upstream_server(tmp_path / "log") as server:
        seen = msgspec.json.decode(_get(server, "/a/b?c=d", "PUT", b"hello"))
        assert (seen["method"], seen["path"], seen["query"], seen["body"]) == ("PUT", "/a/b", "c=d", "hello")
        assert ["x-tag", "7"] in seen["headers"]
        assert msgspec.json.decode(_get(server, "/seen"))[-1] == seen


@pytest.mark.parametrize(
    ("path", "length"),
    [
        ("/bytes?n=1234", 1234),
        ("/stream?chunks=4&size=10", 40),
        ("/stream?chunks=4&size=10&length=1&delay=0.01", 40),
    ],
)
def test_the_upstream_sends_as_many_bytes_as_asked_for(tmp_path: Path, path: str, length: int) -> None:
    with upstream_server(tmp_path / "log") as server:
        assert len(_get(server, path)) == length


def test_the_upstream_breaks_off_where_it_was_told_to(tmp_path: Path) -> None:
    with upstream_server(tmp_path / "log") as server, pytest.raises(http.client.IncompleteRead) as cut:
        _get(server, "/cut?size=10")
    assert (len(cut.value.partial), cut.value.expected) == (10, 10)
