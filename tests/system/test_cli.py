"""The commands as an operator runs them: what they do, how they stop, and what they say when something is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.system.commands import Commands

from metergate.delivery.dead_letters import DeadLetterFiles, new_letter
from metergate.delivery.destination import describe, make_folder
from metergate.delivery.files import Files
from metergate.testing.events import events_with, meter_total
from metergate.testing.processes import (
    HOST,
    Server,
    free_port,
    gateway_server,
    metergate_command,
    openmeter_server,
)
from metergate.testing.projects import (
    api_key_policy,
    create_key,
    custom_policy,
    forward,
    openmeter_policy,
    route,
    write_project,
)

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
METERS = {"meters": [{"slug": "calls", "eventType": "call", "aggregation": "COUNT"}]}
STOP_SECONDS = 5.0
KEY = {"OPENMETER_API_KEY": "x"}
WHO = "def who(request, context):\n    return {'sub': request.user.sub, 'data': request.user.data}\n"


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """``run("check", "--json", env={…})``: the command, run to its end."""
    with Commands() as commands:
        yield commands.run


def without(modules: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in an installation that lacks these modules."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r})); sys.argv = ['metergate', *sys.argv[1:]]\n"
        "from metergate.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that answers with who calls, once there is a key."""
    folder = tmp_path / "project"
    (folder / "modules").mkdir(parents=True)
    (folder / "modules" / "who.py").write_text(WHO)
    handler = {"export": "who", "module": "$import(./modules/who)", "options": {}}
    return write_project(folder, {"/who": {"get": route(handler, inbound=["keys"])}}, [api_key_policy()])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind((HOST, free_port()))
        listener.listen()
        yield listener.getsockname()[1]


# --- check


