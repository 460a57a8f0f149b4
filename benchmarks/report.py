"""Figures, and how they are shown: tables for people, JSON for comparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. ``goal`` says in words what it should be; nothing is asserted."""

    name: str
    value: float
    unit: str
    goal: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Figures under one heading. ``notes`` say under what conditions they came about."""

    title: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """All that one run has measured."""

    machine: str
    sections: list[Section] = field(default_factory=list)

    def add(self, section: Section) -> None:
        self.sections.append(section)

    def save(self, file: Path) -> None:
        """Write every figure as JSON."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def show(section: Section, console: Console) -> None:
    """Print one section as a table."""
    table = Table(title=section.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("figure", justify="right")
    table.add_column("unit", no_wrap=True)
    table.add_column("goal", no_wrap=True)
    for figure in section.figures:
        table.add_row(figure.name, shown(figure.value), figure.unit, figure.goal)
    console.print(table)
    for note in section.notes:
        console.print(f"  {note}", style="dim", soft_wrap=True)
    console.print()


def shown(value: float) -> str:
    """Three significant digits, thousands apart, no exponent."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def middle(values: Sequence[float]) -> float:
    """The median; 0 of none."""
    return median(values) if values else 0.0
