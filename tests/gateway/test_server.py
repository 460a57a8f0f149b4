"""The gateway as processes: it refuses to start for a reason, survives its workers, ends in time, and loses no event."""

import asyncio
import concurrent.futures
import contextlib
import gc
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import msgspec
import pytest

from metergate.engine import Backends
from metergate.errors import UsageError
from metergate.gateway.ending import Restarts, say_started
from metergate.gateway.metrics import Metrics
from metergate.gateway.project import load_project
from metergate.gateway.server import Settings, assemble, check_port
from metergate.gateway.upstream import Upstream
from metergate.testing.asgi import AsgiClient
from metergate.testing.entitled import EntitledServer, denied
from metergate.testing.faulty import FaultyOpenMeter
from metergate.testing.process_table import group_members
from metergate.testing.processes import HOST, free_port, gateway_server, metergate_command
from metergate.testing.projects import custom_policy, forward, openmeter_policy, route, write_project
from metergate.testing.scripted import ScriptedUpstream
from metergate.testing.wire import ConnectionEnded, Wire

NOBODY = "http://127.0.0.1:9"
MODULE = """
import os
from metergate.runtime import Response, User


def who(request, context, options, policy_name):
    request.user = User("acme")
    return request


def pid(request, context):
    return os.getpid()


def empty(request, context):
    return Response(None, 204)
"""
FAILING = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


