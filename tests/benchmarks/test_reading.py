"""The benchmark's arithmetic and what it reads off other tools: figures are worth what this is."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from benchmarks.clients import read_wrk
from benchmarks.machine import can_pin, cpu_seconds, on_core
from benchmarks.parts import per_call_us
from benchmarks.proxies import BARE, FULL, Contender, ratios
from benchmarks.report import Figure, Report, Section, middle, show, shown
from rich.console import Console

from benchmarks import middlewares
from metergate.testing.load import LoadReport
from metergate.testing.processes import Server

WRK = """Running 3s test @ http://127.0.0.1:18180/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   494.62us  329.29us   6.26ms   94.19%
    Req/Sec   104.40k    15.80k  132.38k    56.67%
  Latency Distribution
     50%  439.00us
     75%  631.00us
     90%  770.00us
     99%    1.26ms
  311406 requests in 3.00s, 59.69MB read
Requests/sec: 103758.14
Transfer/sec:     19.89MB
"""


def test_what_wrk_prints_is_read_with_its_units() -> None:
    report = read_wrk(WRK, 3)
    assert (report.requests, report.rate, report.failed) == (311_406, 103_758.14, 0)
    assert (report.p50_ms, report.p99_ms) == (pytest.approx(0.439), 1.26)
    assert report.statuses == {200: 311_406}


def test_refused_and_broken_requests_of_wrk_are_not_taken_for_answers() -> None:
    worse = WRK + "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 6\n"
    report = read_wrk(worse, 3)
    assert report.failed == 10
    assert report.statuses == {200: 311_400, 0: 6}


def test_output_that_is_not_wrks_is_an_error_that_shows_it() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        read_wrk("unable to connect to 127.0.0.1", 3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.1234, "0.123"),
        (12.345, "12.3"),
        (456.7, "457"),
        (12345.6, "12,346"),
        (2e6, "2,000,000"),
    ],
)
def test_figures_are_shown_with_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_middle_of_nothing_is_nothing() -> None:
    assert (middle([]), middle([3.0, 1.0, 2.0])) == (0.0, 2.0)


def test_a_report_shows_every_figure_and_saves_it(tmp_path: Path) -> None:
    section = Section("speed", (Figure("gateway", 15_000.0, "requests/s", "fast"),), ("medians",))
    console = Console(record=True, width=100)
    show(section, console)
    printed = console.export_text()
    assert all(part in printed for part in ("speed", "gateway", "15,000", "requests/s", "fast", "medians"))
    report = Report("a machine")
    report.add(section)
    report.save(tmp_path / "figures.json")
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["machine"] == "a machine"
    assert saved["sections"][0]["figures"][0]["value"] == 15_000.0


def test_ratios_are_of_the_medians_of_one_run(tmp_path: Path) -> None:
    def contender(name: str, *rates: float) -> Contender:
        rounds = [LoadReport(1, 0, 1.0, rate, 1.0, 1.0, 1.0, {200: 1}) for rate in rates]
        server = Server(["x"], url="http://h:1", ready="/", log=tmp_path / "log")
        return Contender(name, server, rounds=rounds, cpu_us=[1e3 / rate for rate in rates])

    found = ratios([contender(BARE, 90.0, 100.0, 1000.0), contender(FULL, 70.0, 80.0, 1.0)])
    assert [figure.value for figure in found] == [pytest.approx(0.7), pytest.approx(0.7)]
    assert found[0].goal == "0.75 or more"


def test_calls_that_take_longer_cost_more() -> None:
    assert per_call_us(lambda: sum(range(1000)), 50, 3) > per_call_us(lambda: None, 50, 3) > 0


@pytest.mark.skipif(not can_pin(), reason="needs two cores and a system that can pin to them")
def test_a_core_is_kept_for_the_block_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    with on_core(0):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_time_of_a_group_grows_as_it_works() -> None:
    before = cpu_seconds(os.getpgrp())
    while cpu_seconds(os.getpgrp()) < before + 0.02:
        socket.getaddrinfo("127.0.0.1", 80)
    assert cpu_seconds(2**22 + 1) == 0.0


def test_what_a_middleware_adds_is_told_from_the_route_and_in_times_of_ours() -> None:
    times = {name: [30.0, 70.0, 50.0] for name in middlewares.MIDDLEWARES}
    times |= {middlewares.BARE: [10.0], middlewares.FULL: [30.0]}
    shown_as = {figure.name: figure.value for figure in middlewares._figures(times)}
    assert shown_as[middlewares.BARE] == 10.0
    assert shown_as[f"+ {middlewares.FULL}"] == 20.0
    assert (shown_as["+ Moesif"], shown_as["Moesif, of Metergate's"]) == (40.0, 2.0)
