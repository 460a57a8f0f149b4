"""What another process was answered serves here only where it limits all that is counted here."""

from __future__ import annotations

import pytest

from metergate.entitlements.answers import Answers
from metergate.entitlements.news import News
from metergate.entitlements.snapshot import NEVER, Snapshot, Snapshots
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.ledger import Ledger
from metergate.entitlements.usage.local import LocalUsage
from metergate.entitlements.usage.watermark import Watermark
from metergate.openmeter.catalog import Catalog, Feature, Meter
from metergate.openmeter.values import FeatureValue, SubjectAccess

CATALOG = Catalog((Feature("calls", "1", "m"),), (Meter("m", "2", "call", "COUNT"),))
METERED = FeatureValue("calls", True, balance=10.0, usage=0.0)
USED_UP = FeatureValue("calls", False, balance=0.0, usage=10.0)
GRANTED = FeatureValue("calls", True)


class Process:
    """Watches these features, and hears what others were answered."""

    def __init__(self, path, clock, *features):
        ledger = Ledger(Folder(path, most_places=8), Watermark(lambda: [(1, 0)]), clock, visibility=5)
        self.local = LocalUsage(ledger)
        self.local.watch(features)
        self.local.learn(CATALOG)
        self.snapshots = Snapshots(8)
        self.answers = Answers(path / "answers")
        self.news = News(self.answers, self.snapshots, self.local, clock)
        self.news.recall()

    def answered(self, at, value, *, provisional=False):
        asked, snapshot = self.local.ask("acme"), Snapshot(at, SubjectAccess("found", (value,)))
        if provisional:
            snapshot.balances_at = NEVER
            snapshot.ceilings = self.local.least_ceilings(asked, ["calls"]) or ()
        else:
            snapshot.ceilings = self.local.ceilings(asked, (value,))
        self.news.share([("acme", snapshot)])

    def hears(self):
        return [subject for subject, _ in self.news.look()]

    def close(self):
        self.answers.close()
        self.local.ledger.folder.close()


@pytest.fixture
def process(tmp_path, clock):
    """``process("calls", …)`` starts one that counts these features."""
    made = []

    def start(*features):
        made.append(Process(tmp_path, clock, *features))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("value", "provisional"),
    [(METERED, False), (GRANTED, True)],
    ids=["with a balance", "provisional"],
)
def test_an_answer_of_who_does_not_count_a_feature_limits_nobody_and_so_serves_nobody(
    process, clock, value, provisional
):
    counts, does_not = process("calls"), process()
    clock.advance(1)
    does_not.answered(clock(), value, provisional=provisional)
    assert counts.hears() == []
    assert "acme" not in counts.snapshots.entries
    also = process("calls")
    clock.advance(1)
    also.answered(clock(), value, provisional=provisional)
    assert counts.hears() == ["acme"]
    assert counts.snapshots.entries["acme"].ceilings


def test_nor_after_a_start_that_counts_a_feature_more(process, clock):
    clock.advance(1)
    process().answered(clock(), METERED)
    assert "acme" not in process("calls").snapshots.entries
    assert "acme" in process().snapshots.entries


@pytest.mark.parametrize("value", [USED_UP, GRANTED], ids=["nothing left", "without a balance"])
def test_an_answer_that_needs_no_ceiling_serves(process, clock, value):
    counts, does_not = process("calls"), process()
    clock.advance(1)
    does_not.answered(clock(), value)
    assert counts.hears() == ["acme"]