def eventually(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def api():
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def project(tmp_path, api):
    """Writes a project; ``openmeter`` is where it sends its events, ``options`` are its policy's."""

    def make(openmeter=NOBODY, **options):
        who = custom_policy("who", "own")
        who["handler"]["export"] = "who"
        metered = openmeter_policy(apiUrl=openmeter, meter={"type": "call"}, **options)
        behind = route(forward(api.url), inbound=["who", "metered"])
        own = {name: {"export": name, "module": "$import(./modules/own)"} for name in ("pid", "empty")}
        routes = {
            "/pid": {"get": route(own["pid"])},
            "/empty": {"get": route(own["empty"], inbound=["who", "metered"])},
            "/(.*)": {"get": behind, "head": behind, "post": behind},
        }
        folder = write_project(tmp_path / "project", routes, [who, metered])
        (folder / "modules").mkdir()
        (folder / "modules" / "own.py").write_text(MODULE)
        return folder

    return make


@pytest.fixture
def running():
    """Starts a gateway and sees to its end."""
    servers = []

    def start(folder, *arguments, **options):
        server = gateway_server(folder, **options)
        server.command += arguments
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


def get(server, path):
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def spooled(folder):
    """The ids of the events that are in the spool on disk now."""
    files = [file for file in (folder / ".metergate" / "spool").rglob("*") if file.is_file()]
    lines = [line for file in files for line in file.read_bytes().splitlines() if b"specversion" in line]
    return [json.loads(line)["id"] for line in lines]


def finished(*arguments):
    """A command that has to end by itself; its exit status and what it said."""
    command = metergate_command(*arguments)
    env = {**os.environ, "OPENMETER_API_KEY": "local"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=env)
    return done.returncode, done.stderr.strip().splitlines()


# --- refusing to start


def test_a_port_in_use_is_one_line_and_status_2(project):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        status, lines = finished("run", "--project", project(), "--port", str(port))
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith(f"error: cannot listen on 127.0.0.1:{port} ")


def test_a_second_gateway_on_the_same_port_is_refused(project, running):
    folder = project()
    server = running(folder)
    status, lines = finished("run", "--project", folder, "--port", str(server.port))
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: cannot listen on ")
    assert get(server, "/pid")[0] == 200


def test_a_project_that_is_not_there_is_status_2_without_a_traceback(tmp_path):
    status, lines = finished("run", "--project", tmp_path / "nowhere")
    assert status == 2
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("address", [("127.0.0.1", 1), ("no-such-host.invalid", 9000), ("203.0.113.1", 9000)])
def test_an_address_that_is_not_ours_is_refused(address):
    if address[1] == 1 and os.geteuid() == 0:
        pytest.skip("root may listen there")
    with pytest.raises(UsageError, match=f"cannot listen on {address[0]}:{address[1]}"):
        check_port(*address)


def test_an_application_that_does_not_start_ends_the_gateway_instead_of_being_tried_for_ever(tmp_path):
    handler = {
        "export": "asgiHandler",
        "module": "$import(@zuplo/runtime)",
        "options": {"app": "$import(./modules/failing)"},
    }
    folder = write_project(tmp_path / "project", {"/(.*)": {"get": route(handler)}})
    (folder / "modules").mkdir()
    (folder / "modules" / "failing.py").write_text(FAILING)
    status, lines = finished("run", "--project", folder, "--port", str(free_port()))
    assert status == 1
    assert any("no database" in line for line in lines)
    assert any("no worker came up" in line for line in lines)


# --- workers


def test_workers_that_are_killed_again_and_again_are_replaced_and_the_gateway_serves(project, running):
    server = running(project(), workers=2)
    for number in range(6):
        eventually(lambda: len(server.workers()) == 2)
        victim = server.kill_worker(number)
        eventually(lambda gone=victim: gone not in server.workers() and server.workers())
        eventually(lambda: answers(server))
    assert server.running


def test_a_worker_that_is_killed_takes_no_count_with_it_and_the_gateway_says_its_end_and_keeps_its_age(
    project, running, api
):
    api.on("/counted", lambda e: e.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
    server = running(project())
    eventually(lambda: health(server)["uptimeSeconds"] >= 1)
    before = recorded(server)
    for _ in range(20):
        assert get(server, "/counted")[0] == 200
    victim = server.kill_worker(0)
    eventually(lambda: victim not in server.workers() and answers(server))
    assert recorded(server) == before + 20
    assert health(server)["uptimeSeconds"] >= 1
    lines = [json.loads(line) for line in server.output().splitlines()]
    ended = [line for line in lines if line.get("worker") == victim]
    assert [(line["level"], line["exit_code"]) for line in ended] == [("warning", -9)]
    assert not any("Unexpected exit" in line["message"] for line in lines)


def health(server):
    return json.loads(get(server, "/__metergate/health")[1])


def recorded(server):
    page = get(server, "/__metergate/metrics")[1].decode()
    lines = [line for line in page.splitlines() if line.startswith("metergate_events_recorded_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def answers(server):
    try:
        return get(server, "/pid")[0] == 200
    except OSError:
        return False  # it was on the connection queue of the one that was killed


def test_several_workers_all_serve(project, running):
    server = running(project(), workers=3)

    def ask(_):
        return int(get(server, "/pid")[1])

    seen = set()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        eventually(lambda: seen.update(pool.map(ask, range(64))) or len(seen) == 3)
    assert seen == set(server.workers())


def test_workers_end_when_the_parent_is_killed(project, running):
    server = running(project(), workers=2)
    workers = server.workers()
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: not [member for member in group_members(server.pid) if member.pid in workers], 8.0)


def test_workers_that_are_still_starting_end_with_a_killed_parent_too(project, running):
    folder = project()
    for _ in range(4):
        server = running(folder, workers=2)
        # One of them has answered, the other may be anywhere on its way.
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda group=server.pid: not group_members(group), 8.0)


@pytest.mark.skipif(
    shutil.which("unshare") is None or os.geteuid() != 0, reason="needs a process namespace of its own"
)
def test_a_gateway_that_is_process_1_of_its_container_serves(project, tmp_path):
    folder, port = project(), free_port()
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("process namespaces are not allowed here")
    command += metergate_command("run", "--project", folder, "--port", str(port))
    env = {**os.environ, "OPENMETER_API_KEY": "local"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        eventually(lambda: listens(port))
        with Wire(port) as wire:
            wire.request("/pid")
            assert wire.response().status == 200
    finally:
        process.kill()
        process.wait()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def test_workers_may_be_spawned_instead_of_forked(project, tmp_path):
    folder, port = project(), free_port()
    code = (
        "import multiprocessing, sys\n"
        "from metergate.gateway.server import Settings, serve\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    serve(Settings(project=sys.argv[1], port=int(sys.argv[2])))\n"
    )
    script = tmp_path / "spawning.py"
    script.write_text(code)
    env = {**os.environ, "OPENMETER_API_KEY": "local"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, script, folder, str(port)], stdout=log, stderr=log, env=env
        )
    try:
        eventually(lambda: listens(port), 20.0)
        with Wire(port) as wire:
            wire.request("/pid")
            assert int(wire.response().body) != process.pid
    finally:
        process.terminate()
        assert process.wait(10) == 0


# --- ending


class Load:
    """Callers that ask until nobody listens any more; ``complete`` are the request ids of what they saw whole."""

    def __init__(self, port, path, callers=4):
        self.complete = []
        self._target = (port, path)
        self._threads = [threading.Thread(target=self._run) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        with contextlib.suppress(OSError, ConnectionEnded):
            while True:
                port, path = self._target
                with Wire(port) as wire:
                    wire.request(path)
                    response = wire.response()
                if response.complete and response.status == 200:
                    self.complete.append(response["zp-rid"])

    def join(self):
        for thread in self._threads:
            thread.join()


def endless(exchange):
    exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        exchange.send(b"4\r\ntick\r\n")
        time.sleep(0.01)


def test_sigterm_under_load_with_streams_that_have_no_end_loses_nothing(project, running, api):
    """What clients saw complete, and what was broken off, is with OpenMeter or in the spool."""
    waits = threading.Event()
    api.on("/endless", endless)
    api.on("/silent", lambda exchange: (waits.set(), exchange.wait_closed()))
    with FaultyOpenMeter() as openmeter:
        folder = project(openmeter.url)
        server = running(folder)
        streams = [Wire(server.port) for _ in range(3)]
        for wire in streams:
            wire.request("/endless")
        broken = [dict(wire.head()[1])["zp-rid"] for wire in streams]
        waiting = Wire(server.port)
        waiting.request("/silent")
        assert waits.wait(10)
        load = Load(server.port, "/quick")
        eventually(lambda: len(load.complete) > 50)
        asked = time.monotonic()
        assert server.stop(timeout=10) == 0
        took = time.monotonic() - asked
        load.join()
        known = {event["id"] for event in openmeter.events} | set(spooled(folder))
    assert took < 5
    assert waiting.response().status == 503
    assert not any(wire.receive_all().endswith(b"0\r\n\r\n") for wire in streams)
    for wire in (*streams, waiting):
        wire.close()
    assert [one for one in (*load.complete, *broken) if f"{one}-call" not in known] == []


def test_a_request_that_waits_for_its_decision_when_the_lifespan_ends_still_gets_it(
    project, api, monkeypatch
):
    """Also of a server that ends the lifespan before the requests; a read given up would let this one in."""
    monkeypatch.setenv("OPENMETER_API_KEY", "local")
    api.on("/paid", lambda e: e.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))

    async def run(openmeter, gateway):
        messages, said = asyncio.Queue(), asyncio.Queue()
        life = asyncio.ensure_future(gateway({"type": "lifespan"}, messages.get, said.put))
        messages.put_nowait({"type": "lifespan.startup"})
        assert (await said.get())["type"] == "lifespan.startup.complete"
        openmeter.hang()
        waiting = asyncio.ensure_future(AsgiClient(gateway).call("/paid"))
        await asyncio.to_thread(openmeter.wait_for, 1)
        messages.put_nowait({"type": "lifespan.shutdown"})
        for _ in range(20):
            await asyncio.sleep(0)
        openmeter.recover()
        status = (await asyncio.wait_for(waiting, 10)).status
        await asyncio.wait_for(life, 10)
        return status

    with EntitledServer() as openmeter:
        openmeter.customer("acme", features={"api": denied()})
        folder = project(openmeter.url, requiredEntitlements=["api"])
        backends, upstream = Backends(folder / "spool"), Upstream()
        loaded, findings = load_project(folder, backends=backends, upstream=upstream)
        assert loaded is not None, findings
        gateway = assemble(loaded, backends, upstream, Metrics())
        thresholds = gc.get_threshold()
        try:
            assert asyncio.run(run(openmeter, gateway)) == 403
        finally:
            gc.unfreeze()
            gc.set_threshold(*thresholds)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_after_kill_9_the_events_of_all_that_clients_saw_complete_are_in_the_spool(
    project, running, api, durability
):
    api.on("/bytes", lambda e: e.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
    api.on(
        "/pieces",
        lambda e: [e.send(part) for part in (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab", b"cd")],
    )
    api.on(
        "/chunks",
        lambda e: e.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    )
    folder = project(delivery={"durability": durability})
    server = running(folder)
    kinds = [("/bytes", "GET"), ("/pieces", "GET"), ("/chunks", "GET"), ("/bytes", "HEAD"), ("/empty", "GET")]
    seen = []
    for path, method in kinds:
        with Wire(server.port) as wire:
            wire.request(path, method)
            response = wire.response(method)
        assert response.complete
        # As another process would find it: what is in the file survives whatever happens to the gateway.
        assert f"{response['zp-rid']}-call" in spooled(folder), (path, method)
        seen.append(f"{response['zp-rid']}-call")
    with Wire(server.port) as wire:
        wire.request("/pieces")
        last = wire.response()
        server.kill()
    assert sorted(spooled(folder)) == sorted([*seen, f"{last['zp-rid']}-call"])


# --- the pieces


def test_settings_survive_the_way_to_a_worker():
    settings = Settings(project="/p", workers=3, figures="/f", parent=7)
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


class Ended(NamedTuple):
    """A process that has ended, or lives with ``exitcode`` None."""

    exitcode: int | None
    pid: int = 4711


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (-9, "a worker was ended by SIGKILL (out of memory?) and is replaced"),
        (-11, "a worker was ended by SIGSEGV and is replaced"),
        (-40, "a worker was ended by signal 40 and is replaced"),
        (3, "a worker has ended with exit status 3 and is replaced"),
    ],
)
def test_a_replaced_worker_is_said_with_how_it_ended(tmp_path, caplog, exit_code, said):
    Restarts(tmp_path, lambda index: Ended(exit_code))[0] = 1.0
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(said)
    assert (record.worker, record.exit_code) == (4711, exit_code)


def test_a_living_worker_that_is_replaced_on_request_is_no_warning(tmp_path, caplog):
    Restarts(tmp_path, lambda index: Ended(None))[0] = 1.0
    assert caplog.records == []


def test_restarts_are_forgotten_once_a_worker_has_come_up(tmp_path, caplog):
    restarts = Restarts(tmp_path, lambda index: Ended(-9))
    assert time.monotonic() - restarts.get(0, 0) < 1
    assert "no worker came up" in caplog.text
    say_started(tmp_path)
    restarts[0] = time.monotonic()
    assert time.monotonic() - restarts.get(0, 0) > 10**9


def test_restarts_in_a_burst_are_paced(tmp_path):
    pauses = []
    restarts = Restarts(tmp_path, lambda index: Ended(-9), sleep=pauses.append)
    for at in range(10):
        restarts[at % 2] = at / 10
    assert pauses == [1.0] * 5
    restarts[0] = 100.0
    assert len(pauses) == 5


def test_an_orphan_ends_at_once_and_nobody_else():
    code = (
        "import os, sys\n"
        "from metergate.gateway.ending import end_with_parent\n"
        "end_with_parent(os.getppid() + int(sys.argv[1]))\n"
        "print('serves')\n"
    )

    def said(offset):
        command = [sys.executable, "-c", code, str(offset)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout

    assert (said(0), said(1)) == ("serves\n", "")


def test_the_limit_of_open_files_is_raised():
    code = (
        "import resource\n"
        "from metergate.gateway.ending import raise_file_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "raise_file_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_worker_that_starts_ends_hard_with_its_parent_and_one_that_serves_in_order():
    """A signal that meets a server that is starting may hang it; nothing is recorded by then."""
    code = (
        "import asyncio, ctypes, os\n"
        "from metergate.gateway import ending\n"
        "def asked():\n"
        "    number = ctypes.c_int()\n"
        "    ctypes.CDLL(None).prctl(2, ctypes.byref(number))\n"
        "    return number.value\n"
        "ending._STARTING_SECONDS = 0.0\n"
        "ending.end_with_parent(os.getppid())\n"
        "print(asked())\n"
        "async def serve():\n"
        "    ending.end_in_order(lambda: 0)\n"
        "    while asked() != 15:\n"
        "        await asyncio.sleep(0)\n"
        "asyncio.run(asyncio.wait_for(serve(), 10))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert int(done.stdout) == signal.SIGKILL


def test_a_worker_that_does_not_end_within_its_time_is_ended_by_the_kernel():
    code = (
        "import asyncio, os, signal, time\n"
        "from metergate.gateway import ending\n"
        "ending.KILL_SECONDS = 0\n"
        "async def serve():\n"
        "    ending.end_in_order(lambda: 0)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
        "asyncio.run(serve())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=20)
    assert done.returncode == -signal.SIGALRM
