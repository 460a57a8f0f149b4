"""``metergate demo``: everything together on this machine, to try. What ``make run`` starts.

An embedded OpenMeter, a small API, and the gateway in front of it on the project in examples/quickstart; two consumers,
one with 100 calls a month and one with 3. All of it lives in a folder that is removed at the end, also after `kill -9`.
"""

from __future__ import annotations

import http.client
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

import metergate
from metergate.cli.figures import Figures, read_figures
from metergate.cli.guard import Guard
from metergate.cli.signals import StopSignals
from metergate.errors import MetergateError, UsageError

if TYPE_CHECKING:
    from metergate.testing.processes import Server

CONSUMERS = {"acme": "100 calls a month", "tiny": "3 calls a month"}
_HOST = "127.0.0.1"
_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 2.0  # where nothing can be redrawn
_STOP_SECONDS = 4.5  # for all together
_GATEWAY_STOP_SECONDS = 3.5

Port = Annotated[int, typer.Option(min=1, max=65535)]


def demo(
    port: Port = 9000,
    openmeter_port: Port = 8888,
    upstream_port: Port = 9001,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes of the gateway.")] = 2,
) -> None:
    """Start an embedded OpenMeter, an API and the gateway in front of it, with keys to try. Ctrl-C stops it all."""
    check_ports({"--port": port, "--openmeter-port": openmeter_port, "--upstream-port": upstream_port})
    console = Console(highlight=False, markup=False, soft_wrap=True)
    with (
        StopSignals() as signals,
        tempfile.TemporaryDirectory(prefix="metergate-demo-") as folder,
        Guard(Path(folder)) as guard,
    ):
        stage = set_up(Path(folder), port, openmeter_port, upstream_port, workers)
        _run(stage, guard, signals, console)


def check_ports(ports: dict[str, int]) -> None:
    """Raise `UsageError` that names every option whose port is taken, by somebody else or by another option."""
    from metergate.gateway.server import check_port

    taken: list[str] = []
    for option, port in ports.items():
        try:
            check_port(_HOST, port)
        except UsageError:
            taken.append(f"{option} {port}")
    if taken:
        option = taken[0].split()[0]
        raise UsageError(
            f"cannot listen on the port of {' and '.join(taken)}: stop what listens there, "
            f'or name another, {option} N (make run ARGS="{option} N")'
        )
    if len(set(ports.values())) < len(ports):
        raise UsageError(f"{', '.join(ports)} have to differ")


@dataclass(frozen=True)
class Stage:
    """All that runs, in the order in which it is stopped."""

    gateway: Server
    openmeter: Server
    api: Server
    project: Path
    keys: dict[str, str]

    @property
    def servers(self) -> tuple[Server, ...]:
        return self.gateway, self.openmeter, self.api

    def stop(self, seconds: float) -> None:
        """End everything within about ``seconds``: first the gateway, which delivers what it has recorded."""
        from metergate.testing.processes import ServerFailed

        deadline = time.monotonic() + seconds
        for server in self.servers:
            most = _GATEWAY_STOP_SECONDS if server is self.gateway else seconds
            with suppress(ServerFailed):  # it was killed then
                server.stop(max(0.2, min(most, deadline - time.monotonic())))


def set_up(folder: Path, port: int, openmeter_port: int, upstream_port: int, workers: int) -> Stage:
    """The project, two keys and the servers, not started yet; whatever they write is in ``folder``."""
    import yaml

    from metergate.gateway.consumers import create_key
    from metergate.testing.processes import gateway_server, openmeter_server, upstream_server

    project = folder / "project"
    shutil.copytree(
        quickstart(), project, ignore=shutil.ignore_patterns(".metergate", "consumers.json", "__pycache__")
    )
    keys = {name: create_key(project / "config" / "consumers.json", name)[0] for name in CONSUMERS}
    config = yaml.safe_load((project / "openmeter.yaml").read_text("utf-8"))
    # Whatever the operator's own environment says of a spool, a token or a key: the demo is a world of its own.
    alone = {"METERGATE_OPENMETER_TOKEN": None}
    openmeter = openmeter_server(folder / "data", config, port=openmeter_port, env=alone)
    api = upstream_server(folder / "api.log", port=upstream_port)
    env = {"METERGATE_OPENMETER_URL": openmeter.url, "UPSTREAM_URL": api.url}
    gateway = gateway_server(project, workers=workers, port=port, spool=folder / "spool", env=env)
    return Stage(gateway, openmeter, api, project, keys)


