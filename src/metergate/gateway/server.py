"""The gateway as processes: a parent that checks the project and watches, workers that serve it.

Each worker has its own event loop, upstream connections, entitlement snapshots and spool segments, and serves alone. A
worker that dies is replaced; what it had recorded is sent by whoever is alive. On SIGTERM a worker stops to accept,
finishes what it is at, breaks off what takes too long, sends what it has recorded, and leaves the rest in the spool.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import msgspec
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.log import LogLevels

from metergate.engine import Backends
from metergate.errors import ConfigurationError, Finding, UsageError
from metergate.gateway.asgi import Gateway
from metergate.gateway.context import BACKGROUND
from metergate.gateway.ending import (
    BACKGROUND_SECONDS,
    DRAIN_SECONDS,
    GRACE_SECONDS,
    KILL_SECONDS,
    Restarts,
    end_in_order,
    end_with_parent,
    raise_file_limit,
    say_started,
)
from metergate.gateway.environment import read_environment
from metergate.gateway.health import PAGE_PATH as HEALTH_PATH
from metergate.gateway.health import page as health
from metergate.gateway.logs import LogFormat, configure_logging
from metergate.gateway.metrics import PAGE_PATH as METRICS_PATH
from metergate.gateway.metrics import Metrics
from metergate.gateway.pipeline import Pipeline
from metergate.gateway.project import Project, load_project
from metergate.gateway.upstream import Upstream
from metergate.gateway.webhook import PAGE_PATH as WEBHOOK_PATH
from metergate.gateway.webhook import WebhookPage, signing_key

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_log = logging.getLogger("metergate.gateway")

SPOOL_VARIABLE = "METERGATE_SPOOL"
_SETTINGS_VARIABLE = "METERGATE_GATEWAY_SETTINGS"
_FIGURES = "metergate-figures-"
_IN_MEMORY = Path("/dev/shm")  # noqa: S108  # the folder in it is ours alone
_OWNER = "owner"  # the file in it that the parent holds a lock on
_GC_THRESHOLDS = (50_000, 20, 50)
"""What a request makes dies by reference counting; at the default of 700 the collector would run every few requests."""


class Settings(msgspec.Struct, frozen=True):
    """How to serve a project; the options of ``metergate run``. Times in seconds."""

    project: str
    host: str = "127.0.0.1"
    port: int = 9000
    workers: int = 1
    strict: bool = False
    upstream_timeout: float = 60.0
    max_body_bytes: int = 100 * 1024 * 1024
    log_level: str = "info"
    log_format: LogFormat = "auto"
    figures: str = ""  # the folder in which the workers meet; made by the parent
    parent: int = 0  # its process id
    began: float | None = (
        None  # when it started, on the monotonic clock, which all processes of a machine share
    )


def spool_directory(project: Path, environment: Mapping[str, str]) -> Path:
    """Where a project's events wait: ``METERGATE_SPOOL``, or ``.metergate/spool`` in its folder."""
    named = environment.get(SPOOL_VARIABLE)
    return Path(named) if named else project / ".metergate" / "spool"


def examine(directory: Path, *, strict: bool = False) -> list[Finding]:
    """Everything wrong or doubtful in a project. Its modules are imported; nothing is started."""
    backends = Backends(spool_directory(directory, read_environment(directory)))
    return _examine(directory, backends, strict)


def _examine(directory: Path, backends: Backends, strict: bool) -> list[Finding]:
    return load_project(directory, backends=backends, upstream=Upstream(), strict=strict)[1]


def serve(settings: Settings) -> None:
    """Check the project, then serve it until SIGTERM or SIGINT.

    Raises `ConfigurationError` with every error of the project, `UsageError` where the port is taken or the spool cannot
    be written.
    """
    directory = Path(settings.project).resolve()
    configure_logging(settings.log_level, settings.log_format)
    backends = Backends(spool_directory(directory, read_environment(directory)))
    findings = _examine(directory, backends, settings.strict)
    if any(finding.severity == "error" for finding in findings):
        raise ConfigurationError(findings)
    for finding in findings:
        _log.warning("%s", str(finding).removeprefix("warning: "))
    check_port(settings.host, settings.port)
    if backends.needs_spool and backends.spool is not None:
        _check_spool(backends.spool)
    with _figures_folder() as figures:
        handed_down = msgspec.structs.replace(
            settings, project=str(directory), figures=figures, parent=os.getpid(), began=time.monotonic()
        )
        os.environ[_SETTINGS_VARIABLE] = msgspec.json.encode(handed_down).decode()
        server = _server(settings, figures)
        extra = {"project": str(directory), "openmeter": ", ".join(backends.urls) or None}
        _log.info("serving on http://%s:%d", settings.host, settings.port, extra=extra)
        server.serve()


@contextmanager
def _figures_folder() -> Iterator[str]:
    """The folder in which the workers of this gateway meet. Those that killed gateways left behind are removed."""
    place = _figures_place()
    for left in place.glob(f"{_FIGURES}*"):
        with suppress(OSError), (left / _OWNER).open("ab") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    figures, lock = _new_folder(place)
    try:
        yield str(figures)
    finally:
        shutil.rmtree(figures, ignore_errors=True)
        lock.close()


