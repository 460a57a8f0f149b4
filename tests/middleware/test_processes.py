"""Real servers with several processes: what is metered is neither lost nor counted twice, whoever dies."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import count

import pytest

NUMBERS = count()
APPLICATION = """
import os
from metergate.middleware import Metergate
from metergate.middleware.wsgi import MetergateMiddleware

def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

metergate = Metergate(
    api_url=os.environ["OPENMETER"], api_key="key", spool=os.environ["SPOOL"], meter={"type": "call"}, workers=4,
    user=lambda environ: environ.get("HTTP_X_USER"), required_entitlements=["calls"],
)
app = MetergateMiddleware(hello, metergate)
"""


@pytest.fixture
def served(openmeter, tmp_path):
    """``served("--preload")``: gunicorn with four workers; its process and port."""
    running = []

    def serve(*options):
        (tmp_path / "served.py").write_text(APPLICATION)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "-w", "4", "--threads", "2", "-b", f"127.0.0.1:{port}"]
        environment = os.environ | {"OPENMETER": openmeter.url, "SPOOL": str(tmp_path / "spool")}
        log = (tmp_path / "log").open("wb")
        command += ["--graceful-timeout", "5", "--no-control-socket", *options, "served:app"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        running.append((process, log))
        wait_until(lambda: answers(port), lambda: (tmp_path / "log").read_text())
        return process, port

    yield serve
    for process, log in running:
        process.terminate()
        process.wait(20)
        log.close()


def answers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        return get(connection, "") == 401
    except OSError:
        return False
    finally:
        connection.close()


def get(connection, user):
    connection.request("GET", "/", headers={"X-User": user} if user else {})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def wait_until(condition, why=lambda: "it never came true", seconds=30.0):
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, why()
        pause.wait(0.02)


class Clients:
    """Threads that ask as often as they are told in all; statuses by number, and how many requests broke."""

    def __init__(self, port, user, requests, threads=8):
        self.statuses: dict[int, int] = {}
        self.broken = self.done = 0
        self._numbers = iter(range(requests))
        self._lock = threading.Lock()
        self._port, self._user = port, user
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def join(self):
        for thread in self._threads:
            thread.join()

    def _run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while True:
            with self._lock:
                if next(self._numbers, None) is None:
                    break
            try:
                status = get(connection, self._user)
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            with self._lock:
                self.done += 1
                self.broken += status == 0
                self.statuses[status] = self.statuses.get(status, 0) + 1
        connection.close()


def workers_of(process):
    path = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(path) as children:  # noqa: PTH123  # of /proc
        return [int(pid) for pid in children.read().split()]


def count_of(openmeter, subject):
    rows = openmeter.call("GET", "/api/v1/meters/calls/query", subject=subject)["data"]
    return int(rows[0]["value"]) if rows else 0


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        (("--preload",), 800),
        pytest.param((), 5_000, marks=pytest.mark.chaos),
        pytest.param(("--preload",), 10_000, marks=pytest.mark.chaos),
    ],
    ids=["preload", "each on its own", "10,000 requests"],
)
def test_a_killed_worker_of_gunicorn_loses_no_event_and_counts_none_twice(
    served, openmeter, customer, options, requests
):
    subject = customer(f"gunicorn-{next(NUMBERS)}", 1_000_000)
    process, port = served(*options)
    clients = Clients(port, subject, requests)
    wait_until(lambda: clients.done > requests // 3)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    clients.join()
    complete = clients.statuses.pop(200)
    assert set(clients.statuses) <= {0}
    wait_until(lambda: count_of(openmeter, subject) >= complete)
    process.terminate()
    process.wait(20)
    assert complete <= count_of(openmeter, subject) <= complete + clients.broken


def test_four_workers_let_in_a_quota_to_the_unit(served, customer):
    subject = customer(f"gunicorn-{next(NUMBERS)}", 100)
    _, port = served("--preload")
    clients = Clients(port, subject, 300)
    clients.join()
    assert clients.statuses == {200: 100, 403: 200}
