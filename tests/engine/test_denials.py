"""Denials in the log: each at once, a flood in numbers."""

import pytest

from metergate.engine.denials import LINES, NO_USER, PERIOD_SECONDS, Denial, DenialLog, denial_of
from metergate.entitlements import Decision
from metergate.entitlements.decision import Failure

FAILED = (Failure("api", "exhausted", 0.0, 100.0, 5.0), Failure("sso", "no_access", None, None, None))


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def log(clock):
    return DenialLog("metered", shadow=False, clock=clock)


def decision(reason="exhausted", status=403, retry_after=None):
    return Decision(
        allowed=False,
        reason=reason,
        status=status,
        failures=FAILED,
        age=1.0,
        shadowed=False,
        retry_after=retry_after,
    )


def test_a_line_has_policy_subject_route_reason_and_every_failed_feature(log, caplog):
    log.say("acme", denial_of(decision()), "GET /orders")
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "policy metered denied: exhausted")
    assert (record.policy, record.subject, record.route, record.reason) == (
        *("metered", "acme"),
        *("GET /orders", "exhausted"),
    )
    assert record.failures == [
        {"feature": "api", "reason": "exhausted", "balance": 0.0, "usage": 100.0, "overage": 5.0},
        {"feature": "sso", "reason": "no_access", "balance": None, "usage": None, "overage": None},
    ]


def test_a_line_has_the_age_of_the_answer_that_it_was_decided_on(log, caplog):
    log.say("acme", denial_of(decision()), "GET /")
    log.say("acme", NO_USER, "GET /")
    assert [record.age for record in caplog.records] == [1.0, None]


def test_the_problem_has_the_reason_of_each_feature_and_no_balance():
    assert denial_of(decision()).members() == {
        "detail": "Your quota is used up for: api, sso.",
        "reason": "exhausted",
        "age": 1.0,
        "features": [
            {"feature": "api", "reason": "exhausted"},
            {"feature": "sso", "reason": "no_access"},
        ],
    }


def test_the_problem_of_who_is_not_known_has_a_reason_and_nothing_that_was_not_looked_at():
    assert NO_USER.members() == {"detail": NO_USER.detail, "reason": "no_user"}


def test_the_problem_has_an_age_only_where_there_was_an_answer():
    unanswered = Decision(False, "error", 503, (Failure("api", "error"),), retry_after=3)
    members = denial_of(unanswered).members()
    assert (members["reason"], members["features"]) == ("error", [{"feature": "api", "reason": "error"}])
    assert "age" not in members


def test_in_shadow_the_line_says_that_nothing_was_blocked(clock, caplog):
    DenialLog("metered", shadow=True, clock=clock).say(None, NO_USER, "GET /")
    assert caplog.records[0].getMessage() == "policy metered would deny (shadow): no_user"


def test_a_flood_is_one_line_and_then_its_number(log, clock, caplog):
    for _ in range(1000):
        log.say("acme", NO_USER, "GET /")
    assert len(caplog.records) == 1
    clock.now = PERIOD_SECONDS
    log.say("acme", NO_USER, "GET /")
    assert [record.getMessage() for record in caplog.records[1:]] == [
        "policy metered denied 999 requests more, like those it has named before",
        "policy metered denied: no_user",
    ]
    assert (caplog.records[1].unsaid, log.unsaid) == (999, 999)


def test_another_subject_route_or_reason_has_a_line_of_its_own(log, caplog):
    other = Denial(403, "no", "other")
    for subject, denial, route in [
        ("a", NO_USER, "1"),
        ("b", NO_USER, "1"),
        ("a", NO_USER, "2"),
        ("a", other, "1"),
    ]:
        log.say(subject, denial, route)
        log.say(subject, denial, route)
    assert len(caplog.records) == 4


def test_a_flood_of_subjects_is_bounded(log, caplog):
    for number in range(LINES + 100):
        log.say(f"subject {number}", NO_USER, "GET /")
    assert (len(caplog.records), log.unsaid) == (LINES, 100)


def test_a_new_period_without_a_flood_says_no_number(log, clock, caplog):
    for at in (0.0, PERIOD_SECONDS, 2 * PERIOD_SECONDS):
        clock.now = at
        log.say("acme", NO_USER, "GET /")
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("exhausted", "Your quota is used up for: api, sso."),
        ("no_access", "You have no access to: api, sso."),
        ("error", "It could not be found out whether you are entitled to: api, sso. Try again shortly."),
    ],
)
def test_the_answer_names_every_feature(reason, detail):
    assert denial_of(decision(reason)).detail == detail


@pytest.mark.parametrize(("retry_after", "seconds"), [(None, 1), (0.2, 1), (7.0, 7), (7.1, 8)])
def test_an_answer_that_may_differ_soon_says_when(retry_after, seconds):
    assert denial_of(decision("error", 503, retry_after)).retry_after == seconds
    assert denial_of(decision("exhausted", 403, retry_after)).retry_after is None