def _figures_place() -> Path:
    """A file system in memory where there is one: whoever counts must not wait for a disk."""
    return _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def _new_folder(place: Path) -> tuple[Path, IO[bytes]]:
    """A folder and the lock on it; made anew where a gateway that starts at the same time took it for left behind."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_FIGURES, dir=place))
        with suppress(FileNotFoundError):
            owner = (folder / _OWNER).open("ab")
            fcntl.flock(owner, fcntl.LOCK_EX)
            if (folder / _OWNER).exists():
                return folder, owner
            owner.close()


def _server(settings: Settings, figures: str) -> Any:  # Granian is chosen at run time, by platform
    server = Granian(
        "metergate.gateway.server:application",
        factory=True,
        address=settings.host,
        port=settings.port,
        workers=settings.workers,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        runtime_mode=RuntimeModes.st,
        http=HTTPModes.auto,
        websockets=False,
        log_level=LogLevels.warning,
        log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
        respawn_failed_workers=True,
        workers_kill_timeout=KILL_SECONDS,
    )
    server.respawned_wrks = Restarts(
        Path(figures), lambda index: cast("BaseProcess", server.wrks[index].inner)
    )
    # It does not know why a worker has ended; `Restarts` says it.
    logging.getLogger("_granian").addFilter(lambda record: "Unexpected exit" not in record.getMessage())
    return server


def check_port(host: str, port: int) -> None:
    """Raise `UsageError` where somebody listens there already; the server would share the port without a word."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as refused:
            fix = "stop what listens there, or name another address with --host and --port"
            if isinstance(refused, socket.gaierror) or refused.errno == errno.EADDRNOTAVAIL:
                fix = "it is no address of this machine; name one with --host, such as 127.0.0.1 or 0.0.0.0"
            elif isinstance(refused, PermissionError):
                fix = "this user may not; name another port with --port, 1024 or more"
            raise UsageError(f"cannot listen on {host}:{port} ({refused.strerror}): {fix}") from None


def _check_spool(spool: Path) -> None:
    """Raise `UsageError` where the spool could not be made or written: every event would be lost, from the first on."""
    place = spool.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(
            f"events cannot be kept in {spool}, because {place} cannot be written: "
            f"correct that, or name another folder with {SPOOL_VARIABLE}"
        )


def application() -> Gateway:
    """The ASGI application of one worker process; the server calls it there."""
    settings = msgspec.json.decode(os.environ[_SETTINGS_VARIABLE], type=Settings)
    configure_logging(settings.log_level, settings.log_format)
    end_with_parent(settings.parent)
    raise_file_limit()
    directory = Path(settings.project)
    backends = Backends(spool_directory(directory, read_environment(directory)), workers=settings.workers)
    upstream = Upstream(timeout=settings.upstream_timeout)
    project, findings = load_project(directory, backends=backends, upstream=upstream, strict=settings.strict)
    if project is None:
        raise ConfigurationError(findings)
    figures = Path(settings.figures)
    gateway = assemble(
        project,
        backends,
        upstream,
        Metrics(figures),
        max_body_bytes=settings.max_body_bytes,
        began=settings.began,
        folder=figures,
    )
    gateway.on_start(lambda: end_in_order(gateway.break_off))
    gateway.on_start(lambda: say_started(figures))
    return gateway


def assemble(
    project: Project,
    backends: Backends,
    upstream: Upstream,
    metrics: Metrics,
    *,
    max_body_bytes: int = Settings.max_body_bytes,
    began: float | None = None,
    folder: Path | None = None,
) -> Gateway:
    """A loaded project as an ASGI application, with its pages, life cycle and figures.

    ``began`` is when the gateway started, on the monotonic clock; None: with this call. ``folder`` is where its workers
    meet; None where there is one only.

    For tests, and for mounting a gateway in another application: that one's lifespan has to reach it.
    """
    metrics.add(backends.statistics)
    for policy in project.policies.values():
        if (statistics := getattr(policy.resource, "statistics", None)) is not None:
            metrics.add(statistics, policy=policy.name)
    webhook = WebhookPage(signing_key(project.environment), folder, backends.expire)
    if webhook.is_on:
        metrics.add(webhook.statistics)

    async def start() -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        await metrics.start()
        backends.start(metrics.delivery_counts)
        await webhook.start()
        await project.start()

    async def stop() -> None:
        # Granian has seen to the requests before it calls. Other servers may stop while some wait for a decision.
        await gateway.finish(GRACE_SECONDS)
        await BACKGROUND.drain(BACKGROUND_SECONDS)
        # Side by side: a mounted application may take its time, and what is recorded has to go out.
        await asyncio.gather(asyncio.to_thread(backends.drain, DRAIN_SECONDS), project.stop())
        # Last: a read that is given up is a decision without an answer, which lets in under `onError: allow`.
        await backends.stop()
        await upstream.stop()
        await webhook.stop()
        await metrics.stop()

    gateway = Gateway(
        Pipeline(project.router, project.hooks, project.policies),
        observe=metrics.observe,
        pages={
            METRICS_PATH: metrics.page,
            HEALTH_PATH: health(metrics, began=began),
            WEBHOOK_PATH: webhook,
        },
        max_body_bytes=max_body_bytes,
        start=start,
        stop=stop,
    )
    return gateway