def quickstart() -> Path:
    """The example project: in the package where it was installed, in the checkout otherwise."""
    package = Path(metergate.__file__).parent
    for candidate in (package / "examples" / "quickstart", package.parents[1] / "examples" / "quickstart"):
        if candidate.is_dir():
            return candidate
    raise MetergateError("examples/quickstart is not installed: reinstall metergate, or run from a checkout")


def _run(stage: Stage, guard: Guard, signals: StopSignals, console: Console) -> None:
    from metergate.testing.processes import ServerFailed

    try:
        with suppress(KeyboardInterrupt):
            for server in stage.servers:
                server.launch()
                guard.watch(server.pid)
            with signals.interruptible():
                with console.status("starting OpenMeter, an API and the gateway ..."):
                    for server in stage.servers:
                        server.wait_ready()
                _explain(console, stage)
                _watch(console, stage.gateway.url)
        console.print("stopping; what is recorded is delivered first")
    except ServerFailed as failed:
        raise MetergateError(f"the demo could not start: {failed}") from None
    finally:
        stage.stop(_STOP_SECONDS)


def _explain(console: Console, stage: Stage) -> None:
    console.print()
    console.print(Text("Metergate is up", style="bold green"))
    console.print(f"  gateway    {stage.gateway.url}")
    console.print(f"  API        {stage.api.url}    behind the gateway")
    console.print(f"  OpenMeter  {stage.openmeter.url}")
    console.print(f"  project    {stage.project}    a copy of examples/quickstart")
    console.print()
    console.print("Copy lines into another terminal:")
    console.print()
    for comment, command in _tries(stage):
        console.print(Text(f"  # {comment}", style="dim"))
        console.print(f"  {command}")
    console.print()


def _tries(stage: Stage) -> Iterator[tuple[str, str]]:
    """What to type, each line complete in itself. No comment behind a command, no quote in a comment: zsh takes neither."""
    gateway, openmeter = stage.gateway.url, stage.openmeter.url
    for name, key in stage.keys.items():
        yield f"the key of {name}, who has {CONSUMERS[name]}", f"{name.upper()}={key}"
    yield "a call that is metered", f'curl -i -H "Authorization: Bearer {stage.keys["acme"]}" {gateway}/hello'
    answers = f'curl -fs -o /dev/null -w "%{{http_code}}\\n" -H "Authorization: Bearer {stage.keys["tiny"]}" {gateway}/hello'
    yield (
        "tiny, until it is refused: the fourth call of the month is one too many",
        f"while {answers}; do :; done",
    )
    yield "no key, no entry", f"curl -i {gateway}/hello"
    yield "the usage, read back", f"curl -s '{openmeter}/api/v1/meters/api-request/query?groupBy=subject'"
    yield "the events", f"curl -s '{openmeter}/api/v1/events?limit=5'"
    yield "what tiny may still do", f"curl -s {openmeter}/api/v1/customers/tiny/access"
    yield "how the gateway is", f"curl -s {gateway}/__metergate/health"


def _watch(console: Console, gateway: str) -> None:
    """What was metered, allowed, denied and delivered so far: one line, redrawn; a line now and then where it cannot be."""
    console.print(Text("Ctrl-C stops it all.", style="dim"))
    if not console.is_terminal or console.is_dumb_terminal:
        _print_changes(console, gateway)
        return
    folding = Console(highlight=False)  # a line that is wider than the terminal would be cut
    with Live(console=folding, auto_refresh=False) as live:
        while True:
            live.update(_line(_figures(gateway)), refresh=True)
            time.sleep(_REFRESH_SECONDS)


def _print_changes(console: Console, gateway: str) -> None:
    shown: Text | None = None
    while True:
        line = _line(_figures(gateway))
        if line != shown:
            console.print(line)
            shown = line
        time.sleep(_LINE_SECONDS)


def _line(figures: Figures | None) -> Text:
    return Text("the gateway does not answer", style="red") if figures is None else Text(str(figures))


def _figures(gateway: str) -> Figures | None:
    """None where the gateway does not answer."""
    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=2)
    try:
        connection.request("GET", "/__metergate/metrics")
        return read_figures(connection.getresponse().read().decode())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
