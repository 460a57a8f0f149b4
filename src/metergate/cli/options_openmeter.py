"""Options of the commands that work on the data of an embedded OpenMeter."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

TOKEN_VARIABLE = "METERGATE_OPENMETER_TOKEN"  # noqa: S105  # the name of a variable
URL = "http://127.0.0.1:8888"

Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The data folder of an embedded OpenMeter that is not running."),
]
Url = Annotated[
    str,
    typer.Option(
        metavar="URL", help=f"The running one, where no --data is named; with {TOKEN_VARIABLE} as its token."
    ),
]


def token() -> str | None:
    """The bearer token of the embedded OpenMeter."""
    return os.environ.get(TOKEN_VARIABLE) or None


def progress(unit: str) -> Progress:
    """A bar on standard error with how many ``unit`` there were, how many a second, and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]:,} " + unit + ", {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    )
