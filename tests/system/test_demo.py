"""``metergate demo`` as a person meets it: at a terminal, in a pipe, and when it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metergate.testing.processes import HOST, free_port, metergate_command

STOP_SECONDS = 5.0
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LINE = re.compile(r"metered (\d+)\s+allowed (\d+)\s+denied (\d+)\s+delivered (\d+)\s+waiting (\d+)")
AT_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes its input the controlling terminal, so that Ctrl-C typed there is a signal."""


class Demo:
    """A running demo and what it has printed so far. ``columns`` is the width of its terminal, 0 a pipe."""

    def __init__(self, folder: Path, columns: int) -> None:
        self.folder = folder
        self.ports = [free_port() for _ in range(3)]
        names = ("--port", "--openmeter-port", "--upstream-port")
        options = [part for pair in zip(names, map(str, self.ports), strict=True) for part in pair]
        # What an operator has in his own environment must not reach into the demo.
        foreign = {"METERGATE_SPOOL": "/dev/null/spool", "METERGATE_OPENMETER_TOKEN": "s3cret"}
        env = {**os.environ, **foreign, "TMPDIR": str(folder), "TERM": "xterm-256color", "NO_COLOR": "1"}
        env.pop("COLUMNS", None)
        self.terminal, output = pty.openpty() if columns else os.pipe()
        if columns:
            fcntl.ioctl(output, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._printed = bytearray()
        at_terminal = [sys.executable, "-c", AT_TERMINAL] if columns else []
        self.process = subprocess.Popen(
            [*at_terminal, *metergate_command("demo", *options)],
            stdin=output if columns else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,
        )
        os.close(output)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:  # a terminal whose last user is gone
                return
            if not data:
                return
            self._printed += data

    @property
    def text(self) -> str:
        return ANSI.sub("", self._printed.decode("utf-8", "replace")).replace("\r", "\n")

    def commands(self) -> list[str]:
        """The lines to copy: those that are indented, without their indent."""
        begin = self.text.index("Copy lines")
        lines = self.text[begin : self.text.index("Ctrl-C")].splitlines()
        return [line[2:] for line in lines if line.startswith("  ") and not line.startswith("  #")]

    def figures(self) -> tuple[int, ...]:
        """Of the newest line."""
        return tuple(map(int, LINE.findall(self.text)[-1]))

    def wait(self) -> int:
        status = self.process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        os.close(self.terminal)

    def left_behind(self) -> list[str]:
        """Files, processes and listeners that are still there."""
        files = [str(path) for path in self.folder.iterdir()]
        listeners = [f"port {port}" for port in self.ports if _answers(port)]
        return files + listeners + _processes_with(str(self.folder))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _processes_with(text: str) -> list[str]:
    """Processes in whose environment that text is; on Linux."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Demo]]:
    demos: list[Demo] = []

    def launch(columns: int) -> Demo:
        demos.append(Demo(tmp_path_factory.mktemp("tmp"), columns))
        return demos[-1]

    yield launch
    for demo in demos:
        demo.close()


@pytest.fixture(scope="module")
def terminal(start: Callable[[int], Demo], eventually: Callable[..., Any]) -> Demo:
    """A demo at a narrow terminal, ready."""
    demo = start(50)
    eventually(lambda: LINE.search(demo.text) or demo.process.poll() is not None, 40)
    return demo


def bash(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=40, check=False)
    return done.stdout


def command_with(demo: Demo, text: str) -> str:
    [command] = [command for command in demo.commands() if text in command]
    return command


def test_every_line_to_copy_is_whole_also_on_a_narrow_terminal(terminal):
    gateway, openmeter, _ = (f"http://{HOST}:{port}" for port in terminal.ports)
    commands = terminal.commands()
    keys = {name: key for name, _, key in (command.partition("=") for command in commands[:2])}
    assert list(keys) == ["ACME", "TINY"]
    assert all(re.fullmatch(r"mg_[A-Za-z0-9]{43}", key) for key in keys.values())
    answers = f'curl -fs -o /dev/null -w "%{{http_code}}\\n" -H "Authorization: Bearer {keys["TINY"]}" {gateway}/hello'
    assert commands[2:] == [
        f'curl -i -H "Authorization: Bearer {keys["ACME"]}" {gateway}/hello',
        f"while {answers}; do :; done",
        f"curl -i {gateway}/hello",
        f"curl -s '{openmeter}/api/v1/meters/api-request/query?groupBy=subject'",
        f"curl -s '{openmeter}/api/v1/events?limit=5'",
        f"curl -s {openmeter}/api/v1/customers/tiny/access",
        f"curl -s {gateway}/__metergate/health",
    ]


def test_the_printed_lines_do_what_they_say_and_the_figures_move(terminal, eventually):
    metered = bash(command_with(terminal, "curl -i -H"))
    assert metered.startswith("HTTP/1.1 200 ")
    refused = bash(command_with(terminal, "curl -i http"))
    assert refused.startswith("HTTP/1.1 401 ")
    codes = bash(command_with(terminal, "while curl")).split()
    assert codes[-1] == "403"
    assert set(codes[:-1]) == {"200"}
    assert len(codes) > 3
    passed = 1 + len(codes) - 1
    assert eventually(lambda: terminal.figures() == (passed, passed, 1, passed, 0))

    usage = json.loads(bash(command_with(terminal, "groupBy=subject")))
    values: dict[str, int] = {}
    for row in usage["data"]:
        values[row["subject"]] = values.get(row["subject"], 0) + row["value"]
    assert values == {"acme": 1, "tiny": passed - 1}
    assert len(json.loads(bash(command_with(terminal, "events?limit=5")))) == min(5, passed)
    access = json.loads(bash(command_with(terminal, "tiny/access")))
    assert access["entitlements"]["api-request"]["hasAccess"] is False
    assert json.loads(bash(command_with(terminal, "__metergate/health")))["status"] == "ok"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_it_all_and_nothing_stays(terminal):
    assert terminal.left_behind() != []
    os.write(terminal.terminal, b"\x03")
    assert terminal.wait() == 0
    assert terminal.left_behind() == []
    assert "Traceback" not in terminal.text


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_in_a_pipe_it_prints_plain_lines_when_something_has_changed_and_sigterm_ends_it(
    start, eventually, call
):
    demo = start(0)
    eventually(lambda: LINE.search(demo.text), 40)
    assert b"\x1b" not in bytes(demo._printed)
    [line] = [command for command in demo.commands() if "curl -i -H" in command]
    bash(line)
    assert eventually(lambda: demo.figures()[:4] == (1, 1, 0, 1))
    assert len(LINE.findall(demo.text)) <= 3
    demo.process.send_signal(signal.SIGTERM)
    assert demo.wait() == 0
    assert demo.left_behind() == []
    assert demo.text.splitlines()[-1] == "stopping; what is recorded is delivered first"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_demo_that_is_killed_takes_its_servers_and_its_folder_with_it(start, eventually):
    demo = start(0)
    eventually(lambda: LINE.search(demo.text), 40)
    demo.process.kill()
    demo.process.wait(STOP_SECONDS)
    assert eventually(lambda: demo.left_behind() == [], 20)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_demo_that_is_stopped_while_it_starts_leaves_nothing_behind(number, start, eventually):
    demo = start(0)
    eventually(lambda: any(demo.folder.glob("metergate-demo-*/data")))
    demo.process.send_signal(number)
    began = time.monotonic()
    assert demo.wait() == 0
    assert time.monotonic() - began < STOP_SECONDS
    assert demo.left_behind() == []
