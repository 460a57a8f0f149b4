"""What other processes of the host were answered, taken into the snapshots of this one, and told of what it was answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metergate.entitlements.answers import KEPT_SECONDS, Answers
from metergate.entitlements.snapshot import Snapshot, Snapshots
from metergate.entitlements.usage.local import LocalUsage


class News:
    """Between the file of answers and the snapshots. On the event loop."""

    def __init__(
        self, answers: Answers | None, snapshots: Snapshots, local: LocalUsage, clock: Callable[[], float]
    ) -> None:
        """``answers`` None: there are no other processes that could know of ceilings here."""
        self._answers = answers
        self._snapshots = snapshots
        self._local = local
        self._clock = clock
        self._recalled = False

    def recall(self) -> None:
        """Take what was answered before this process began, as soon as it is known how events count: before, this process
        must not let in anybody on the answers of others, because what it records would count for nobody.
        """
        if self._answers is not None and self._local.knows:
            self._recalled = True
            self._take(self._answers.recall())

    def look(self) -> Iterable[tuple[str, Snapshot]]:
        """Take what others were answered since the last look; whose snapshots are new."""
        if self._answers is None or not self._local.knows:
            return ()
        if not self._recalled:
            self.recall()
        found = self._answers.look()
        return self._take(found) if found else ()

    def share(self, answers: Iterable[tuple[str, Snapshot]]) -> None:
        """Tell the others."""
        if self._answers is not None:
            self._answers.share(answers)

    def _take(self, found: Iterable[tuple[str, Snapshot]]) -> list[tuple[str, Snapshot]]:
        now, taken = self._clock(), []
        for subject, heard in found:
            known = self._snapshots.entries.get(subject)
            if not now - KEPT_SECONDS < heard.asked_at <= now:
                continue
            if known is not None and not heard.is_newer_than(known):
                if heard.asked_at == known.asked_at and heard.is_expired:
                    known.expire()
            elif self._has_all_ceilings(heard) and all(
                self._can_read(ceiling.place.number) for ceiling in heard.ceilings
            ):
                self._snapshots.put(subject, heard)
                taken.append((subject, heard))
        return taken

    def _has_all_ceilings(self, heard: Snapshot) -> bool:
        """Whether nothing is unlimited by it that is counted here: who was answered may not count it, or not yet, or know
        the limit for a soft one.
        """
        missing = set(self._local.counted).difference(ceiling.feature for ceiling in heard.ceilings)
        return not any(
            value.has_access and value.feature in missing and (value.balance or heard.is_provisional)
            for value in heard.values
        )

    def _can_read(self, place: int) -> bool:
        """Whether this process may look at a place that another has made ceilings for."""
        with self._local.lock:
            folder = self._local.ledger.folder
            return 0 <= place < folder.places.most and folder.make_room(place)
