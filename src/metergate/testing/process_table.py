"""Which processes of a group live, from /proc where there is one and from ``ps`` elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Member:
    """A living process of a group. ``command`` is its command line, joined with blanks."""

    pid: int
    parent: int
    command: str


def group_members(group: int) -> list[Member]:
    """The living processes of the process group ``group``, by process id; a zombie does not count."""
    source = _from_proc(group) if (_PROC / "self/stat").exists() else _from_ps(group)
    return sorted(source, key=lambda member: member.pid)


def _from_proc(group: int) -> Iterator[Member]:
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state, parent, its_group = parse_stat((folder / "stat").read_text("utf-8", "replace"))
            if its_group == group and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                yield Member(int(folder.name), parent, command)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked


def parse_stat(line: str) -> tuple[str, int, int]:
    """State, parent and group from ``/proc/<pid>/stat``; the name in it may hold blanks and brackets."""
    state, parent, group = line[line.rindex(")") + 2 :].split(" ", 3)[:3]
    return state, int(parent), int(group)


def _from_ps(group: int) -> Iterator[Member]:
    command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    for line in listing.splitlines():
        pid, parent, its_group, state, *rest = line.split(None, 4)
        if int(its_group) == group and not state.startswith("Z"):
            yield Member(int(pid), int(parent), " ".join(rest))
