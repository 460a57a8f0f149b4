"""``Delivery``: the one object that a host sees. It ties a store to a sender and keeps both right over forks."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, MutableSequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from metergate.delivery.batch import Limits
from metergate.delivery.destination import describe, folders_of
from metergate.delivery.files import Files
from metergate.delivery.health import Health
from metergate.delivery.sender import Client, Sender, Tally
from metergate.delivery.sent import SentOptions
from metergate.delivery.spool import SpoolOptions
from metergate.delivery.statistics import DeliveryStatistics
from metergate.delivery.store import DiskStore, MemoryStore, Store
from metergate.delivery.unsent import are_settled, unsent_ends, unsent_events
from metergate.delivery.wake import Wake
from metergate.errors import UsageError
from metergate.openmeter.ingest import IngestClient

log = logging.getLogger("metergate.delivery")

Durability = Literal["memory", "process", "power"]
_MEMORY_BYTES = 64 << 20
_DISK_BYTES = 1 << 30
_SEGMENTS_IN_BOUND = 8
_FORK_WAIT_SECONDS = 1.0


@dataclass(slots=True)
class _Life:
    """What belongs to one process: a forked child gets a new one."""

    store: Store
    wake: Wake
    health: Health
    closed: bool = False
    sender: Sender | None = None
    thread: threading.Thread | None = None

    def is_running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Delivery:
    """Brings events to one OpenMeter under one API key, each once, whatever happens in between.

    Args:
        url: base URL of OpenMeter.
        api_key: sent as ``Authorization: Bearer``. In no file, log or repr; a fingerprint names the folder.
        directory: the project's spool. The destination gets a folder of its own in it. None only for ``memory``.
        durability: what a recorded event survives: ``memory`` nothing, ``process`` a killed process, ``power`` a power cut.
        batch_size: events in one request at most.
        max_delay_ms: how long an event waits for a batch to fill.
        max_bytes: bound of the destination's folder (of the queue, for ``memory``); about, since processes look at each
            other once a second. Default 1 GiB, 64 MiB for ``memory``.
        keep_sent_seconds, keep_sent_bytes: how long, and how much of, what was sent is kept compressed in ``sent/``.
        segment_bytes, segment_seconds: when a segment is closed and the next one begun.
        body_bytes: bound of one request's body; a larger event goes alone.
        request_timeout: seconds for one request.
        inherit_after: seconds after the start before events that a rotated key left are sent with this one, if it is its
            only possible successor (see ``metergate.delivery.destination``); None: never.
        files, clock, wall_clock, jitter, open_client: the world, for tests.

    Raises:
        UsageError: an argument that cannot be right.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        directory: Path | None,
        durability: Durability = "process",
        batch_size: int = 500,
        max_delay_ms: int = 100,
        max_bytes: int | None = None,
        keep_sent_seconds: float = 24 * 3600.0,
        keep_sent_bytes: int = 256 << 20,
        segment_bytes: int = 8 << 20,
        segment_seconds: float = 300.0,
        body_bytes: int = 1 << 20,
        request_timeout: float = 30.0,
        inherit_after: float | None = 60.0,
        files: Files | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        open_client: Callable[[], Client] | None = None,
    ) -> None:
        _check(durability, directory, batch_size, max_delay_ms, max_bytes)
        self._destination = describe(url, api_key)
        self._limits = Limits(batch_size, body_bytes)
        self._max_delay = max_delay_ms / 1000
        self._clock = clock
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._open_client = open_client or partial(IngestClient, url, api_key, timeout=request_timeout)
        self._make_store: Callable[[Wake], Store]
        self._folder: Path | None = None
        if durability == "memory" or directory is None:
            self._make_store = partial(MemoryStore, max_bytes or _MEMORY_BYTES)
        else:
            bound = max_bytes or _DISK_BYTES
            self._folder = directory.absolute() / self._destination.folder_name / "segments"
            options = SpoolOptions(
                root=directory.absolute(),
                destination=self._destination,
                power=durability == "power",
                max_bytes=bound,
                segment_bytes=min(segment_bytes, max(1, bound // _SEGMENTS_IN_BOUND)),
                segment_seconds=segment_seconds,
            )
            sent = SentOptions(keep_sent_seconds, keep_sent_bytes)
            self._make_store = lambda wake: DiskStore(
                options,
                sent=sent,
                inherit_after=inherit_after,
                files=files or Files(),
                wake=wake,
                clock=clock,
                wall_clock=wall_clock,
            )
        self._started = False
        self._held: tuple[int, Store] | None = None
        self._mutex = threading.Lock()
        self._begin_life()
        _living.add(self)

    def start(self, counts: MutableSequence[float] | None = None) -> None:
        """Starts the sender's thread, unless it runs. In a child of a started parent the first ``record`` does it too.

        Args:
            counts: three numbers that are kept equal to ``recorded``, ``delivered`` and ``buried`` of ``statistics()``
                from now on. In shared memory they tell what a process that is killed had counted.
        """
        with self._mutex:
            if self._life.closed:
                if (
                    not self._life.is_running()
                ):  # otherwise its thread lets go of the store when its request is answered
                    self._life.store.close(0.0)
                self._begin_life()
            self._started = True
            life = self._life
            self._record = life.store.record
            if not life.is_running():
                if counts is not None:
                    life.store.count_into(counts)
                life.sender = self._new_sender(life, counts if counts is not None else [0.0, 0.0, 0.0])
                life.thread = threading.Thread(target=life.sender.run, name="metergate-sender", daemon=True)
                life.thread.start()

    def record(self, lines: bytes, count: int) -> Future[None] | None:
        """Keeps events as durably as configured. Never raises, never waits for the network; about a microsecond.

        Args:
            lines: ``count`` events, each compact JSON ended by a newline. Sent as these very bytes.

        Returns:
            None when that is all. For ``power``, a Future that is done when the events are on disk (or the disk refused, see
            ``unsynced``); it is shared with others and cannot be cancelled. What cannot be kept is counted in
            ``statistics().dropped`` by reason and logged.
        """
        return self._record(lines, count)

    @property
    def recorded(self) -> int:
        """Bytes of the events that ``record`` has kept so far, their newlines included: a position in this process's events.

        ``recorded`` after a call of ``record`` is behind its events. Like ``settled`` it never falls while this process
        lives, starts at 0 in a forked child (and when a closed Delivery is started again), counts nothing that was adopted,
        and may be read from any thread without waiting.
        """
        return self._life.store.recorded_bytes

    @property
    def settled(self) -> int:
        """How many of these bytes, from the first on, need no more sending.

        ``settled >= n`` means that OpenMeter, or the dead letters, have every event that was recorded before ``recorded``
        was n, or that it was lost and counted so in ``statistics().dropped``. What a closed Delivery left in the spool is
        not settled. Never above ``recorded`` as read later.
        """
        return self._life.store.settled_bytes

    @property
    def keeps_on_disk(self) -> bool:
        """Whether recorded events are in files until they are settled."""
        return self._folder is not None

    def mark_unsent(self) -> Callable[[], bool]:
        """A question: are all events settled that are on disk now and are not, whoever recorded them, and with whichever key
        of this OpenMeter?

        For about once a second. Always yes for ``memory``.

        Raises:
            OSError: the spool cannot be read; of the question, too.
        """
        ends = {path: end for folder in self._segments() for path, end in unsent_ends(folder).items()}
        return lambda: are_settled(ends)

    def unsent_events(self) -> Iterator[bytes]:
        """Each event for this OpenMeter on disk that is not settled, of all writers and keys, as the bytes that will be sent.

        For looking at them before ``start``: of what is sent meanwhile some may be among them. Reads as it goes, in little
        memory, takes no lock and changes no file. Without the newlines. Nothing for ``memory``.

        Raises:
            OSError: the spool cannot be read.
        """
        return chain.from_iterable(unsent_events(folder) for folder in self._segments())

    def flush(self, timeout: float) -> bool:
        """Sends at once, and waits until all that this process recorded by now is settled.

        Settled is: acknowledged by OpenMeter, or in the dead letters. False where that took more than ``timeout`` seconds.
        """
        sender = self._life.sender
        if sender is None:
            return self._life.store.recorded <= self._life.store.own_settled
        return sender.flush(timeout)

    def close(self, timeout: float) -> None:
        """Sends what can be sent within ``timeout`` seconds and stops; the rest stays in the spool for the next start.

        A request may be in flight at the end: its thread lets go of the spool when it is answered. Events recorded later
        are still kept on disk, and sent by somebody else or the next start; ``memory`` counts them as ``closed``.
        """
        with self._mutex:
            self._started = False
            life = self._life
            life.closed = True
        deadline = self._clock() + timeout
        if life.sender is None or life.thread is None:
            life.store.close(timeout)
            return
        life.sender.stop(deadline)
        life.thread.join(timeout + 0.5)

    def statistics(self) -> DeliveryStatistics:
        """How it goes; cheap enough for every scrape."""
        life = self._life
        figures = life.store.figures()
        tally = life.sender.tally if life.sender is not None else Tally()
        values = asdict(figures)
        since = values.pop("adopted_since")
        adopted_age = self._wall_clock() - since if since is not None else 0.0
        return DeliveryStatistics(
            state=life.health.state,
            recorded=life.store.recorded,
            oldest_pending_seconds=max(0.0, life.health.oldest_pending(self._clock()), adopted_age),
            last_error=life.health.last_error,
            **values,
            **asdict(tally),
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<Delivery {self._destination.url} {now.state}, {now.pending_events} pending, {now.delivered} delivered>"

    def _segments(self) -> list[Path]:
        """Where events for this OpenMeter are on disk, with any key."""
        root = None if self._folder is None else self._folder.parent.parent
        return [] if root is None else [one.segments for one in folders_of(root, self._destination.url)]

    def _begin_life(self) -> None:
        wake = Wake()
        self._life = _Life(self._make_store(wake), wake, Health(self._destination.url))
        self._record = self._start_and_record if self._started else self._life.store.record

    def _start_and_record(self, lines: bytes, count: int) -> Future[None] | None:
        try:
            self.start()
        except RuntimeError as error:  # no more threads: what is recorded is on disk for others to send
            log.error("The sender of billing events could not be started: %s.", error)
        return self._life.store.record(lines, count)

    def _new_sender(self, life: _Life, counts: MutableSequence[float]) -> Sender:
        return Sender(
            life.store,
            self._open_client,
            limits=self._limits,
            max_delay=self._max_delay,
            wake=life.wake,
            clock=self._clock,
            wall_clock=self._wall_clock,
            jitter=self._jitter,
            health=life.health,
            counts=counts,
        )

    def _before_fork(self) -> None:
        store = self._life.store
        if store.hold(_FORK_WAIT_SECONDS):
            self._held = (threading.get_ident(), store)

    def _after_fork_in_parent(self) -> None:
        held = self._held
        if (
            held is not None and held[0] == threading.get_ident()
        ):  # not what another thread holds for a fork of its own
            self._held = None
            held[1].unhold()

    def _after_fork_in_child(self) -> None:
        """The parent's segments, locks and queue are the parent's; the child begins with none."""
        self._held = None
        with contextlib.suppress(
            OSError
        ):  # a thread of the parent may have been closing the same file just then
            self._life.store.abandon()
        self._mutex = threading.Lock()
        self._begin_life()


_living: weakref.WeakSet[Delivery] = weakref.WeakSet()


def _before_fork() -> None:
    for delivery in list(_living):
        delivery._before_fork()


def _after_fork_in_parent() -> None:
    for delivery in list(_living):
        delivery._after_fork_in_parent()


def _after_fork_in_child() -> None:
    for delivery in list(_living):
        delivery._after_fork_in_child()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


def _check(
    durability: str, directory: Path | None, batch_size: int, max_delay_ms: int, max_bytes: int | None
) -> None:
    if durability not in ("memory", "process", "power"):
        raise UsageError(f'durability is "memory", "process" or "power", not {durability!r}.')
    if directory is None and durability != "memory":
        raise UsageError(
            f'durability "{durability}" needs a directory to keep events in; only "memory" does without.'
        )
    if batch_size < 1 or max_delay_ms < 0 or (max_bytes is not None and max_bytes < 1):
        raise UsageError("batch_size and max_bytes must be at least 1, max_delay_ms at least 0.")
