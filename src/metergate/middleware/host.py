"""What an application's processes share of Metergate: the policy, the spool, and what runs behind it in each."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from metergate.engine import Backends, Engine
from metergate.errors import ConfigurationError
from metergate.middleware.callers import Caller, caller_of
from metergate.middleware.loops import LoopThread
from metergate.policy.options import GROUPS, OPTIONS, read_options

_log = logging.getLogger("metergate.middleware")

HEALTH_PATHS = ("/health", "/healthz", "/livez", "/readyz", "/ready", "/live", "/ping")
"""Paths that are let through and never metered, unless ``exclude`` says otherwise."""

DRAIN_SECONDS = 2.0


class Metergate:
    """Metering and entitlements for an application. One for all of it, made before the server forks, or after.

    Nothing is opened before the first request of a process; each then has its own part of the spool, so gunicorn's
    ``preload_app`` and forks at any time are fine.
    """

    def __init__(
        self,
        *,
        spool: Path | str | None = None,
        user: Callable[[Any], Any] | None = None,
        trusted_header: str | None = None,
        exclude: Iterable[str] | Callable[[str], bool] = HEALTH_PATHS,
        workers: int = 1,
        **options: Any,
    ) -> None:
        """
        Args:
            spool: a folder on a local disk for what has not been sent yet. Default: ``METERGATE_SPOOL``, else
                ``.metergate/spool`` in the working directory.
            user: gives who is calling: of an ASGI application from the scope, of a WSGI one from the environ, of a Django
                one from the request. See
                `callers.caller_of` for what it may return. Default: what the framework's authentication has found.
            trusted_header: a request header that names the user, set by a gateway in front which removes it from what
                clients send. Never used unless named.
            exclude: paths that are let through and not metered, or what says so of a path.
            workers: how many processes of this application share the budget of reads.
            options: those of an ``openmeter-inbound`` policy, in Python's spelling or as in ``policies.json``:
                ``api_url`` (default: ``METERGATE_OPENMETER_URL``), ``api_key`` (default: ``OPENMETER_API_KEY``),
                ``meter``, ``meter_on_status_codes``, ``event_source``, ``required_entitlements``, ``subject_path``,
                ``entitlement_check``, ``delivery``.

        Raises:
            ConfigurationError: options that cannot be right, all of them.
        """
        self._options = _as_in_json(options)
        self._options.setdefault("apiKey", os.environ.get("OPENMETER_API_KEY", ""))
        if url := os.environ.get("METERGATE_OPENMETER_URL"):
            self._options.setdefault("apiUrl", url)
        self._find_user = user
        self._trusted_header = None if trusted_header is None else trusted_header.lower().encode("latin-1")
        self.is_excluded = exclude if callable(exclude) else frozenset(exclude).__contains__
        self.backends = Backends(_spool(spool), workers=workers)
        self.loop = LoopThread()
        """Where a host without an event loop has OpenMeter asked."""
        self._lock = threading.Lock()
        self._started_in: int | None = None
        self.engine = self.engine_for("metergate")

    def engine_for(self, name: str, **options: Any) -> Engine:
        """A policy that differs in these options, for some routes; it shares all else; ``meter=[]``: it meters nothing.
        Best made at start: what was used before it was made is not counted here, only by OpenMeter.

        Raises:
            ConfigurationError: options that cannot be right, all of them.
        """
        policy, findings = read_options(_without_no_meter(self._options | _as_in_json(options)), name=name)
        for finding in findings:
            if finding.severity == "warning":
                _log.warning("%s", finding)
        if policy is None:
            raise ConfigurationError(findings)
        with self._lock:
            engine = Engine(policy, self.backends)
            if self._started_in is not None:
                for feature in policy.required_entitlements:
                    self.backends.watch(policy, feature)
        return engine

    def start(self) -> None:
        """Begin to send in this process; the first request does it. Calling it again does nothing."""
        if self._started_in == os.getpid():
            return
        with self._lock:
            if self._started_in != os.getpid():
                self.backends.start()
                atexit.register(self.drain, DRAIN_SECONDS)
                self._started_in = os.getpid()

    def caller(self, source: Any, found: Any, header: Callable[[bytes], str | None]) -> Caller | None:
        """Who is calling. ``found`` is what the framework has found, ``header`` reads a request header."""
        if self._find_user is not None:
            return caller_of(self._find_user(source))
        if self._trusted_header is not None:
            return caller_of(header(self._trusted_header) or None)
        return caller_of(found)

    def flush(self, timeout: float = 5.0) -> bool:
        """Send what this process has recorded, and wait for it; False where that took longer than ``timeout`` seconds.

        For functions that live for a moment: call it before they return.
        """
        return self.backends.flush(timeout)

    def drain(self, timeout: float = DRAIN_SECONDS) -> None:
        """Send what is recorded for at most ``timeout`` seconds, and end: what is left stays in the spool, for whoever of the
        application's processes is next. At the end of the process at the latest.
        """
        if self._started_in == os.getpid():
            self._started_in = None
            self.loop.close(self.backends.stop)
            self.backends.drain(timeout)

    async def stop(self) -> None:
        """Ask OpenMeter no more: with the application's lifespan. What comes later is still recorded."""
        await self.backends.stop()


def check_options(name: str, options: dict[str, Any]) -> None:
    """Whether these could be options of a policy, as far as that can be seen without the rest.

    Raises:
        ConfigurationError: they cannot, with all that is wrong.
    """
    policy, findings = read_options({"apiKey": "-"} | _without_no_meter(_as_in_json(options)), name=name)
    if policy is None:
        raise ConfigurationError(findings)


def _spool(folder: Path | str | None) -> Path:
    return Path(folder or os.environ.get("METERGATE_SPOOL") or ".metergate/spool").absolute()


def _as_in_json(options: dict[str, Any]) -> dict[str, Any]:
    """Options in the spelling of ``policies.json``, those of groups as well. What is unknown stays, to be reported."""
    read: dict[str, Any] = {}
    for name, value in options.items():
        key = _CAMEL.get(name, name)
        if key in GROUPS and isinstance(value, dict):
            value = {_CAMEL.get(inner, inner): each for inner, each in value.items()}
        read[key] = value
    return read


def _without_no_meter(options: dict[str, Any]) -> dict[str, Any]:
    """An empty list says that a policy does not meter what another one does; of its own it is no option."""
    return {name: value for name, value in options.items() if (name, value) != ("meter", [])}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


_CAMEL = {_snake(name): name for name in (*OPTIONS, *(inner for group in GROUPS.values() for inner in group))}
