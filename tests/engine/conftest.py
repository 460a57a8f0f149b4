"""Engines of real policies: events go to a spool on disk or to an OpenMeter in a thread."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metergate.engine import Backends, Engine
from metergate.policy import read_options

NOBODY = "http://127.0.0.1:9"


class Bench:
    """Backends over a spool in a folder of their own; `events` reads what is in it, as another process would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backends = Backends(folder)

    def engine(self, name: str = "metered", **options: Any) -> Engine:
        defaults = {"apiUrl": NOBODY, "apiKey": "hush", "meter": {"type": "call"}}
        policy, findings = read_options({**defaults, **options}, name=name)
        assert policy is not None, [str(finding) for finding in findings]
        return Engine(policy, self.backends)

    def events(self) -> list[dict[str, Any]]:
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        lines = [line for file in files for line in file.read_bytes().splitlines()]
        return [json.loads(line) for line in lines if b"specversion" in line]

    def ids(self) -> list[str]:
        return sorted(event["id"] for event in self.events())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool")
    yield made
    made.backends.drain(0)


@pytest.fixture(scope="session")
def new_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    """Makes one for each example of a property."""
    return lambda: Bench(tmp_path_factory.mktemp("spool"))
