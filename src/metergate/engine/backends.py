"""What the engines of one process share: deliveries, caches of entitlements, and what was counted."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metergate.delivery import Delivery, DeliveryStatistics, describe, left_behind, one_spelling
from metergate.engine.counting import Counting
from metergate.entitlements import Entitlements, EntitlementStatistics
from metergate.entitlements.usage.local import LocalUsage
from metergate.openmeter.access import AccessClient
from metergate.policy.model import Policy

_log = logging.getLogger("metergate.engine")


@dataclass(frozen=True, slots=True)
class BackendsStatistics:
    """What this process has decided and recorded; ``destinations`` are hosts, never keys. ``not_read``: bodies, or parts of
    them, that meters wanted and that could not be read."""

    decisions: Mapping[str, int]
    dropped: Mapping[str, int]
    deliveries: Mapping[str, DeliveryStatistics]
    entitlements: Mapping[str, EntitlementStatistics]
    not_read: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Checked:
    """What the policies of one OpenMeter check."""

    features: set[str] = field(default_factory=set)
    visibility: float = 0.0


class Backends:
    """What the engines of one process share: a delivery and a cache of entitlements for each destination.

    ``spool`` is the folder of the spool, created when needed; None only where every policy's durability is ``memory``.
    Made before a fork or an event loop; `start` opens files and threads, in the process that will use them.
    ``workers`` is how many processes of this host do the same and share the budgets of reads with this one.
    """

    def __init__(
        self, spool: Path | None, *, workers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.spool = spool
        self._workers = workers
        self.decisions: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.not_read: Counter[str] = Counter()
        self._clock = clock
        self._started = False
        self._deliveries: dict[tuple[str, str, str, int, int], Delivery] = {}
        self._entitlements: dict[tuple[str, str], Entitlements] = {}
        self.locals: dict[tuple[str, str], LocalUsage] = {}
        """What counts the events that are recorded with a URL and key; filled by `start`."""
        self._sources: dict[tuple[str, str], AccessClient] = {}
        self._checked: dict[tuple[str, str], _Checked] = {}
        self._countings: dict[str, Counting] = {}

    def delivery(self, policy: Policy) -> Delivery:
        """The delivery for that policy's destination and options; one for all policies that agree in them."""
        key = policy.api_key.reveal()
        options = policy.delivery
        wanted = (policy.api_url, key, options.durability, options.batch_size, options.max_delay_ms)
        if wanted not in self._deliveries:
            self._deliveries[wanted] = Delivery(
                policy.api_url,
                key,
                directory=None if options.durability == "memory" else self.spool,
                durability=options.durability,
                batch_size=options.batch_size,
                max_delay_ms=options.max_delay_ms,
            )
            if self._started:
                self._start_late(wanted)
        return self._deliveries[wanted]

    def entitlements(self, policy: Policy) -> Entitlements:
        """The snapshots of that policy's destination. Of the budgets of the policies that check the highest
        counts.
        """
        wanted = (policy.api_url, policy.api_key.reveal())
        most_reads = policy.entitlement_check.max_reads_per_second
        if wanted not in self._entitlements:
            self._sources[wanted] = AccessClient(*wanted)
            self._entitlements[wanted] = Entitlements(
                self._sources[wanted],
                max_reads_per_second=most_reads,
                workers=self._workers,
                clock=self._clock,
            )
        if policy.required_entitlements:
            self._entitlements[wanted].allow_reads(most_reads)
            checked = self._checked.setdefault(wanted, _Checked())
            checked.features.update(policy.required_entitlements)
            checked.visibility = max(checked.visibility, policy.entitlement_check.visibility_seconds)
        return self._entitlements[wanted]

    @property
    def needs_spool(self) -> bool:
        """Whether any delivery made so far keeps its events on disk."""
        return any(durability != "memory" for _, _, durability, _, _ in self._deliveries)

    @property
    def urls(self) -> list[str]:
        """The OpenMeters that events go to or entitlements come from."""
        return sorted({url for url, *_ in self._deliveries} | {url for url, *_ in self._entitlements})

    def start(self, counts: Callable[[str], MutableSequence[float] | None] | None = None) -> None:
        """Begin to send. Once in each process that records.

        ``counts`` gives the numbers of a destination, named as in `statistics`, for `Delivery.start`.
        """
        self._started = True
        for wanted in self._checked:
            self._begin_to_count(wanted)
        for name, delivery in _by_host(
            (key[0], delivery) for key, delivery in self._deliveries.items()
        ).items():
            delivery.start(None if counts is None else counts(name))
        if self.spool is not None:
            self._name_what_is_left(self.spool)

    def watch(self, policy: Policy, feature: str) -> None:
        """Count the usage of this feature, too, whether or not a policy requires it."""
        wanted = (policy.api_url, policy.api_key.reveal())
        checked = self._checked.setdefault(wanted, _Checked())
        checked.features.add(feature)
        checked.visibility = max(checked.visibility, policy.entitlement_check.visibility_seconds)
        counting = self._countings.get(one_spelling(policy.api_url))
        if counting is not None:
            counting.watch((feature,))
        if self._started:
            self._begin_to_count(wanted)

    def _begin_to_count(self, wanted: tuple[str, str]) -> None:
        """Let the local count decide with this key, too. All keys of an OpenMeter have one count."""
        if self._entitlements[wanted].is_counted:
            return
        url = one_spelling(wanted[0])
        counting = self._countings.get(url)
        if counting is None:
            counting = self._countings[url] = self._open_count(url)
        counted = counting.add(self._sources[wanted], describe(*wanted).folder_name)
        self._entitlements[wanted].count_by(counted)
        for each in {(key[0], key[1]) for key in self._deliveries}:
            if one_spelling(each[0]) == url:
                self.locals.setdefault(each, counting.local)
        self.locals[wanted] = counted.local

    def _start_late(self, wanted: tuple[str, str, str, int, int]) -> None:
        """Begin to send with a delivery that was not there at the start."""
        url, key, *_ = wanted
        counting = self._countings.get(one_spelling(url))
        if counting is not None:
            counting.include(self._deliveries[wanted])
            self.locals.setdefault((url, key), counting.local)
        self._deliveries[wanted].start()

    def _open_count(self, url: str) -> Counting:
        checked = [checked for wanted, checked in self._checked.items() if one_spelling(wanted[0]) == url]
        return Counting(
            None if self.spool is None else self.spool.absolute() / "usage" / describe(url, "").folder_name,
            [delivery for key, delivery in self._deliveries.items() if one_spelling(key[0]) == url],
            {feature for each in checked for feature in each.features},
            visibility=max(each.visibility for each in checked),
            clock=self._clock,
        )

    def _name_what_is_left(self, spool: Path) -> None:
        """Another configuration may have left events here that none of these deliveries looks for."""
        sent = {url for url, _, durability, _, _ in self._deliveries if durability != "memory"}
        for folder in left_behind(spool, sent):
            _log.error(
                "Events for %s are left in %s and nobody sends them: no policy has that apiUrl with a durability other than "
                "memory. Configure one, and they are sent.",
                folder.destination.url,
                folder.path,
            )

    def expire(self, subject: str) -> None:
        """OpenMeter has something new to say of a subject; see `Entitlements.expire`."""
        for entitlements in self._entitlements.values():
            entitlements.expire(subject)

    async def stop(self) -> None:
        """Ask OpenMeter no more. What is recorded is sent by `drain`."""
        for entitlements in self._entitlements.values():
            await entitlements.close()
        for counting in self._countings.values():
            counting.close()

    def flush(self, timeout: float) -> bool:
        """Send what this process has recorded by now; False where that takes more than ``timeout`` seconds in all. Blocks."""
        deadline = time.monotonic() + timeout
        flushed = [
            delivery.flush(max(deadline - time.monotonic(), 0.0)) for delivery in self._deliveries.values()
        ]
        return all(flushed)

    def drain(self, timeout: float) -> None:
        """Send what is recorded, for at most ``timeout`` seconds in all; what is left stays in the spool. Blocks.

        All at the same time: an OpenMeter that is away must not use up the time of the others.
        """
        closing = [
            threading.Thread(target=delivery.close, args=(timeout,), name="metergate-drain")
            for delivery in self._deliveries.values()
        ]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def statistics(self) -> BackendsStatistics:
        return BackendsStatistics(
            decisions=dict(self.decisions),
            dropped=dict(self.dropped),
            not_read=dict(self.not_read),
            deliveries=_by_host(
                (key[0], delivery.statistics()) for key, delivery in self._deliveries.items()
            ),
            entitlements=_by_host((key[0], cache.statistics()) for key, cache in self._entitlements.items()),
        )


def _by_host(pairs: Any) -> dict[str, Any]:
    """The host of each URL as key; a second destination of the same host gets ``#2``."""
    named: dict[str, Any] = {}
    for url, value in pairs:
        host = name = url.partition("://")[2] or url
        number = 1
        while name in named:
            number += 1
            name = f"{host}#{number}"
        named[name] = value
    return named