def test_check_says_that_a_project_can_run(run, tmp_path):
    done = run("check", "--project", QUICKSTART)
    assert done.returncode == 0
    assert "ready to run" in done.stdout.splitlines()[-1]
    assert "metergate keys create" in done.stdout


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A project with three errors in two files and two warnings; its module prints when it is imported."""
    broken = openmeter_policy("broken", meter=[], subjectPath="sub", evntSource="x")
    routes = {"/a": {"get": route(forward("http://127.0.0.1:1"), inbound=["brokn", "code"])}}
    folder = write_project(tmp_path / "wrong", routes, [broken, custom_policy("code", "prints")])
    (folder / "modules").mkdir()
    (folder / "modules" / "prints.py").write_text(
        "print('hello')\n\ndef default(request, *_):\n    return request\n"
    )
    return folder


def test_check_says_every_error_with_its_file_and_path(run, wrong):
    done = run("check", "--project", wrong, env=KEY)
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for place in (
        "config/policies.json: $.policies[0].handler.options.meter (policy broken): ",
        "config/policies.json: $.policies[0].handler.options.subjectPath (policy broken): ",
        'config/routes.oas.json: $.paths["/a"].get.x-zuplo-route.policies.inbound[0]: ',
    ):
        assert sum(line.startswith(f"error: {place}") for line in errors) == 1, (place, errors)
    assert "3 errors, 2 warnings; it cannot start" in done.stdout.splitlines()[-1]


def test_check_gives_the_same_as_json_whatever_the_project_s_code_prints(run, wrong):
    done = run("check", "--project", wrong, "--json", env=KEY)
    assert done.returncode == 2
    findings = json.loads(done.stdout)
    assert [finding["severity"] for finding in findings] == ["error"] * 3 + ["warning"] * 2
    assert {finding["file"] for finding in findings} == {"config/policies.json", "config/routes.oas.json"}
    assert all(finding["path"].startswith("$.") and finding["message"] for finding in findings)


def test_under_strict_a_warning_is_an_error(run):
    assert run("check", "--project", QUICKSTART, "--strict").returncode == 2


# --- keys


def test_a_key_is_printed_once_and_only_its_hash_is_kept(run, project):
    made = run("keys", "create", "acme", "--project", project, "--metadata", '{"plan": "gold"}')
    assert made.returncode == 0
    key = made.stdout.strip()
    assert re.fullmatch(r"mg_[A-Za-z0-9]{43}", key)
    assert key not in made.stderr
    file = project / "config" / "consumers.json"
    text = file.read_text()
    assert key not in text
    [consumer] = json.loads(text)["consumers"]
    assert (consumer["name"], consumer["metadata"]) == ("acme", {"plan": "gold"})
    assert [entry["sha256"] for entry in consumer["keys"]] == [hashlib.sha256(key.encode()).hexdigest()]
    assert file.stat().st_mode & 0o077 == 0

    shown = run("keys", "list", "--project", project)
    assert consumer["keys"][0]["id"] in shown.stdout
    assert "acme" in shown.stdout
    assert key not in shown.stdout
    [row] = json.loads(run("keys", "list", "--project", project, "--json").stdout)
    assert (row["consumer"], row["id"], row["expires"]) == ("acme", consumer["keys"][0]["id"], None)
    assert run("keys", "revoke", row["id"], "--project", project).returncode == 0
    assert json.loads(run("keys", "list", "--project", project, "--json").stdout) == []


def test_new_metadata_are_said_to_hold_for_the_other_keys_of_a_consumer_too(run, project):
    run("keys", "create", "acme", "--project", project, "--metadata", '{"tenant": "t1"}')
    same = run("keys", "create", "acme", "--project", project, "--metadata", '{"tenant": "t1"}')
    other = run("keys", "create", "acme", "--project", project, "--metadata", '{"tenant": "t2"}')
    assert "warning" not in same.stderr
    assert "the 2 other key(s) of acme have the new ones too" in other.stderr
    rows = json.loads(run("keys", "list", "--project", project, "--json").stdout)
    assert [row["metadata"] for row in rows] == [{"tenant": "t2"}] * 3


def test_a_running_gateway_takes_a_new_key_and_refuses_a_revoked_one(run, project, gateway, call, eventually):
    server = gateway(project)
    assert call(server.url, "/who", key="mg_" + "x" * 43).status == 401
    key = create_key(project, "acme", {"plan": "gold"})
    assert eventually(lambda: call(server.url, "/who", key=key).status == 200, 3)
    assert call(server.url, "/who", key=key).json == {"sub": "acme", "data": {"plan": "gold"}}
    [row] = json.loads(run("keys", "list", "--project", project, "--json").stdout)
    run("keys", "revoke", row["id"], "--project", project)
    assert eventually(lambda: call(server.url, "/who", key=key).status == 401, 3)


# --- what is wrong is one line


@dataclass(frozen=True)
class Place:
    """Where things are wrong."""

    folder: Path
    taken: int
    project: Path

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def _locked(at: Place) -> list[str | Path]:
    """A data folder whose lock this process holds."""
    import fcntl

    lock = at.file("locked/lock", "4711\n").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _HELD.append(lock)
    return ["openmeter", "--data", at.folder / "locked", "--port", str(free_port())]


_HELD: list[Any] = []


def _with_broken_routes(at: Place) -> list[str | Path]:
    at.file("project/config/routes.oas.json", "{")
    return ["run", "--project", at.project]


def _with_broken_consumers(at: Place) -> list[str | Path]:
    at.file("project/config/consumers.json", '{"consumers": [{"name": ""}]}')
    return ["keys", "create", "acme", "--project", at.project]


def _openmeter(at: Place, text: str) -> list[str | Path]:
    config = at.file("openmeter.yaml", text)
    return ["openmeter", "--data", at.folder / "data", "--port", str(free_port()), "--config", config]


def _demo(at: Place) -> list[str | Path]:
    free = ("--openmeter-port", str(free_port()), "--upstream-port", str(free_port()))
    return ["demo", "--port", str(at.taken), *free]


WRONG: dict[str, tuple[Callable[[Place], list[str | Path]], str]] = {
    "run, no such project": (
        lambda at: ["run", "--project", at.folder / "none"],
        r"error: .*/none is not a folder\. Name the folder of a project with --project DIR\.",
    ),
    "run, no config": (
        lambda at: ["run", "--project", at.file("empty/config/policies.json", '{"policies": []}').parents[1]],
        r"error: config/\*\.oas\.json: .* Write config/routes\.oas\.json, an OpenAPI document\.",
    ),
    "run, broken JSON": (
        _with_broken_routes,
        r"error: config/routes\.oas\.json: \$: This is not JSON: line 1, column 2: .*",
    ),
    "run, port in use": (
        lambda at: ["run", "--project", at.project, "--port", str(at.taken)],
        r"error: cannot listen on 127\.0\.0\.1:\d+ .*: stop what listens there, or name another address .*--port",
    ),
    "openmeter, no such config": (
        lambda at: ["openmeter", "--data", at.folder / "data", "--config", at.folder / "none.yaml"],
        r"error: .*/none\.yaml: cannot be read: No such file or directory\. Name another file\.",
    ),
    "openmeter, broken YAML": (
        lambda at: _openmeter(at, "meters: ["),
        r"error: .*/openmeter\.yaml: This is not YAML: line 1, column 10: .*",
    ),
    "openmeter, wrong field": (
        lambda at: _openmeter(at, "meters: [{slug: a, eventType: a, aggregation: COUNT, valueProprty: $.a}]"),
        r'error: .*: \$\.meters\[0\]\.valueProprty: .* Did you mean "valueProperty"\?',
    ),
    "openmeter, wrong section": (
        lambda at: _openmeter(at, "meter: [{slug: a, eventType: a, aggregation: COUNT}]"),
        r'error: .*: \$\.meter: is not a section that is known\. Did you mean "meters"\?',
    ),
    "openmeter, data is a file": (
        lambda at: ["openmeter", "--data", at.file("file", "") / "data", "--port", str(free_port())],
        r"error: The data folder .*/file/data cannot be written: .* Name another with --data .*",
    ),
    "openmeter, data in use": (
        _locked,
        r"error: The data folder .*/locked is in use by process 4711\. Stop that one first, or name another .*",
    ),
    "openmeter, port in use": (
        lambda at: ["openmeter", "--data", at.folder / "data", "--port", str(at.taken)],
        r"error: 127\.0\.0\.1:\d+ cannot be listened on: .* Choose another with --host or --port\.",
    ),
    "check, no such project": (
        lambda at: ["check", "--json", "--project", at.folder / "none"],
        "",
    ),
    "keys, no such project": (
        lambda at: ["keys", "create", "acme", "--project", at.folder / "none"],
        r"error: .*/none/config is not there: name a project's folder with --project DIR",
    ),
    "keys, broken file": (
        _with_broken_consumers,
        r"error: .*/consumers\.json: \$\.consumers\[0\]\.name: The name is empty\. .*",
    ),
    "run, no project": (
        lambda at: ["run", "--project", at.file("other/README", "").parent],
        r"error: .*/other is not a project: there is no config/ in it\. Name the folder of a project with .*",
    ),
    "run, no address of this machine": (
        lambda at: ["run", "--project", at.project, "--host", "192.0.2.1"],
        r"error: cannot listen on 192\.0\.2\.1:9000 .*: it is no address of this machine; name one with --host, .*",
    ),
    "openmeter, another file beside": (
        lambda at: [
            "openmeter",
            "--data",
            at.folder / "d",
            "--config",
            at.file("a.yaml", "").with_suffix(".yml"),
        ],
        r'error: .*/a\.yml: cannot be read: No such file or directory\. Did you mean "a\.yaml"\?',
    ),
    "deadletters, no project": (
        lambda at: ["deadletters", "list", "--project", at.file("other/README", "").parent],
        r"error: .*/other/config is not there: name a project's folder with --project DIR",
    ),
    "deadletters, no such project": (
        lambda at: ["deadletters", "list", "--project", at.folder / "none"],
        r"error: .*/none is not a folder: name a project's folder with --project DIR",
    ),
    "demo, port in use": (
        _demo,
        r"error: cannot listen on the port of --port \d+: stop what listens there, or name another, --port N \(make run .*\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_with_what_to_do_and_status_2(run, name, tmp_path, taken, project):
    make, expected = WRONG[name]
    done = run(*make(Place(tmp_path, taken, project)))
    assert done.returncode == 2, done
    if not expected:
        assert [finding["severity"] for finding in json.loads(done.stdout)] == ["error"]
        return
    [said] = [line for line in done.stderr.splitlines() if not line.startswith(("{", "warning: "))]
    assert re.fullmatch(expected, said), said


def test_a_gateway_that_could_not_keep_its_events_does_not_start(run, tmp_path):
    routes = {"/": {"get": route(forward("http://127.0.0.1:1"), inbound=["keys", "metered"])}}
    folder = write_project(tmp_path / "project", routes, [api_key_policy(), openmeter_policy()])
    (tmp_path / "file").touch()
    spool = str(tmp_path / "file" / "spool")
    env = {"METERGATE_SPOOL": spool, "OPENMETER_API_KEY": "x"}
    done = run("run", "--project", folder, "--port", str(free_port()), env=env)
    assert done.returncode == 2
    assert f"error: events cannot be kept in {spool}" in done.stderr
    assert "METERGATE_SPOOL" in done.stderr


# --- installations


def test_it_is_a_module_as_well():
    for command in (metergate_command("--version"), [sys.executable, "-m", "metergate", "--version"]):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize(
    ("modules", "arguments", "extra"),
    [
        (("typer", "rich"), ("--help",), "all"),
        (("prometheus_client",), ("run",), "gateway"),
        (("dotenv",), ("check",), "gateway"),
        (("duckdb",), ("openmeter", "--data", "d"), "embedded"),
        (("starlette",), ("openmeter", "--data", "d"), "embedded"),
        (("yaml",), ("demo",), "embedded"),
    ],
)
def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(modules, arguments, extra):
    ports = (
        "--port",
        str(free_port()),
        "--openmeter-port",
        str(free_port()),
        "--upstream-port",
        str(free_port()),
    )
    done = without(modules, *arguments, *(ports if arguments == ("demo",) else ()))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"pip install 'metergate[{extra}]'" in done.stderr


def test_the_gateway_s_commands_do_not_need_the_embedded_server_nor_it_theirs(project):
    embedded = ("duckdb", "starlette", "yaml")
    assert without(embedded, "check", "--project", str(project)).returncode == 0
    gateway = ("prometheus_client", "dotenv", "cryptography")
    done = without(gateway, "openmeter", "--data", "d", "--config", "none.yaml")
    assert "none.yaml: cannot be read" in done.stderr


# --- running and stopping


@pytest.fixture
def metered(tmp_path: Path, upstream: Server) -> Path:
    """A project that meters every request of anybody as "call"."""
    folder = tmp_path / "project"
    (folder / "modules").mkdir(parents=True)
    code = (
        "from metergate.runtime import User\n\n\ndef default(request, *_):\n"
        "    request.user = User('acme')\n    return request\n"
    )
    (folder / "modules" / "anybody.py").write_text(code)
    policies = [custom_policy("anybody", "anybody"), openmeter_policy(meter={"type": "call"})]
    routes = {"/(.*)": {"get": route(forward(upstream.url), inbound=["anybody", "metered"])}}
    return write_project(folder, routes, policies)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["run", "openmeter"])
def test_a_server_ends_with_status_0_when_it_is_asked_to(command, number, project, tmp_path, running):
    server = running(
        gateway_server(project) if command == "run" else openmeter_server(tmp_path / "new" / "data")
    )
    os.kill(server.pid, number)
    assert server._process.wait(STOP_SECONDS) == 0
    assert "Traceback" not in server.output()


def test_the_embedded_server_keeps_its_data_and_asks_for_its_token(tmp_path, running, call):
    env = {"METERGATE_OPENMETER_TOKEN": "s3cret"}
    server = running(openmeter_server(tmp_path / "data", METERS, env=env))
    assert call(server.url, "/api/v1/meters").status == 401
    event = {"specversion": "1.0", "id": "1", "source": "t", "type": "call", "subject": "acme"}
    kind = {"content-type": "application/cloudevents+json"}
    body = json.dumps(event).encode()
    assert (
        call(server.url, "/api/v1/events", method="POST", key="s3cret", headers=kind, body=body).status == 204
    )
    assert server.stop(STOP_SECONDS) == 0
    server.start()
    answer = call(server.url, "/api/v1/meters/calls/query", key="s3cret")
    assert [row["value"] for row in answer.json["data"]] == [1]
    assert "s3cret" not in server.output()


def test_the_embedded_server_says_what_it_has_loaded_and_what_it_has_passed_over(tmp_path, running):
    document = {**METERS, "features": [{"key": "f", "name": "F"}], "sink": {}, "Telemetry": {}}
    server = running(openmeter_server(tmp_path / "data", document))
    config = tmp_path / "data.config.yaml"
    first, second = [json.loads(line)["message"] for line in server.output().splitlines()]
    assert first == (
        f"serving OpenMeter's API on {server.url}, data in {tmp_path / 'data'}; "
        f"{config} asks for 1 meter, 1 feature, no customer, no entitlement"
    )
    assert second == f"passed over in {config}, because they mean nothing here: sink, Telemetry"


def test_events_of_a_gateway_that_is_stopped_while_openmeter_is_away_are_delivered_by_the_next_start(
    metered, tmp_path, openmeter, gateway, call, eventually
):
    store = openmeter(METERS)
    store.stop()
    spool = tmp_path / "elsewhere" / "spool"
    server = gateway(metered, spool=spool, env={"METERGATE_OPENMETER_URL": store.url})
    ids = [call(server.url, "/status/200").request_id for _ in range(20)]
    assert f'"openmeter":"{store.url}"' in server.output(), "the first line says where it meters into"
    assert server.stop(STOP_SECONDS) == 0
    kept = b"".join(path.read_bytes() for path in spool.glob("*/segments/*.jsonl"))
    assert sorted(json.loads(line)["id"] for line in kept.splitlines()) == sorted(
        f"{each}-call" for each in ids
    )
    assert not (metered / ".metergate" / "spool").exists()

    store.start()
    server.start()
    assert eventually(lambda: meter_total(store.url, "calls") == 20)
    assert all(len(events_with(store.url, each)) == 1 for each in ids)
    assert server.stop(STOP_SECONDS) == 0
    assert list(spool.glob("*/segments/*.jsonl")) == []


def test_a_request_in_flight_is_answered_and_metered_before_the_gateway_ends(
    metered, upstream, openmeter, gateway, call, eventually
):
    store = openmeter(METERS)
    server = gateway(metered, env={"METERGATE_OPENMETER_URL": store.url})
    replies: list[Any] = []
    caller = threading.Thread(target=lambda: replies.append(call(server.url, "/slow?seconds=0.5")))
    caller.start()
    eventually(lambda: any(seen["path"] == "/slow" for seen in call(upstream.url, "/seen").json))
    assert server.stop(STOP_SECONDS) == 0
    caller.join()
    assert [(reply.status, reply.body) for reply in replies] == [(200, b'{"slow":true}')]
    assert len(events_with(store.url, replies[0].request_id)) == 1


def test_a_stream_without_end_does_not_keep_a_gateway_from_ending(
    metered, upstream, gateway, call, eventually
):
    server = gateway(metered, env={"METERGATE_OPENMETER_URL": "http://127.0.0.1:1"})
    with socket.create_connection((HOST, server.port)) as client:
        client.sendall(b"GET /stream?chunks=10000&delay=0.05 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert server.stop(STOP_SECONDS) == 0


# --- dead letters


@pytest.fixture
def buried(metered: Path, tmp_path: Path, openmeter: Callable[..., Server]) -> tuple[Server, Path]:
    """OpenMeter, and a spool with two dead letters for it: an event, and a line that is none."""
    store = openmeter(METERS)
    spool = tmp_path / "spool"
    folder = make_folder(spool, describe(store.url, "local"), Files(), 0.0)
    event = {"specversion": "1.0", "id": "r-1-call", "source": "g", "type": "call", "subject": "acme"}
    graves = DeadLetterFiles(Files(), folder)
    for position, line in enumerate((json.dumps(event).encode(), b"\x00\x01")):
        graves.bury(new_letter(line, 400, "it was a bad day", ("segment", position), 1_800_000_000.0))
    return store, spool


def test_where_there_are_no_dead_letters_the_place_is_said_where_they_would_be(run, project):
    spool = project / ".metergate" / "spool"
    for command in ("list", "redrive"):
        done = run("deadletters", command, "--project", project)
        assert (done.returncode, done.stdout) == (0, f"no dead letters: there is no spool {spool} yet\n")
    spool.mkdir(parents=True)
    assert run("deadletters", "list", "--project", project).stdout == f"no dead letters in {spool}\n"


def test_dead_letters_are_listed_with_the_answer_and_sent_again_by_a_running_gateway(
    run, buried, metered, gateway, eventually
):
    store, spool = buried
    env = {"METERGATE_SPOOL": str(spool)}
    shown = run("deadletters", "list", "--project", metered, env={**env, "COLUMNS": "200"})
    assert shown.returncode == 0
    assert "r-1-call" in shown.stdout
    assert "it was a bad day" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "2 dead letters"
    rows = json.loads(run("deadletters", "list", "--project", metered, "--json", env=env).stdout)
    assert [(row["damaged"], row["status"], row["openmeter"]) for row in rows] == [
        (False, 400, store.url),
        (True, 400, store.url),
    ]
    assert rows[0]["event"]["id"] == "r-1-call"

    gateway(metered, spool=spool, env={"METERGATE_OPENMETER_URL": store.url})
    done = run("deadletters", "redrive", "--project", metered, env=env)
    assert (done.returncode, done.stdout.split()[:3]) == (0, ["1", "event", "put"])
    [event] = eventually(lambda: events_with(store.url, "r-1-call"))
    assert event["subject"] == "acme"
    left = json.loads(run("deadletters", "list", "--project", metered, "--json", env=env).stdout)
    assert [row["damaged"] for row in left] == [True]
    again = run("deadletters", "redrive", "--project", metered, env=env)
    assert again.stdout == "no event put back: what is left is damaged\n"
