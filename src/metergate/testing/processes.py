"""Metergate's servers as real processes, for tests of your own project and for measuring.

    with openmeter_server(tmp_path / "data", {"meters": [...]}) as openmeter, upstream_server() as api:
        with gateway_server(project, env={"OPENMETER_URL": openmeter.url, "API_URL": api.url}) as gateway:
            ...

Each runs in a process group of its own on a free port of 127.0.0.1, is waited for until it answers, and
leaves nothing behind when it is stopped or killed. One that does not come up raises `ServerFailed` with its
last output.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from metergate.testing.process_table import group_members

HOST = "127.0.0.1"
_PORTS = (16_000, 32_000)
_TAIL_LINES = 40
_POLL_SECONDS = 0.02


class ServerFailed(RuntimeError):  # reads as what happened
    """A server did not start, or did not stop. The message holds its command, exit status and last output."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now.

    Below the range that outgoing connections take their ports from: a server that is restarted on its port
    finds it free again, and a client that tries meanwhile cannot connect to itself.
    """
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


class Server:
    """One server process and its children. Also a context manager that starts and stops it.

    Args:
        command: what to run. Its output goes to ``log``, appended to over restarts.
        url: where it listens, without a slash at the end.
        ready: the path that answers below 500 as soon as the server serves.
        log: a file for its output; its folder is made.
        env: variables on top of the environment of this process; None as a value takes one away.
        start_timeout: seconds that a start may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        url: str,
        ready: str,
        log: Path,
        env: Mapping[str, str | None] | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        self.command = [str(part) for part in command]
        self.url = url
        self.log = log
        self._ready = ready
        self._env = env or {}
        self.start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._swept = False

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    @property
    def pid(self) -> int:
        """The main process; also the id of the group. Raises `ServerFailed` when it was not started."""
        if self._process is None:
            raise ServerFailed(f"{self} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the main process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and wait until it answers. Raises `ServerFailed`; what was started is ended then."""
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start without waiting."""
        if self.running:
            raise ServerFailed(f"{self} runs already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  # a command of the caller's own
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        self._swept = False
        atexit.register(self.kill)

    def wait_ready(self) -> None:
        """Wait until the server answers on its ready path. Raises `ServerFailed`."""
        deadline = time.monotonic() + self.start_timeout
        while not self._answers():
            if not self.running:
                raise ServerFailed(self._report(f"ended with status {self._exit_status()} before it served"))
            if time.monotonic() > deadline:
                raise ServerFailed(self._report(f"did not serve {self._ready} in {self.start_timeout:g} s"))
            time.sleep(_POLL_SECONDS)

    def stop(self, timeout: float = 15.0) -> int:
        """End it the orderly way (SIGTERM) and give its exit status; what is left of its group is killed.

        Raises `ServerFailed` when it has not ended after ``timeout`` seconds (it is killed then).
        """
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(self._report(f"did not end within {timeout:g} s of SIGTERM")) from None
        self.kill()
        return status

    def kill(self) -> None:
        """``kill -9`` of the whole group, main process and workers; returns when none of them lives."""
        if self._process is None or self._swept:
            return
        while group_members(self._process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS / 4)
        self._process.wait()
        self._swept = True  # from here on the number may name a stranger's group
        atexit.unregister(self.kill)

    def restart(self) -> None:
        """Start again on the same port and files, after an orderly stop if it still runs."""
        if self.running:
            self.stop()
        else:
            self.kill()
        self.start()

    def workers(self) -> list[int]:
        """The process ids of the worker processes: the main process's own children that serve."""
        return [
            member.pid
            for member in group_members(self.pid)
            if member.parent == self.pid and "resource_tracker" not in member.command
        ]

    def kill_worker(self, index: int = 0) -> int | None:
        """``kill -9`` one worker; its process id, or None when there is no such worker right now."""
        workers = self.workers()
        if not workers:
            return None
        victim = workers[index % len(workers)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        return victim

    def output(self) -> str:
        """All that it has printed so far, over restarts."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{' '.join(self.command[:4])} … on {self.url}, {state}>"

    def _environment(self) -> dict[str, str]:
        merged: dict[str, str | None] = {**os.environ, "PYTHONUNBUFFERED": "1", **self._env}
        return {name: value for name, value in merged.items() if value is not None}

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2.0)
        try:
            connection.request("GET", self._ready)
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _exit_status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _report(self, what: str) -> str:
        tail = "\n".join(f"  | {line}" for line in self.output().splitlines()[-_TAIL_LINES:])
        return f"`{' '.join(self.command)}` {what}; its last output:\n{tail or '  (none)'}"


def metergate_command(*arguments: str | Path) -> list[str]:
    """The ``metergate`` command line of this very interpreter's installation."""
    script = Path(sys.executable).with_name("metergate")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "metergate"]
    return [*start, *(str(argument) for argument in arguments)]


def openmeter_server(
    data: Path,
    config: Mapping[str, Any] | None = None,
    *,
    port: int | None = None,
    env: Mapping[str, str | None] | None = None,
    visibility_delay: float = 0.0,
) -> Server:
    """An embedded OpenMeter over the folder ``data``, not started yet.

    ``config`` is what ``--config`` takes: ``meters``, ``features``, ``customers``, ``entitlements``.
    ``visibility_delay``: seconds after which it sees what it has acknowledged.
    """
    port = port or free_port()
    data.mkdir(parents=True, exist_ok=True)
    command = metergate_command("openmeter", "--data", data, "--port", str(port))
    if config is not None:
        file = data.with_name(f"{data.name}.config.yaml")
        file.write_bytes(msgspec.json.encode(config))  # JSON is YAML too
        command += ["--config", str(file)]
    if visibility_delay:
        command += ["--visibility-delay", str(visibility_delay)]
    return Server(
        command,
        url=f"http://{HOST}:{port}",
        ready="/api/v1/meters",
        log=data.with_name(f"{data.name}.log"),
        env=env,
    )


def gateway_server(
    project: Path,
    *,
    workers: int = 1,
    port: int | None = None,
    spool: Path | None = None,
    env: Mapping[str, str | None] | None = None,
) -> Server:
    """A gateway that runs the project in the folder ``project``, not started yet.

    ``spool`` is where its events wait (default ``.metergate/spool`` in the project), ``env`` what
    ``$env(...)`` finds, OPENMETER_API_KEY being there already.
    """
    port = port or free_port()
    command = metergate_command("run", "--project", project, "--port", str(port), "--workers", str(workers))
    settings: dict[str, str | None] = {"OPENMETER_API_KEY": "local"}  # any, for an OpenMeter without accounts
    if spool is not None:
        settings["METERGATE_SPOOL"] = str(spool)
    return Server(
        command,
        url=f"http://{HOST}:{port}",
        ready="/__metergate/health",
        log=project / ".metergate" / "gateway.log",
        env={**settings, **(env or {})},
    )


def upstream_server(
    log: Path | None = None, *, port: int | None = None, journal: Path | None = None
) -> Server:
    """The API of `metergate.testing.upstream`, not started yet. ``journal`` is a file for what it was asked."""
    port = port or free_port()
    command = [sys.executable, "-m", "metergate.testing.upstream", "--port", str(port)]
    return Server(
        command if journal is None else [*command, "--journal", str(journal)],
        url=f"http://{HOST}:{port}",
        ready="/status/200",
        log=log or Path(os.devnull),
    )
