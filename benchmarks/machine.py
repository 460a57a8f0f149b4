"""Cores and CPU time: who runs where, and what it has used."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from metergate.testing.process_table import group_members

MEASURED = 0
"""The core of what is measured."""
OTHERS = 1
"""The core of all that serves the measurement: load, upstream, sinks."""


def can_pin() -> bool:
    """Whether there are two cores to give away on this system."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) >= 2


@contextlib.contextmanager
def on_core(which: int) -> Iterator[None]:
    """This thread, and all that it starts meanwhile, on core number ``which`` of those we may use."""
    if not can_pin():
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[which]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def cpu_seconds(group: int) -> float:
    """User and system time of the living processes of a group; 0 where /proc does not tell."""
    ticks = 0
    for member in group_members(group):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{member.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def describe() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    pinned = "measured process and load on a core each" if can_pin() else "nothing pinned to a core"
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {pinned}"
