"""What a demo started ends with it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metergate.cli.guard import end_groups
from metergate.testing.process_table import group_members

HOLDER = """
import sys
from pathlib import Path
from metergate.cli.guard import Guard
with Guard(Path(sys.argv[1])) as guard:
    for group in sys.argv[2:]:
        guard.watch(int(group))
    print("watching", flush=True)
    sys.stdin.read()
"""
SLEEPER = "import signal, sys, time; {}; print('up', flush=True); time.sleep(600)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], start_new_session=True, **pipes)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_what_is_watched_ends_when_the_one_who_started_it_is_killed(start, tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    sleepers = [start(SLEEPER.format("pass")) for _ in range(2)]
    holder = start(HOLDER, str(folder), *(str(sleeper.pid) for sleeper in sleepers))
    holder.kill()
    assert [sleeper.wait(30) for sleeper in sleepers] == [-signal.SIGTERM] * 2
    assert _gone(folder)


def test_what_does_not_end_when_it_is_asked_to_is_killed(start):
    orderly, deaf = start(SLEEPER.format("pass")), start(SLEEPER.format(DEAF))
    end_groups([orderly.pid, deaf.pid, 2**22 - 1], seconds=0.2)
    assert (orderly.wait(30), deaf.wait(30)) == (-signal.SIGTERM, -signal.SIGKILL)


def test_nothing_is_ended_after_an_orderly_end_and_the_guard_is_gone(start, tmp_path):
    sleeper = start(SLEEPER.format("pass"))
    holder = start(HOLDER, str(tmp_path), str(sleeper.pid))
    holder.communicate(timeout=30)
    assert holder.returncode == 0
    assert sleeper.poll() is None
    assert [member.pid for member in group_members(sleeper.pid)] == [sleeper.pid]
    assert tmp_path.is_dir()


def _gone(folder: Path) -> bool:
    deadline = time.monotonic() + 30
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not folder.exists()
