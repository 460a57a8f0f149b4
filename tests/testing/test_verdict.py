"""The verdict finds each way in which usage can be wrong, and nothing where it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from metergate.testing.callers import Call, Ledger, Seen
from metergate.testing.verdict import discrepancies, read_journal

METERS = ("requests", "bytes")
OK, MISSING = Call("/ok"), Call("/missing", status=404)


def _account() -> tuple[Ledger, Counter[str], dict[str, int]]:
    """Three complete answers, one of them not metered, and one in doubt that was metered."""
    ledger = Ledger(sent=4, in_doubt={3})
    ledger.complete = {0: Seen("a", OK, 200), 1: Seen("b", OK, 200), 2: Seen("c", MISSING, 404)}
    listed = Counter(f"{name}-{meter}" for name in ("a", "b", "d") for meter in METERS)
    return ledger, listed, {"a": 0, "b": 1, "c": 2, "d": 3}


def test_accounts_that_agree_have_no_discrepancy() -> None:
    assert discrepancies(*_account(), METERS) == []


def _lose(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    del listed["b-bytes"]


def _double(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    listed["d-bytes"] += 1


def _invent(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    listed["z-bytes"] += 1


def _rename(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    listed["a-other"] += 1


def _meter_the_unmetered(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    listed["c-bytes"] += 1


def _use_an_id_again(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    ledger.complete[3] = ledger.complete[0]


def _fail_a_response(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    ledger.complete[2] = Seen("c", MISSING, 502)


def _send_twice(ledger: Ledger, listed: Counter[str], reached: dict[str, int]) -> None:
    reached["e"] = 4


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_lose, "1 events lost, of answers seen complete: ['b-bytes']"),
        (_double, "1 events there more than once: ['d-bytes']"),
        (_invent, "1 events of requests that nobody sent: ['z']"),
        (_rename, "1 events of another meter: ['a-other']"),
        (_meter_the_unmetered, "1 events of answers whose status is not metered: ['c']"),
        (_use_an_id_again, "1 request ids used more than once: ['a']"),
        (_fail_a_response, "1 answers with an unexpected status: [\"('/missing', 502)\"]"),
        (_send_twice, "1 requests at the upstream that no caller sent: ['4']"),
    ],
)
def test_each_discrepancy_is_named_with_its_first_cases(
    spoil: Callable[[Ledger, Counter[str], dict[str, int]], None], complaint: str
) -> None:
    account = _account()
    spoil(*account)
    assert discrepancies(*account, METERS) == [complaint]


def test_a_journal_gives_the_number_of_each_request_by_its_id() -> None:
    lines = ["GET\t/bytes?n=1&tag=7\tr-7\n", "GET\t/status/200\t-\n", "POST\t/echo?tag=8\tr-8\n"]
    assert read_journal(lines) == {"r-7": 7, "r-8": 8}
