"""``metergate run``: the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metergate.cli.options import Host, LogFormat, LogLevel, Project, Strict


def run(
    project: Project = Path(),
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 9000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker processes.")] = 1,
    strict: Strict = False,
    upstream_timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long an upstream may be silent.")
    ] = 60.0,
    max_body: Annotated[
        int, typer.Option(min=0, metavar="BYTES", help="The largest request body that is accepted.")
    ] = 100 * 1024 * 1024,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    """Run the gateway on a project. The spool is in DIR/.metergate/spool, or where METERGATE_SPOOL says."""
    from metergate.gateway.server import Settings, serve

    serve(
        Settings(
            project=str(project),
            host=host,
            port=port,
            workers=workers,
            strict=strict,
            upstream_timeout=upstream_timeout,
            max_body_bytes=max_body,
            log_level=log_level,
            log_format=log_format,
        )
    )
