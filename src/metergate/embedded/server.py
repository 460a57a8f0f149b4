"""Starting the embedded server: the folder, the application over it, and Granian in front, all in one
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
from granian.constants import Interfaces
from granian.server.embed import Server

from metergate.embedded.api import meters
from metergate.embedded.api.app import Application
from metergate.embedded.api.meters import new_meter
from metergate.embedded.api.modules import MODULES
from metergate.embedded.config import Configuration, read_configuration
from metergate.embedded.domain.moments import Clock, system_clock
from metergate.embedded.lateness import LateEventStore
from metergate.embedded.notifications.notifier import Notifier
from metergate.embedded.seed import seed
from metergate.embedded.services import Services
from metergate.embedded.store import catalog as catalog_tables
from metergate.embedded.store import events as event_tables
from metergate.embedded.store import meters as meter_tables
from metergate.embedded.store.catalog import Catalog
from metergate.embedded.store.database import Database, Unavailable
from metergate.embedded.store.events import EventStore
from metergate.embedded.store.hours import Hours
from metergate.embedded.store.listing import EventList
from metergate.embedded.store.meters import MeterStore
from metergate.embedded.store.retention import Retention
from metergate.embedded.store.usage import MeterUsage
from metergate.errors import ConfigurationError

log = logging.getLogger("metergate.embedded")

DEFAULT_PORT = 8888
STOP_SECONDS = 4.0
"""How long requests in flight may take at the end; closing the folder comes after it."""
ABORT_SECONDS = 0.3
"""How long their connections may take to close when they took longer."""

TABLES = (event_tables, meter_tables, catalog_tables)


def create_app(
    data: Path,
    *,
    config: Path | Configuration | None = None,
    token: str | None = None,
    clock: Clock = system_clock,
    retention: timedelta | None = None,
    visibility_delay: float = 0.0,
) -> Application:
    """The ASGI application over the data folder, which it opens at once.

    Await its ``startup()`` before the first request (it makes what ``config`` asks for) and ``shutdown()``
    after the last; servers with lifespan support do both. With ``token`` every request needs ``Authorization:
    Bearer <token>``, with ``retention`` events that are older are deleted. ``visibility_delay`` is for tests: seconds
    between acknowledging an event and storing it. Raises ConfigurationError for a folder or a configuration that
    cannot be used.
    """
    configuration = _configuration(config)
    database = Database.open(data, [statement for module in TABLES for statement in module.SCHEMA])
    try:
        return _assemble(database, configuration, token, clock, retention, visibility_delay)
    except BaseException as exception:
        database.close()
        if isinstance(exception, duckdb.Error):
            reason = " ".join(str(exception).split())
            raise ConfigurationError(
                f"{data} does not hold the tables of an embedded OpenMeter: {reason} Name another with --data."
            ) from exception
        raise


def _assemble(
    database: Database,
    configuration: Configuration,
    token: str | None,
    clock: Clock,
    retention: timedelta | None,
    visibility_delay: float,
) -> Application:
    """The application over the opened database, which its ``shutdown`` closes."""
    meter_store = MeterStore(database)
    late = LateEventStore(database, clock, visibility_delay) if visibility_delay > 0 else None
    event_store = late or EventStore(database, clock)
    catalog = Catalog(database, meter_store, event_store.rollups)
    services = Services(
        database=database,
        clock=clock,
        events=event_store,
        listing=EventList(database),
        meters=meter_store,
        usage=MeterUsage(database),
        catalog=catalog,
        customers=catalog.customers,
    )

    notifier = services.notifier = Notifier(services)
    if late is not None:
        late.used = notifier.used
    background: set[asyncio.Task[None]] = set()

    async def startup() -> None:
        await apply(configuration, services)
        notifier.start()
        background.add(asyncio.create_task(event_store.keep_keys()))
        background.add(asyncio.create_task(_prepare(services)))
        if retention is not None:
            forgetting = Retention(database, event_store, meter_store, catalog.balances, retention, clock)
            background.add(asyncio.create_task(forgetting.run()))

    async def shutdown() -> None:
        await notifier.stop()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if late is not None:
            await late.flush()
        await asyncio.to_thread(database.close)

    routes = [route for module in MODULES for route in module.routes(services)]
    return Application(
        routes, token=token, visibility_delay=visibility_delay, startup=startup, shutdown=shutdown
    )


def _configuration(config: Path | Configuration | None) -> Configuration:
    if config is None:
        return Configuration()
    return config if isinstance(config, Configuration) else read_configuration(config)


async def _prepare(services: Services) -> None:
    """Have ready what is asked for often. Endless."""
    try:
        await services.catalog.balances.prepare(services.clock())
    except Unavailable as exception:
        log.warning("each value is read when it is first asked for: %s", exception)
    await Hours(services.database, services.meters).keep()


async def apply(configuration: Configuration, services: Services) -> None:
    """Make what the configuration asks for and is not there; say where what is there differs."""
    for given in configuration.meters:
        wanted = new_meter(given, services.clock())
        present = services.meters.by_slug(given.slug)
        if present is None:
            await services.meters.create(wanted)
        elif differences := meters.differences(present, wanted):
            log.warning(
                "the meter %s differs from the configuration in %s and stays as it is; change it over the API",
                given.slug,
                ", ".join(differences),
            )
    different = await seed(
        services.catalog,
        services.clock(),
        features=configuration.features,
        customers=configuration.customers,
        entitlements=configuration.entitlements,
        file=configuration.file,
    )
    for message in different:
        log.warning(message)


def serve(
    data: Path,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    config: Path | None = None,
    token: str | None = None,
    clock: Clock = system_clock,
    retention: timedelta | None = None,
    visibility_delay: float = 0.0,
) -> None:
    """Serve until SIGTERM or SIGINT; then let requests in flight end, and close the folder, within 5 seconds.

    Raises ConfigurationError when the folder, the configuration or the address cannot be used.
    """
    address = _find_address(host, port)
    configuration = _configuration(config)
    if visibility_delay > 0:
        log.warning("events are stored %g s after they are acknowledged: for tests only", visibility_delay)
    app = create_app(
        data,
        config=configuration,
        token=token,
        clock=clock,
        retention=retention,
        visibility_delay=visibility_delay,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_live(app, address, port, lambda: _say_start(configuration, data, address, port)))


def _say_start(configuration: Configuration, data: Path, address: str, port: int) -> None:
    """What a newcomer wants to know of the start, in a line."""
    host = f"[{address}]" if ":" in address else address
    file = configuration.file
    loaded = f"{file} asks for {configuration}" if file else "no --config, so only what the data hold"
    extra = {"address": address, "port": port, "data": str(data.absolute())}
    log.info("serving OpenMeter's API on http://%s:%d, data in %s; %s", host, port, data, loaded, extra=extra)
    if configuration.passed_over:
        names = ", ".join(configuration.passed_over)
        log.info("passed over in %s, because they mean nothing here: %s", file, names)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


async def _live(app: Application, address: str, port: int, say_start: Callable[[], None]) -> None:
    try:
        await app.startup()
        say_start()
        await _serve_until_signal(app, address, port)
    finally:
        await app.shutdown()


async def _serve_until_signal(app: Application, address: str, port: int) -> None:
    """Returns at the latest ``STOP_SECONDS`` after the signal; whoever is not answered by then has to send
    again.
    """
    server = Server(
        app,
        address=address,
        port=port,
        interface=Interfaces.ASGINL,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = asyncio.ensure_future(server.serve())
    await asyncio.wait({serving, asyncio.ensure_future(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server.stop()  # type: ignore[no-untyped-call]
    await asyncio.wait({serving}, timeout=STOP_SECONDS)
    if not serving.done():
        log.warning("stopped with requests in flight", extra={"requests": app.abort()})
        await asyncio.wait({serving}, timeout=ABORT_SECONDS)
    if serving.done():
        try:
            serving.result()
        except RuntimeError as exception:
            reason = str(exception).partition("\n")[0]
            if "os error" not in reason:
                raise
            # so Granian says that somebody else took the port after it was found free
            raise ConfigurationError(f"{address}:{port} cannot be listened on: {reason}.") from exception


def _find_address(host: str, port: int) -> str:
    """The host as an IP address. Finds out early, and in one line, that nobody can listen there."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exception:
        raise ConfigurationError(
            f"{host}:{port} cannot be listened on: {exception.strerror}. Choose another with --host or --port."
        ) from exception
    return str(address[0])
