"""``metergate openmeter``: the embedded OpenMeter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from metergate.cli.options import Host, LogFormat, LogLevel

DEFAULT_PORT = 8888
TOKEN_VARIABLE = "METERGATE_OPENMETER_TOKEN"  # noqa: S105  # the name of a variable


def openmeter(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of its data; made if it is not there.")
    ],
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = DEFAULT_PORT,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML: meters, and for trying out features, customers, entitlements."
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
    """Run an OpenMeter in one process. With METERGATE_OPENMETER_TOKEN set, every request needs it as bearer token."""
    from metergate.embedded.server import serve
    from metergate.gateway.logs import configure_logging

    configure_logging(log_level, log_format)
    token = os.environ.get(TOKEN_VARIABLE) or None
    serve(data, host=host, port=port, config=config, token=token, visibility_delay=visibility_delay)
