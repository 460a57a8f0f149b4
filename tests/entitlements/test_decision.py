import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.entitlements.decision import (
    GRANTED,
    REASONS,
    Decision,
    Failure,
    decide,
    decide_used_up,
    decide_without_answer,
    deny,
    grants,
)
from metergate.entitlements.snapshot import Snapshot
from metergate.openmeter.values import FeatureValue, SubjectAccess
from metergate.policy.model import EntitlementCheck, FeatureCheck

CHECK = EntitlementCheck(exhausted_status=402)
VALUES = (
    FeatureValue("boolean", True),
    FeatureValue("metered", True, 5.0, 3.0, 0),
    FeatureValue("soft", True, 0, 9.0, 4.0),
    FeatureValue("off", False),
    FeatureValue("empty", False, 0, 10.0, 2.5),
    FeatureValue("paused", False, 7.0, 1.0, 0),
)
FOUND = Snapshot(100.0, SubjectAccess("found", VALUES))

EMPTY = Failure("empty", "exhausted", 0, 10.0, 2.5)
OFF = Failure("off", "no_access")
MISSING = Failure("missing", "not_found", detail="no such entitlement")


@pytest.mark.parametrize(
    ("features", "reason", "status", "failures"),
    [
        (("boolean",), "granted", 0, ()),
        (("metered",), "granted", 0, ()),
        (("soft",), "granted", 0, ()),
        (("boolean", "metered", "soft"), "granted", 0, ()),
        ((), "granted", 0, ()),
        (("off",), "no_access", 403, (OFF,)),
        (("paused",), "no_access", 403, (Failure("paused", "no_access", 7.0, 1.0, 0),)),
        (("empty",), "exhausted", 402, (EMPTY,)),
        (("missing",), "not_found", 403, (MISSING,)),
        (("boolean", "empty"), "exhausted", 402, (EMPTY,)),
        (("empty", "off"), "no_access", 403, (EMPTY, OFF)),
        (("empty", "missing", "metered", "off"), "not_found", 403, (EMPTY, MISSING, OFF)),
    ],
)
def test_all_features_must_be_granted_and_every_failure_is_told(features, reason, status, failures):
    decision = decide(FOUND, features, CHECK, now=107.0)
    assert (decision.allowed, decision.reason, decision.status) == (not failures, reason, status)
    assert decision.failures == failures
    assert decision.age == (7.0 if failures else None)
    assert grants(FOUND, features) is decision.allowed


@pytest.mark.parametrize(
    ("state", "detail"), [("absent", "no such customer"), ("deleted", "the customer is deleted")]
)
def test_a_missing_and_a_deleted_customer_are_not_found_and_told_apart(state, detail):
    decision = decide(Snapshot(0, SubjectAccess(state)), ("a", "b"), CHECK, now=0)
    assert (decision.reason, decision.status) == ("not_found", 403)
    assert decision.failures == tuple(Failure(name, "not_found", detail=detail) for name in "ab")


@pytest.mark.parametrize("status", [402, 403, 429])
def test_the_status_of_an_exhausted_feature_is_the_policys(status):
    assert decide(FOUND, ("empty",), EntitlementCheck(exhausted_status=status), now=0).status == status


SPENT = Snapshot(0.0, SubjectAccess("found", tuple(FeatureValue(name, False, 0) for name in "abc")))


def by_status(**statuses):
    """Features with an ``exhaustedStatus`` each; that of all others is 429."""
    features = tuple(FeatureCheck(name, exhausted_status=status) for name, status in statuses.items())
    return EntitlementCheck(exhausted_status=429, features=features)


@pytest.mark.parametrize(
    ("statuses", "features", "status"),
    [
        ({"a": 402}, ("a",), 402),
        ({"a": 402}, ("b",), 429),
        ({"a": 402}, ("b", "a"), 402),
        ({"a": 402}, ("a", "b"), 402),
        ({"a": 402, "c": 403}, ("a", "b", "c"), 403),
        ({"a": 402, "c": 403}, ("c", "b", "a"), 403),
        ({"c": 403}, ("b", "a"), 429),
    ],
)
def test_of_several_exhausted_features_the_status_promises_no_more_than_is_so_for_all(
    statuses, features, status
):
    decision = decide(SPENT, features, by_status(**statuses), now=0)
    assert (decision.reason, decision.status) == ("exhausted", status)
    assert [failure.feature for failure in decision.failures] == list(features)


def test_a_status_of_a_feature_that_is_not_exhausted_counts_for_nothing():
    values = (FeatureValue("a", True), FeatureValue("b", False, 0))
    found = Snapshot(0.0, SubjectAccess("found", values))
    assert decide(found, ("a", "b"), by_status(a=403), now=0).status == 429
    assert decide(found, ("b", "missing"), by_status(missing=402), now=0).status == 403


@pytest.mark.parametrize(
    ("reasons", "reason", "status"),
    [
        (("error", "exhausted"), "exhausted", 402),
        (("error", "no_access"), "no_access", 403),
        (("exhausted", "not_found", "no_access"), "not_found", 403),
        (("error", "error"), "error", 503),
    ],
)
def test_what_is_known_goes_before_what_could_not_be_asked(reasons, reason, status):
    failures = tuple(Failure(f"f{number}", each) for number, each in enumerate(reasons))
    denied = deny(failures, CHECK, age=None, retry_after=7)
    assert (denied.reason, denied.status, denied.retry_after) == (
        reason,
        status,
        7 if status == 503 else None,
    )


