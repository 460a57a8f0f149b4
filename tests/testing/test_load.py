"""Load: what it reports is what the server answered."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metergate.testing.load import encode_request, load, quantile, replay, run_load
from metergate.testing.processes import Server, free_port, upstream_server


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with upstream_server(tmp_path_factory.mktemp("upstream") / "log") as server:
        yield server


def _get(server: Server, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/bytes?n=47", "/stream?chunks=3&size=10", "/status/404", "/status/204"])
def test_every_request_is_counted_with_its_status(api: Server, path: str) -> None:
    report = run_load(api.url + path, connections=4, seconds=0.2)
    expected = int(path.rpartition("/")[2]) if "status" in path else 200
    assert report.failed == 0
    assert report.requests > 20
    assert report.statuses == {expected: report.requests}
    assert 0 < report.p50_ms <= report.p99_ms <= report.max_ms


def test_answers_that_break_off_are_failures_and_the_run_goes_on(api: Server) -> None:
    report = run_load(api.url + "/cut", connections=2, seconds=0.2)
    assert report.requests == 0
    assert report.failed > 2


def test_a_server_that_is_not_there_is_failures_only() -> None:
    report = asyncio.run(load(f"http://127.0.0.1:{free_port()}/", connections=2, seconds=0.1))
    assert (report.requests, report.p99_ms) == (0, 0.0)
    assert report.failed >= 2


def test_a_replay_sends_each_request_once(api: Server) -> None:
    wanted = [f"/once/{number}" for number in range(100)]
    run_load(api.url + "/seen", connections=1, seconds=0.05, method="DELETE")
    report = asyncio.run(replay(api.url, [encode_request(api.url + path) for path in wanted], connections=4))
    seen = json.loads(_get(api, "/seen"))
    assert report.statuses == {200: 100}
    assert sorted(request["path"] for request in seen) == sorted(wanted)


def test_a_request_carries_its_method_headers_and_body() -> None:
    assert encode_request("http://h:1/a?b=c", "POST", {"X-Key": "v"}, b"{}") == (
        b"POST /a?b=c HTTP/1.1\r\nHost: h:1\r\nX-Key: v\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_the_command_prints_its_report_as_json(api: Server) -> None:
    command = [sys.executable, "-m", "metergate.testing.load", api.url, "-c", "2", "-d", "0.1", "-H", "X: 1"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=Path.cwd()).stdout)
    assert report["statuses"] == {"200": report["requests"]}


@pytest.mark.parametrize(("share", "value"), [(0.5, 5.0), (0.99, 10.0), (0.0, 1.0), (1.0, 10.0)])
def test_quantiles_are_by_nearest_rank(share: float, value: float) -> None:
    assert quantile([float(n) for n in range(1, 11)], share) == value
