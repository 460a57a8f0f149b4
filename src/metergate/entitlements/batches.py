"""Many subjects asked for by one batch query, and the snapshots that come of its answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from metergate.entitlements.confirmation import (
    LEAST_SUBJECTS,
    NOT_OFFERED_SECONDS,
    Confirmations,
    confirm,
    provisional,
)
from metergate.entitlements.counted import Counted
from metergate.entitlements.snapshot import Snapshot, Snapshots
from metergate.entitlements.source import AccessSource
from metergate.openmeter.batch import MOST_SUBJECTS

PATIENCE_SECONDS = 0.5
"""How long a query should take: somebody waits for it, and OpenMeter takes its subjects one by one."""


class Batches:
    """The batch queries of one OpenMeter."""

    def __init__(self, source: AccessSource, snapshots: Snapshots, clock: Callable[[], float]) -> None:
        self.confirmations = Confirmations()
        self.counted: Counted | None = None
        self.most = MOST_SUBJECTS
        """Subjects of one query, as many as OpenMeter has answered for at that pace."""
        self._source = source
        self._snapshots = snapshots
        self._clock = clock

    async def read(
        self, subjects: Sequence[str], blank: Collection[str], features: tuple[str, ...], began: float
    ) -> dict[str, Snapshot] | None:
        """The snapshots of those whom the answer confirms, and of those of the ``blank`` whom it grants something; None
        where there is no answer to these features. Raises OpenMeterError.
        """
        counted, confirmations = self.counted, self.confirmations
        asked = {} if counted is None or not blank else await counted.ask_many(blank)
        answer = await self._source.query(subjects, features)
        if answer is None:
            confirmations.close(self._clock() + NOT_OFFERED_SECONDS)
            return None
        confirmations.succeed()
        pace = max(self._clock() - began, 0.001) / len(subjects)
        self.most = max(LEAST_SUBJECTS, min(int(PATIENCE_SECONDS / pace), 2 * self.most, MOST_SUBJECTS))
        if features != confirmations.features:
            return None
        for subject in answer.unknown.intersection(subjects):
            confirmations.leave_alone(subject)
        found = {}
        for subject in subjects:
            access = answer.access.get(subject)
            if subject in asked and counted is not None:
                snapshot = counted.provide(subject, provisional(access, features, began), asked[subject])
            else:
                snapshot = confirm(self._snapshots.entries.get(subject), access, features, began)
            if snapshot is not None:
                found[subject] = snapshot
        return found
