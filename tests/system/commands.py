"""The commands of ``metergate``, each in a process of its own that is forked from one which has imported them all.

What a command does is the same; that every one of them comes up without this is for tests that start the real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

SECONDS = 60
"""So long a command may take."""


class Commands:
    """``run("check", "--json")``, while open."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def run(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command, run to its end in this process's environment and ``env``."""
        words = [str(argument) for argument in arguments]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            wanted = {"words": words, "env": {**os.environ, **(env or {})}, "folder": folder}
            self._process.stdin.write(json.dumps(wanted) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            out, error = (Path(folder, name).read_text("utf-8") for name in ("out", "error"))
        return subprocess.CompletedProcess(words, status, out, error)


def serve() -> None:
    """The process that forks: a line in for each command, its exit status out."""
    import metergate.cli.application
    import metergate.embedded.server
    import metergate.gateway.server  # noqa: F401  # all that a command imports by itself

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(wanted: Mapping[str, Any]) -> None:
    """Be the command. Raises SystemExit."""
    signal.alarm(SECONDS)
    for descriptor, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(Path(wanted["folder"], name), os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = ["metergate", *wanted["words"]]
    from metergate.cli import main

    main()


if __name__ == "__main__":
    serve()
