"""Callers log what they saw complete, and nothing else as complete."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from metergate.testing.callers import Call, Callers, Ledger
from metergate.testing.processes import Server, free_port, upstream_server


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Server]:
    with upstream_server(tmp_path / "log", journal=tmp_path / "journal") as server:
        yield server


def _call_for(seconds: float, url: str, *calls: Call, patience: float = 20.0) -> Ledger:
    async def run() -> Ledger:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, over.set)
        return await Callers(url, calls, concurrency=4, seed=7, patience=patience).run(over)

    return asyncio.run(run())


def test_every_answer_that_arrived_whole_is_logged_with_its_tag(api: Server, tmp_path: Path) -> None:
    calls = [Call("/bytes?n=200000"), Call("/stream?chunks=3&size=9"), Call("/status/404", status=404)]
    ledger = _call_for(0.3, api.url, *calls, Call("/echo", "POST", b"hello"))
    journal = (tmp_path / "journal").read_text().splitlines()
    asked = sorted(int(line.split("\t")[1].rpartition("tag=")[2]) for line in journal if "tag=" in line)
    assert len(ledger.complete) > 20
    assert sorted(ledger.complete) == asked == list(range(ledger.sent))
    assert ledger.in_doubt == set()
    assert not ledger.unexpected()


def test_answers_that_break_off_stay_in_doubt(api: Server) -> None:
    ledger = _call_for(0.2, api.url, Call("/cut?size=10"))
    assert ledger.complete == {}
    assert ledger.in_doubt == set(range(ledger.sent))
    assert ledger.failures["cut"] + ledger.failures["ConnectionResetError"] == ledger.sent


def test_an_answer_that_does_not_come_is_given_up_in_doubt(api: Server) -> None:
    ledger = _call_for(0.05, api.url, Call("/slow?seconds=5"), patience=0.1)
    assert len(ledger.in_doubt) == ledger.failures["TimeoutError"] == ledger.sent > 0


def test_an_unexpected_status_is_told(api: Server) -> None:
    ledger = _call_for(0.1, api.url, Call("/status/500"))
    assert ledger.unexpected() == {("/status/500", 500): len(ledger.complete)}


def test_nobody_there_is_no_request_sent() -> None:
    ledger = _call_for(0.1, f"http://127.0.0.1:{free_port()}", Call("/"))
    assert ledger.sent == 0
    assert ledger.failures["refused"] > 0
