"""``ApiKeyInboundPolicy``: who calls is known by a key, whose hash stands in the project's file of consumers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metergate.errors import ConfigurationError, error, warning
from metergate.gateway.consumers import ConsumerDocument, digest, read_document
from metergate.gateway.http import Request, Response, User
from metergate.gateway.model import NamedPolicy
from metergate.gateway.options import Options
from metergate.gateway.policies.bearer import Credential, Refusal, read_credential
from metergate.policy.data import copied

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Site

CHECK_SECONDS = 1.0
"""How often the file is looked at for changes."""

_DEFAULT_FILE = "config/consumers.json"
_CREATE = "Create a key with `metergate keys create NAME`."

_log = logging.getLogger("metergate.gateway")

_Stamp = tuple[int, int, int]

Known = Mapping[bytes, tuple[str, Callable[[], dict[str, Any]], float]]
"""Digest of a key → consumer, what makes a copy of the metadata, when it expires (seconds since 1970)."""


def build(options: Any, site: Site) -> NamedPolicy | None:
    """Options: ``authHeader``, ``authScheme``, ``allowUnauthenticatedRequests``, ours ``consumersFile``.

    ``cacheTtlSeconds`` and what concerns the original's key service are known and have nothing to do here: every key is in
    memory, and a change of the file counts within `CHECK_SECONDS`.
    """
    read = Options(options)
    get, challenge = read_credential(read)
    allow = read.flag("allowUnauthenticatedRequests", False)
    name = read.text("consumersFile", _DEFAULT_FILE)
    read.number("cacheTtlSeconds", 60.0)
    read.tolerate("bucketId", "bucketName", "disableAutomaticallyAddingKeyHeaderToOpenApi")
    consumers = ConsumerFile(site.directory / name)
    broken = _load(consumers, name, read, site)
    if not read.report(site) or broken:
        return None
    return NamedPolicy(
        site.name, inbound=checking(consumers, get, Refusal(challenge, allow)), resource=consumers
    )


def _load(consumers: ConsumerFile, name: str, read: Options, site: Site) -> bool:
    """Read the file; True where it cannot be used. That there is none yet is only worth a warning."""
    try:
        consumers.load()
    except FileNotFoundError:
        read.findings.append(warning("$", f"{name} is not there yet: no key is valid.", _CREATE))
    except OSError as problem:
        read.findings.append(error("$", f"{name} cannot be read: {problem.strerror}.", "Correct its rights."))
    except ConfigurationError as problem:
        for finding in problem.findings:
            site.report(finding.at(file=name))
        return True
    return False


def checking(
    consumers: ConsumerFile, get: Credential, refuse: Refusal, now: Callable[[], float] = time.time
) -> Callable[[Request, Context], Request | Response]:
    """The policy itself: sets ``request.user`` or refuses."""

    def authenticate(request: Request, context: Context) -> Request | Response:
        key = get(request)
        if not key:
            return refuse(request, context, "This API needs a key, and the request has none.")
        found = consumers.known.get(digest(key))
        if found is None or found[2] <= now():
            return refuse(request, context, "The API key is not valid.")
        # A copy: what one request's code does to it must not reach the next one.
        request.user = User(found[0], found[1]())
        return request

    return authenticate


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """What a worker knows of the file: keys that are known, how often it was read again and how often that failed."""

    keys: int
    reloads: int
    failed_reloads: int


class ConsumerFile:
    """The keys of one file, in memory; read again when the file changes. A broken file leaves the keys as they were."""

    def __init__(self, file: Path, check_seconds: float = CHECK_SECONDS) -> None:
        self.known: Known = {}
        self._file = file
        self._check_seconds = check_seconds
        self._seen: _Stamp | None = None
        self._complained_of: _Stamp | None = None
        self._reloads = 0
        self._failed_reloads = 0
        self._task: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Read the file. Raises OSError or `ConfigurationError` where that fails; the keys stay as they were then."""
        state = self._stamp()
        self._seen = (
            None  # what cannot be read, for want of descriptors perhaps, is read again: it may revoke a key
        )
        data = self._file.read_bytes()
        self._seen = state
        self.known = _index(read_document(data))

    async def start(self) -> None:
        """Look for changes from now on, in the background."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._check_seconds)
            if self._stamp() != self._seen:
                try:
                    # A large file takes a while to read; requests go on meanwhile.
                    await asyncio.to_thread(self.refresh)
                except Exception:  # noqa: BLE001  # no more threads, say; to end here would let revoked keys in
                    _log.exception("the consumers file could not be read again; it is tried again")

    def refresh(self) -> None:
        """Read the file again. Where that fails the keys stay, and the log says so, once for each state of the file."""
        try:
            self.load()
        except (OSError, ConfigurationError) as problem:
            self._failed_reloads += 1
            self._complain(problem)
        else:
            self._reloads += 1
            _log.info("read the consumers file again", extra={"keys": len(self.known)})

    def _complain(self, problem: Exception) -> None:
        state = self._stamp()
        if state is not None and state == self._complained_of:
            return
        self._complained_of = state
        _log.error(
            "the consumers file cannot be used, the keys stay as they were: %s",
            problem,
            extra={"file": str(self._file), "keys": len(self.known)},
        )

    def statistics(self) -> ConsumerStatistics:
        return ConsumerStatistics(len(self.known), self._reloads, self._failed_reloads)

    def _stamp(self) -> _Stamp | None:
        """What tells one state of the file from another; None where there is no file."""
        try:
            state = self._file.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino


def _index(document: ConsumerDocument) -> Known:
    return {
        bytes.fromhex(key.sha256): (
            consumer.name,
            _copying(consumer.metadata),
            key.expires.timestamp() if key.expires is not None else float("inf"),
        )
        for consumer in document.consumers
        for key in consumer.keys
    }


def _copying(metadata: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Makes copies to their depth; where there is none, as is usual, the dict does it itself in a fraction of the time."""
    deep = any(isinstance(value, dict | list) for value in metadata.values())
    return partial(copied, metadata) if deep else metadata.copy
