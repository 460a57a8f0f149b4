"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Project = Annotated[
    Path, typer.Option("--project", metavar="DIR", help="The project's folder: config/, modules/, .env.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Warnings are errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="The least that is logged.")
]
LogFormat = Annotated[
    Literal["auto", "json", "text"], typer.Option(help="auto is text on a terminal, JSON elsewhere.")
]
