"""``metergate keys``: API keys of a project's consumers. The file holds hashes; a key is shown once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from metergate.cli.options import AsJson, Project
from metergate.errors import UsageError

if TYPE_CHECKING:
    from metergate.gateway.consumers import Consumer

application = typer.Typer(help="API keys of a project's consumers.", no_args_is_help=True)


def _file(project: Path) -> Path:
    if not (project / "config").is_dir():
        raise UsageError(f"{project / 'config'} is not there: name a project's folder with --project DIR")
    return project / "config" / "consumers.json"


@application.command()
def create(
    name: Annotated[str, typer.Argument(help="The consumer; becomes request.user.sub.")],
    project: Project = Path(),
    metadata: Annotated[
        str | None, typer.Option(metavar="JSON", help="An object; becomes request.user.data.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="RFC 3339, 2027-01-01T00:00:00Z; never by default.")
    ] = None,
) -> None:
    """Print a new key, once, and store its hash in config/consumers.json. A running gateway takes it within a second."""
    from metergate.gateway.consumers import create_key

    file = _file(project)
    before = next((consumer for consumer in _consumers(file) if consumer.name == name), None)
    wanted = _object(metadata)
    key, entry = create_key(file, name, wanted, expires=_time(expires) if expires is not None else None)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"key {entry.id} of consumer {name}; it is shown this once, only its hash is kept")
    if before is not None and before.keys and wanted is not None and wanted != before.metadata:
        console.print(
            f"warning: metadata belong to the consumer: the {len(before.keys)} other key(s) of {name} have the new ones too"
        )
    print(key)


def _consumers(file: Path) -> list[Consumer]:
    from metergate.gateway.consumers import read_document

    return read_document(file.read_bytes(), str(file)).consumers if file.exists() else []


def _object(metadata: str | None) -> dict[str, Any] | None:
    if metadata is None:
        return None
    try:
        value = json.loads(metadata)
    except ValueError as wrong:
        raise UsageError(f'--metadata is not JSON ({wrong}): write an object, {{"plan": "gold"}}') from None
    if not isinstance(value, dict):
        raise UsageError('--metadata is not an object: write {"plan": "gold"}')
    return value


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        example = f"{datetime.now(UTC).year + 1}-01-01T00:00:00Z"
        raise UsageError(f"--expires {text!r} is not a time: write {example}") from None


@application.command("list")
def list_keys(project: Project = Path(), as_json: AsJson = False) -> None:
    """The consumers and their keys by id."""
    rows: list[dict[str, Any]] = [
        {
            "consumer": consumer.name,
            "metadata": consumer.metadata,
            "id": key.id,
            "created": key.created,
            "expires": key.expires.isoformat() if key.expires else None,
        }
        for consumer in _consumers(_file(project))
        for key in consumer.keys
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"no keys yet: make one with `metergate keys create NAME --project {project}`")
        return
    table = Table("consumer", "metadata", "key", "created", "expires")
    for row in rows:
        metadata = json.dumps(row["metadata"]) if row["metadata"] else ""
        table.add_row(row["consumer"], metadata, row["id"], row["created"] or "", _expiry(row["expires"]))
    Console().print(table)


def _expiry(expires: str | None) -> str:
    if expires is None:
        return "never"
    return f"{expires}, is over" if datetime.fromisoformat(expires) <= datetime.now(UTC) else expires


@application.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `metergate keys list` shows it.")],
    project: Project = Path(),
) -> None:
    """Take a key back. A running gateway refuses it within a second."""
    from metergate.gateway.consumers import revoke_key

    if not revoke_key(_file(project), key_id):
        raise UsageError(f"there is no key {key_id!r}: `metergate keys list` shows them")
    print(f"key {key_id} is revoked")
