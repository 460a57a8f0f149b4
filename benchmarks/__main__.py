"""``python -m benchmarks [--json FILE] [--quick] [--only NAME …]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import holding, ingest, inside, middlewares, parts, proxies, store, streams, subjects, tokens
from benchmarks.machine import describe
from benchmarks.report import Report, Section, show


def main() -> None:
    """Measure, print as it goes, save at the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every figure there too")
    parser.add_argument(
        "--quick", action="store_true", help="short rounds: to see that it works, not for figures"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(_sections(Path(), quick=True)), help="some sections"
    )
    chosen = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    report = Report(describe())
    console.print(report.machine, style="dim")
    with tempfile.TemporaryDirectory(prefix="metergate-bench-") as folder:
        for name, measure in _sections(Path(folder), quick=chosen.quick).items():
            if chosen.only is None or name in chosen.only:
                section = measure()
                report.add(section)
                show(section, console)
    if chosen.json is not None:
        report.save(chosen.json)


def _sections(folder: Path, *, quick: bool) -> dict[str, Callable[[], Section]]:
    rounds, seconds = (1, 1.0) if quick else (5, 4.0)
    calls = 2_000 if quick else 20_000
    batches = {1: 1_000, 100: 20_000, 1000: 50_000} if quick else {1: 10_000, 100: 200_000, 1000: 500_000}
    return {
        "forwarding": lambda: proxies.forwarding(folder, rounds, seconds),
        "streams": lambda: streams.first_bytes(folder, looks=10 if quick else 100),
        "looking": lambda: streams.looking_along(rounds),
        "inside": lambda: inside.inside(folder, calls, rounds),
        "middleware": lambda: middlewares.adding(folder / "middleware", calls // 4, rounds),
        "pieces": lambda: parts.pieces(folder, calls, rounds),
        "sending": lambda: parts.sending(folder, 10_000 if quick else 200_000, min(rounds, 3)),
        "store": lambda: store.storing(folder / "store", 100_000 if quick else 1_000_000, calls // 10),
        "store10": lambda: store.storing(folder / "store10", 200_000 if quick else 10_000_000, calls // 10),
        "ingest": lambda: ingest.ingesting(folder, batches, min(rounds, 3)),
        "limits": lambda: holding.holding(folder / "limits", quick=quick),
        "tokens": lambda: tokens.tokens(folder / "tokens", quick=quick),
        "subjects": lambda: subjects.subjects(folder / "subjects", quick=quick),
    }


if __name__ == "__main__":
    main()
