"""The load: wrk where it is installed, otherwise our own generator."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping

import msgspec

from benchmarks.machine import OTHERS, on_core
from metergate.testing.load import LoadReport

CONNECTIONS = 64

_TO_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3}


def generator() -> str:
    """Which one will be used, in words."""
    return "load: wrk" if shutil.which("wrk") else "load: metergate.testing.load (no wrk installed)"


def measure(url: str, seconds: float, headers: Mapping[str, str] | None = None) -> LoadReport:
    """Load with `CONNECTIONS` connections for that time, from the core of the others."""
    wrk = shutil.which("wrk")
    fields = [f"{name}: {value}" for name, value in (headers or {}).items()]
    options = [part for field in fields for part in ("-H", field)]
    if wrk is None:
        own = [
            sys.executable,
            "-m",
            "metergate.testing.load",
            url,
            "-c",
            str(CONNECTIONS),
            "-d",
            str(seconds),
        ]
        return msgspec.json.decode(_output([*own, *options]), type=LoadReport)
    duration = max(1, round(seconds))
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", "--latency", *options, url]
    return read_wrk(_output(command).decode(), duration)


def _output(command: list[str]) -> bytes:
    with on_core(OTHERS):
        return subprocess.run(command, check=True, capture_output=True).stdout


def read_wrk(output: str, seconds: float) -> LoadReport:
    """What ``wrk --latency`` has printed."""
    requests = int(_found(r"(\d+) requests in", output))
    refused = int(_found(r"Non-2xx or 3xx responses: (\d+)", output, "0"))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    return LoadReport(
        requests=requests,
        failed=sum(map(int, errors.groups())) if errors else 0,
        seconds=seconds,
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", output)),
        p50_ms=_milliseconds("50%", output),
        p99_ms=_milliseconds("99%", output),
        max_ms=0.0,
        statuses={200: requests - refused, 0: refused} if refused else {200: requests},
    )


def _found(pattern: str, output: str, otherwise: str | None = None) -> str:
    match = re.search(pattern, output)
    if match is None and otherwise is None:
        raise ValueError(f"wrk has printed something else:\n{output}")
    return match[1] if match else otherwise or ""


def _milliseconds(label: str, output: str) -> float:
    match = re.search(rf"^\s+{re.escape(label)}\s+([\d.]+)(us|ms|s|m)\b", output, re.MULTILINE)
    return float(match[1]) * _TO_MS[match[2]] if match else 0.0
