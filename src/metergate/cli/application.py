"""All commands together, and how their failures are said: one line for each thing wrong, exit status 2, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import typer

from metergate.cli import check, deadletters, demo, keys, openmeter
from metergate.cli import run as run_command
from metergate.cli.extras import advice
from metergate.cli.options import OnProject
from metergate.errors import ConfigurationError, MetergateError

application = typer.Typer(
    name="metergate",
    help="Meter API requests as CloudEvents for OpenMeter and let in only whom an entitlement allows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
application.command("run", cls=OnProject)(run_command.run)
application.add_typer(openmeter.application, name="openmeter")
application.command("check", cls=OnProject)(check.check)
application.add_typer(keys.application, name="keys")
application.add_typer(deadletters.application, name="deadletters")
application.command("demo")(demo.demo)


@application.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("metergate"))
        raise typer.Exit


def run() -> int:
    """Run what the command line says; the exit status."""
    try:
        application(standalone_mode=True)
    except BrokenPipeError:
        _close_output()  # whoever read the output has seen enough
        return 1
    except (MetergateError, OSError, ModuleNotFoundError) as wrong:
        lines = list(_said(wrong))
        if not lines:
            raise
        print("\n".join(lines), file=sys.stderr)
        return 2
    return 0


def _said(wrong: Exception) -> Iterator[str]:
    """A line for each thing wrong; none for what is a mistake of ours."""
    match wrong:
        case ConfigurationError(findings=findings):
            yield from (_line(str(finding)) for finding in findings)
        case ModuleNotFoundError():
            if (text := advice(wrong)) is not None:
                yield text
        case OSError(filename=file, strerror=why) if file is not None:
            fix = (
                " Give this user access, or name another place." if isinstance(wrong, PermissionError) else ""
            )
            yield f"error: {file}: {why}.{fix}"
        case MetergateError():
            # The first line is ours; what may follow is the last output of a server that did not start.
            first, *rest = str(wrong).split("\n")
            yield "\n".join([f"error: {first}", *rest])
        case _:
            yield f"error: {wrong}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _close_output() -> None:
    """Let the interpreter's last flush go nowhere instead of failing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
