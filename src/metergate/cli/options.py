"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

Project = Annotated[
    Path, typer.Option("--project", metavar="DIR", help="The project's folder: config/, modules/, .env.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Warnings are errors.")]


class OnProject(TyperCommand):
    """A command whose only folder is the project: ``metergate check shop`` says how that is written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and Path(args[0]).is_dir():
            ctx.fail(f"A folder is named by an option: --project {args[0]}")
        return super().parse_args(ctx, args)


AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="The least that is logged.")
]
LogFormat = Annotated[
    Literal["auto", "json", "text"], typer.Option(help="auto is text on a terminal, JSON elsewhere.")
]
