"""``metergate openmeter``: the embedded OpenMeter, and what can be done with its data."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from metergate.cli import openmeter_backup, openmeter_export, openmeter_import, openmeter_restore
from metergate.cli.options import Host, LogFormat, LogLevel
from metergate.cli.options_openmeter import TOKEN_VARIABLE

DEFAULT_PORT = 8888

application = typer.Typer(invoke_without_command=True)


@application.callback(
    help=f"Run an OpenMeter in one process. With {TOKEN_VARIABLE} set, every request needs it as bearer token."
)
def openmeter(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder of its data; made if it is not there.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = DEFAULT_PORT,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML: meters, and for trying out features, customers, entitlements."
        ),
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="DAYS",
            help="For how long events are kept, such as 400d, and longer where an entitlement's usage period "
            "or its grants still count them; for ever where it is not said.",
        ),
    ] = None,
    visibility_delay: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            max=60.0,
            help="For tests: store events so long after they are acknowledged, as OpenMeter does.",
        ),
    ] = 0.0,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    if context.invoked_subcommand is not None:
        return
    if data is None:
        raise typer.BadParameter(
            "name the folder of its data; it is made if it is not there", param_hint="--data"
        )
    kept = None if retention is None else read_days(retention)
    from metergate.embedded.server import serve
    from metergate.gateway.logs import configure_logging

    configure_logging(log_level, log_format)
    token = os.environ.get(TOKEN_VARIABLE) or None
    serve(
        data,
        host=host,
        port=port,
        config=config,
        token=token,
        retention=kept,
        visibility_delay=visibility_delay,
    )


def read_days(text: str) -> timedelta:
    """The time that ``400d`` says. Raises BadParameter."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})d", text)
    if match is None:
        raise typer.BadParameter(f"{text}: write a number of days such as 400d", param_hint="--retention")
    return timedelta(days=int(match[1]))


application.command("backup")(openmeter_backup.backup)
application.command("restore")(openmeter_restore.restore)
application.command("import")(openmeter_import.import_file)
application.command("export")(openmeter_export.export)