def test_a_grant_by_the_last_answer_says_stale_and_how_old_it_is():
    assert decide(FOUND, ("boolean",), CHECK, now=160.0, stale=True) == Decision(True, "stale", age=60.0)


def test_a_denial_by_the_last_answer_keeps_its_reason():
    decision = decide(FOUND, ("empty",), CHECK, now=160.0, stale=True)
    assert (decision.reason, decision.status, decision.age) == ("exhausted", 402, 60.0)


def test_what_was_recorded_here_exhausts_a_feature_like_an_answer_does():
    decision = decide_used_up(FOUND, "metered", CHECK, now=103.0)
    assert (decision.allowed, decision.reason, decision.status, decision.age) == (
        False,
        "exhausted",
        402,
        3.0,
    )
    (failure,) = decision.failures
    assert (failure.feature, failure.balance) == ("metered", 5.0)
    assert failure.detail == "by the usage recorded here"


def test_shadow_blocks_nothing_and_tells_what_it_would_have_done():
    check = EntitlementCheck(mode="shadow", on_error="deny")
    decision = decide(FOUND, ("off",), check, now=100.0)
    assert decision == Decision(True, "no_access", failures=(OFF,), age=0.0, shadowed=True)
    without = decide_without_answer(("off",), check, retry_after=3.0)
    assert (without.allowed, without.shadowed, without.reason, without.status) == (True, True, "error", 0)
    assert not decide(FOUND, ("boolean",), check, now=100.0).shadowed


def test_without_an_answer_on_error_decides():
    assert decide_without_answer(("a",), CHECK, retry_after=3.0) == Decision(True, "error_allowed")
    denied = decide_without_answer(("a", "b"), EntitlementCheck(on_error="deny"), retry_after=2.1)
    assert (denied.allowed, denied.reason, denied.status, denied.retry_after) == (False, "error", 503, 3)
    assert [(failure.feature, failure.reason) for failure in denied.failures] == [
        ("a", "error"),
        ("b", "error"),
    ]


@pytest.mark.parametrize(
    ("on_error", "settings", "features", "denied"),
    [
        ("allow", {"b": "deny"}, ("a", "b", "c"), ["b"]),
        ("allow", {"b": "deny"}, ("a", "c"), []),
        ("deny", {"b": "allow"}, ("a", "b", "c"), ["a", "c"]),
        ("deny", {"b": "allow"}, ("b",), []),
        ("allow", {"a": "deny", "c": "deny"}, ("c", "b", "a"), ["c", "a"]),
    ],
)
def test_without_an_answer_one_feature_that_says_deny_is_enough(on_error, settings, features, denied):
    strict = tuple(FeatureCheck(name, on_error=each) for name, each in settings.items())
    check = EntitlementCheck(on_error=on_error, features=strict)
    decision = decide_without_answer(features, check, retry_after=3)
    assert (decision.allowed, decision.status) == (not denied, 503 if denied else 0)
    assert decision.reason == ("error" if denied else "error_allowed")
    assert [(failure.feature, failure.reason) for failure in decision.failures] == [
        (name, "error") for name in denied
    ]


@pytest.mark.parametrize(("wait", "retry_after"), [(-1.0, 1), (0.0, 1), (1.0, 1), (29.01, 30)])
def test_a_client_is_told_to_wait_whole_seconds_and_at_least_one(wait, retry_after):
    check = EntitlementCheck(on_error="deny")
    assert decide_without_answer(("a",), check, retry_after=wait).retry_after == retry_after


feature_values = st.builds(
    FeatureValue,
    st.sampled_from("abcd"),
    st.booleans(),
    st.none() | st.integers(-2, 5) | st.floats(-2, 5),
    st.none() | st.integers(0, 9),
    st.none() | st.integers(0, 9),
)
checks = st.builds(
    EntitlementCheck,
    exhausted_status=st.sampled_from([402, 403, 429]),
    mode=st.sampled_from(["enforce", "shadow"]),
    on_error=st.sampled_from(["allow", "deny"]),
)


@given(
    st.lists(feature_values, max_size=4, unique_by=lambda value: value.feature),
    st.lists(st.sampled_from("abcde"), max_size=5, unique=True),
    checks,
    st.booleans(),
)
def test_a_decision_never_contradicts_itself(values, features, check, stale):
    snapshot = Snapshot(0.0, SubjectAccess("found", tuple(values)))
    decision = decide(snapshot, tuple(features), check, now=1.0, stale=stale)
    assert decision.allowed is (not decision.failures or check.mode == "shadow")
    assert (decision.status == 0) is decision.allowed
    assert decision.shadowed is (decision.allowed and bool(decision.failures))
    assert decision.reason in REASONS
    assert (decision.reason == "stale") is (stale and not decision.failures)
    assert (decision is GRANTED) is (not stale and not decision.failures)
    assert grants(snapshot, tuple(features)) is not bool(decision.failures)
    if not decision.allowed:
        only_exhausted = all(failure.reason == "exhausted" for failure in decision.failures)
        assert decision.status == (check.exhausted_status if only_exhausted else 403)


def test_retry_after_is_only_with_a_503():
    assert deny((OFF,), CHECK, age=None, retry_after=9).retry_after is None
