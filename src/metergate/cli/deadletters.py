"""``metergate deadletters``: the events that OpenMeter refused, and how to send them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from metergate.cli.options import AsJson, OnProject, Project
from metergate.errors import UsageError

if TYPE_CHECKING:
    from metergate.delivery.dead_letters import DeadLetter
    from metergate.delivery.destination import Folder

application = typer.Typer(help="Events that OpenMeter refused one by one.", no_args_is_help=True)


def _spool(project: Path) -> Path:
    from metergate.gateway.environment import read_environment
    from metergate.gateway.server import SPOOL_VARIABLE, spool_directory

    if not project.is_dir():
        raise UsageError(f"{project} is not a folder: name a project's folder with --project DIR")
    environment = read_environment(project)
    if not environment.get(SPOOL_VARIABLE) and not (project / "config").is_dir():
        raise UsageError(f"{project / 'config'} is not there: name a project's folder with --project DIR")
    return spool_directory(project, environment)


def _nothing(spool: Path) -> str:
    """Why there is none, so that a wrong folder shows."""
    return (
        f"no dead letters in {spool}" if spool.is_dir() else f"no dead letters: there is no spool {spool} yet"
    )


@application.command("list", cls=OnProject)
def list_letters(project: Project = Path(), as_json: AsJson = False) -> None:
    """The refused events of a project, oldest first, with OpenMeter's answer."""
    from metergate.delivery.dead_letters import dead_letters

    spool = _spool(project)
    rows = [_row(folder, letter) for folder, letter in dead_letters(spool)]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        print(_nothing(spool))
        return
    table = Table("refused", "OpenMeter", "status", "event", "why")
    for row in rows:
        event = row["event"]
        name = event["id"] if isinstance(event, dict) and "id" in event else "damaged"
        table.add_row(row["time"], row["openmeter"], str(row["status"]), str(name), row["detail"])
    Console().print(table)
    print(f"{len(rows)} dead letter{'' if len(rows) == 1 else 's'}")


def _row(folder: Folder, letter: DeadLetter) -> dict[str, Any]:
    """``event`` is the event, or base64 of a line that is no JSON."""
    return {
        "time": letter.time,
        "openmeter": folder.destination.url,
        "status": letter.status,
        "detail": letter.detail,
        "event": letter.damaged if letter.is_damaged else json.loads(letter.event_bytes),
        "damaged": letter.is_damaged,
    }


@application.command(cls=OnProject)
def redrive(project: Project = Path()) -> None:
    """Put the refused events back into the spool, ids unchanged. A running gateway sends them within seconds."""
    from metergate.delivery.dead_letters import dead_letters
    from metergate.delivery.dead_letters import redrive as put_back

    spool = _spool(project)
    count = put_back(spool)
    if not count:
        print(
            _nothing(spool) if not any(dead_letters(spool)) else "no event put back: what is left is damaged"
        )
        return
    print(
        f"{count} event{'' if count == 1 else 's'} put back; sent by the running gateway or at its next start"
    )
