"""Who cleans up after a demo that is killed: a process of its own that outlives it, on any system.

The demo tells it through a pipe which servers it has started. When the pipe ends without a word, the demo was killed
(`kill -9`, out of memory): the guard stops the servers the orderly way, kills what is left of them, and removes the folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from metergate.testing.process_table import group_members

_DONE = "done"
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05


class Guard:
    """The demo's side of it. While open, whatever was handed to `watch` ends with this process, as does ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "metergate.cli.guard", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # what ends the demo's terminal or group does not end it
        )
        return self

    def watch(self, group: int) -> None:
        """Another process group, named by its first process."""
        self._say(str(group))

    def __exit__(self, *exc_info: object) -> None:
        self._say(_DONE)
        if self._process is not None:
            with suppress(BrokenPipeError):
                self._process.communicate()

    def _say(self, word: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it was killed; the demo goes on without
                self._process.stdin.write(f"{word}\n")
                self._process.stdin.flush()


def main() -> None:
    """The guard: reads until the demo ends, one way or the other."""
    words = sys.stdin.read().split()
    if words[-1:] == [_DONE]:
        return
    end_groups([int(word) for word in words if word.isdecimal()])
    shutil.rmtree(sys.argv[1], ignore_errors=True)


def end_groups(groups: Sequence[int], seconds: float = _STOP_SECONDS) -> None:
    """SIGTERM to the first process of each, then `kill -9` of all that is left of them after ``seconds``."""
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(group, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while any(group_members(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for group in groups:
        while group_members(group):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main()
