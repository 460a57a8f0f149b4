import asyncio
import contextvars
import functools
import logging

import pytest

from metergate.entitlements import Entitlements
from metergate.entitlements.decision import GRANTED
from metergate.errors import OpenMeterOutage, OpenMeterThrottled, OpenMeterUnauthorized
from metergate.openmeter.access import AccessClient
from metergate.openmeter.values import FeatureValue, SubjectAccess
from metergate.policy.model import EntitlementCheck
from metergate.testing.entitled import EntitledServer, granted, metered

API = ("api",)
CHECK = EntitlementCheck(ttl_seconds=5, max_stale_seconds=300, timeout_seconds=30)
DENY = EntitlementCheck(ttl_seconds=5, max_stale_seconds=300, timeout_seconds=30, on_error="deny")
IMPATIENT = EntitlementCheck(ttl_seconds=5, max_stale_seconds=300, timeout_seconds=0.02)
EACH = EntitlementCheck(ttl_seconds=0, max_stale_seconds=300, timeout_seconds=30)
GRANTS = SubjectAccess("found", (FeatureValue("api", True),))
DENIES = SubjectAccess("found", (FeatureValue("api", False, 0, 10, 0),))


@pytest.fixture
def checks(source, clock):
    return Entitlements(source, clock=clock, jitter=lambda: 0.999)


async def settle():
    """Let all that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


def in_a_loop(test):
    """Run an async test on a loop of its own."""

    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(test(**fixtures))

    return run


# --- fresh, expired, unknown


@in_a_loop
async def test_an_unknown_subject_is_asked_for_once_and_then_decided_without_waiting(checks, source):
    assert checks.decide("acme", API, CHECK) is None
    assert await checks.ask("acme", API, CHECK) is GRANTED
    assert checks.decide("acme", API, CHECK) is GRANTED
    assert source.asked == ["acme"]


@in_a_loop
async def test_an_answer_serves_until_its_ttl_is_over(checks, source, clock):
    await checks.ask("acme", API, CHECK)
    clock.advance(4.99)
    assert checks.decide("acme", API, CHECK) is GRANTED
    await settle()
    assert source.asked == ["acme"]


@in_a_loop
async def test_an_expired_grant_serves_while_one_request_refreshes_it(checks, source, clock):
    await checks.ask("acme", API, CHECK)
    source.answer, source.held = DENIES, True
    clock.advance(5)
    assert [checks.decide("acme", API, CHECK) for _ in range(100)] == [GRANTED] * 100
    await settle()
    assert source.asked == ["acme", "acme"]
    assert checks.statistics().refreshes == 1
    source.let_go()
    await settle()
    assert checks.decide("acme", API, CHECK).reason == "exhausted"


# --- what OpenMeter itself says has changed


@in_a_loop
@pytest.mark.parametrize(("before", "after"), [(GRANTS, DENIES), (DENIES, GRANTS)])
async def test_an_expired_subject_is_asked_for_before_the_next_decision(checks, source, before, after):
    source.answer = before
    first = await checks.ask("acme", API, CHECK)
    source.answer = after
    checks.expire("acme")
    assert checks.decide("acme", API, CHECK) is None
    second = await checks.ask("acme", API, CHECK)
    assert (first.allowed, second.allowed) == (before is GRANTS, after is GRANTS)
    assert checks.decide("acme", API, CHECK).allowed is second.allowed
    assert source.asked == ["acme", "acme"]


@in_a_loop
async def test_others_than_the_expired_subject_are_not_asked_for(checks, source):
    for subject in ("acme", "other"):
        await checks.ask(subject, API, CHECK)
    checks.expire("acme")
    checks.expire("nobody")
    assert checks.decide("other", API, CHECK) is GRANTED
    assert source.asked == ["acme", "other"]


@in_a_loop
async def test_an_answer_that_was_on_its_way_when_the_subject_expired_serves_nobody(checks, source):
    source.held = True
    waiting = asyncio.create_task(checks.ask("acme", API, CHECK))
    await settle()
    source.answer = DENIES
    checks.expire("acme")
    source.let_go()
    assert (await waiting).reason == "exhausted"
    assert checks.decide("acme", API, CHECK).reason == "exhausted"
    assert source.asked == ["acme", "acme"]


@in_a_loop
async def test_while_openmeter_fails_the_expired_answer_is_the_last_one_and_serves(checks, source, clock):
    await checks.ask("acme", API, DENY)
    clock.advance(3)
    checks.expire("acme")
    source.answer = OpenMeterOutage("away")
    decision = await checks.ask("acme", API, DENY)
    assert (decision.allowed, decision.reason, decision.age) == (True, "stale", 3.0)


@in_a_loop
async def test_the_age_is_that_of_the_answer(checks, clock):
    assert checks.age("acme") is None
    await checks.ask("acme", API, CHECK)
    clock.advance(1.5)
    checks.expire("acme")
    assert checks.age("acme") == 1.5


@in_a_loop
async def test_a_grant_of_long_ago_does_not_serve_without_asking(checks, clock):
    await checks.ask("acme", API, CHECK)
    clock.advance(10)
    assert checks.decide("acme", API, CHECK) is None


@in_a_loop
async def test_a_denial_serves_a_second_and_then_asks_before_it_denies_so_that_a_top_up_is_seen(
    checks, source, clock
):
    source.answer = DENIES
    assert (await checks.ask("acme", API, CHECK)).reason == "exhausted"
    clock.advance(0.99)
    assert checks.decide("acme", API, CHECK).reason == "exhausted"
    clock.advance(0.02)
    assert checks.decide("acme", API, CHECK) is None
    assert (await checks.ask("acme", API, CHECK)).reason == "exhausted"
    assert checks.decide("acme", API, CHECK).reason == "exhausted"
    assert source.asked == ["acme"] * 2
    source.answer = GRANTS
    clock.advance(1.01)
    assert await checks.ask("acme", API, CHECK) is GRANTED


@in_a_loop
async def test_what_would_be_denied_in_shadow_mode_serves_its_whole_ttl(checks, source, clock):
    shadow = EntitlementCheck(ttl_seconds=5, mode="shadow")
    source.answer = DENIES
    await checks.ask("acme", API, shadow)
    clock.advance(4.99)
    assert checks.decide("acme", API, shadow).shadowed
    assert (await checks.ask("acme", API, shadow)).shadowed
    assert source.asked == ["acme"]


@in_a_loop
async def test_one_answer_serves_every_policy_of_the_subject_by_that_policys_own_rules(checks, source, clock):
    source.answer = SubjectAccess("found", (FeatureValue("api", True), FeatureValue("off", False)))
    await checks.ask("acme", API, CHECK)
    assert checks.decide("acme", ("off",), CHECK).reason == "no_access"
    assert checks.decide("acme", ("api", "other"), CHECK).reason == "not_found"
    clock.advance(3)
    assert checks.decide("acme", API, EntitlementCheck(ttl_seconds=2)) is GRANTED
    assert checks.decide("acme", API, EntitlementCheck(ttl_seconds=1)) is None


@in_a_loop
async def test_a_missing_customer_is_an_answer_like_any_other(checks, source):
    source.answer = SubjectAccess("absent")
    decision = await checks.ask("acme", API, CHECK)
    assert (decision.allowed, decision.reason, decision.status) == (False, "not_found", 403)
    assert checks.decide("acme", API, CHECK).reason == "not_found"
    assert source.asked == ["acme"]


@in_a_loop
async def test_shadow_lets_all_in_and_tells(checks, source):
    source.answer = DENIES
    decision = await checks.ask("acme", API, EntitlementCheck(mode="shadow"))
    assert (decision.allowed, decision.shadowed, decision.reason) == (True, True, "exhausted")
    assert checks.statistics().decisions["exhausted"] == 1


# --- one request in flight per subject


@in_a_loop
async def test_a_thousand_who_ask_at_once_share_one_request(checks, source):
    source.held = True
    waiting = [asyncio.ensure_future(checks.ask("acme", API, CHECK)) for _ in range(1000)]
    await settle()
    assert source.asked == ["acme"]
    source.let_go()
    assert await asyncio.gather(*waiting) == [GRANTED] * 1000
    assert checks.statistics().asked == 1


@in_a_loop
async def test_a_thousand_who_ask_a_real_server_at_once_are_one_http_request():
    with EntitledServer() as server:
        server.customer("acme", features={"api": metered(5)})
        checks = Entitlements(AccessClient(server.url, "key"))
        decisions = await asyncio.gather(*(checks.ask("acme", API, CHECK) for _ in range(1000)))
        assert decisions == [GRANTED] * 1000
        assert server.count == 1
        await checks.close()


@in_a_loop
async def test_different_subjects_do_not_wait_for_each_other(checks, source):
    source.held = True
    slow = asyncio.ensure_future(checks.ask("slow", API, CHECK))
    await settle()
    source.held = False
    assert await checks.ask("quick", API, CHECK) is GRANTED
    assert not slow.done()
    source.let_go()
    assert await slow is GRANTED


@in_a_loop
async def test_who_is_cancelled_takes_nobody_along(checks, source):
    source.held = True
    waiting = [asyncio.ensure_future(checks.ask("acme", API, CHECK)) for _ in range(3)]
    await settle()
    waiting[0].cancel()
    waiting[2].cancel()
    await settle()
    assert source.cancelled == 0
    source.let_go()
    assert await waiting[1] is GRANTED
    assert waiting[0].cancelled()
    assert waiting[2].cancelled()


@in_a_loop
async def test_a_request_goes_on_when_all_who_waited_are_cancelled(checks, source):
    source.held = True
    waiting = asyncio.ensure_future(checks.ask("acme", API, CHECK))
    await settle()
    waiting.cancel()
    await settle()
    source.let_go()
    await settle()
    assert checks.decide("acme", API, CHECK) is GRANTED


@in_a_loop
async def test_an_answer_that_comes_too_late_for_who_asked_serves_the_next(checks, source):
    source.held = True
    assert (await checks.ask("acme", API, IMPATIENT)).reason == "error_allowed"
    assert checks.statistics().timeouts == 1
    source.let_go()
    await settle()
    assert checks.decide("acme", API, IMPATIENT) is GRANTED


@in_a_loop
async def test_nobody_waits_for_a_request_that_another_has_waited_for_in_vain(checks, source):
    source.held = True
    await checks.ask("acme", API, IMPATIENT)
    assert checks.decide("acme", API, CHECK).reason == "error_allowed"
    assert source.asked == ["acme"]
    source.let_go()
    await settle()


@in_a_loop
async def test_a_refresh_belongs_to_no_request(checks, source):
    variable = contextvars.ContextVar("request", default="none")
    seen = []
    source.on_ask = lambda _: seen.append(variable.get())
    variable.set("somebody's")
    await checks.ask("acme", API, CHECK)
    assert seen == ["none"]


# --- ttlSeconds 0


@in_a_loop
async def test_with_a_ttl_of_zero_every_request_asks(checks, source, clock):
    for number in range(3):
        clock.advance(0.001)
        assert checks.decide("acme", API, EACH) is None
        assert await checks.ask("acme", API, EACH) is GRANTED
        assert len(source.asked) == number + 1


@in_a_loop
async def test_with_a_ttl_of_zero_an_answer_was_asked_for_after_the_request_came(checks, source, clock):
    source.held = True
    first = asyncio.ensure_future(checks.ask("acme", API, EACH))
    await settle()
    clock.advance(0.001)
    late = [asyncio.ensure_future(checks.ask("acme", API, EACH)) for _ in range(100)]
    await settle()
    source.answer = DENIES
    source.let_go()
    assert await first is GRANTED
    assert {decision.reason for decision in await asyncio.gather(*late)} == {"exhausted"}
    assert source.asked == ["acme", "acme"]


# --- OpenMeter fails


@in_a_loop
async def test_the_last_answer_serves_while_openmeter_fails_and_then_on_error_decides(checks, source, clock):
    await checks.ask("acme", API, DENY)
    source.answer = OpenMeterOutage("down")
    reasons = []
    for _ in range(8):
        clock.advance(50)
        reasons.append((await checks.ask("acme", API, DENY)).reason)
    assert reasons == ["stale"] * 5 + ["error"] * 3
    source.answer = GRANTS
    clock.advance(60)
    assert await checks.ask("acme", API, DENY) is GRANTED


@in_a_loop
async def test_a_denial_also_serves_while_openmeter_fails(checks, source, clock):
    source.answer = DENIES
    await checks.ask("acme", API, CHECK)
    source.answer = OpenMeterOutage("down")
    clock.advance(100)
    decision = await checks.ask("acme", API, CHECK)
    assert (decision.allowed, decision.reason, decision.age) == (False, "exhausted", 100.0)


@pytest.mark.parametrize(
    ("check", "allowed", "reason", "status"), [(CHECK, True, "error_allowed", 0), (DENY, False, "error", 503)]
)
def test_an_unknown_subject_goes_by_on_error(checks, source, check, allowed, reason, status):
    source.answer = OpenMeterOutage("down")
    decision = asyncio.run(checks.ask("acme", API, check))
    assert (decision.allowed, decision.reason, decision.status) == (allowed, reason, status)
    assert decision.retry_after == (None if allowed else 1)


@in_a_loop
async def test_a_failing_subject_is_not_asked_for_again_before_its_pause_is_over(checks, source, clock):
    source.answer = OpenMeterOutage("down")
    await checks.ask("acme", API, CHECK)
    for _ in range(100):
        assert checks.decide("acme", API, CHECK).reason == "error_allowed"
    assert source.asked == ["acme"]
    clock.advance(0.5)
    assert checks.decide("acme", API, CHECK) is None


@in_a_loop
async def test_a_failed_refresh_is_not_repeated_at_once_and_serves_the_last_answer(checks, source, clock):
    await checks.ask("acme", API, CHECK)
    source.answer = OpenMeterOutage("down")
    clock.advance(5)
    assert checks.decide("acme", API, CHECK) is GRANTED
    await settle()
    for _ in range(10):
        assert checks.decide("acme", API, CHECK).reason == "stale"
    await settle()
    assert source.asked == ["acme", "acme"]
    assert checks.statistics().failures["outage"] == 1


@in_a_loop
async def test_when_two_subjects_fail_the_others_get_an_answer_without_asking(checks, source, clock):
    source.answer = OpenMeterOutage("down")
    await checks.ask("a", API, CHECK)
    await checks.ask("b", API, CHECK)
    assert checks.statistics().failing
    for number in range(100):
        assert checks.decide(f"s{number}", API, DENY).reason == "error"
    assert source.asked == ["a", "b"]
    clock.advance(1)
    source.answer = GRANTS
    assert checks.decide("c", API, CHECK) is None
    assert await checks.ask("c", API, CHECK) is GRANTED
    assert not checks.statistics().failing
    assert checks.decide("d", API, CHECK) is None


@in_a_loop
async def test_while_one_tries_whether_openmeter_is_back_the_others_do_not_wait(checks, source, clock):
    source.answer = OpenMeterOutage("down")
    await checks.ask("a", API, CHECK)
    await checks.ask("b", API, CHECK)
    clock.advance(1)
    source.held, source.answer = True, GRANTS
    trying = asyncio.ensure_future(checks.ask("c", API, CHECK))
    await settle()
    assert checks.decide("d", API, CHECK).reason == "error_allowed"
    source.let_go()
    assert await trying is GRANTED


@in_a_loop
async def test_when_nothing_answers_in_time_the_third_subject_does_not_wait(checks, source):
    source.held = True
    for name in ("a", "b"):
        assert (await checks.ask(name, API, IMPATIENT)).reason == "error_allowed"
    assert checks.decide("c", API, CHECK).reason == "error_allowed"
    assert source.asked == ["a", "b"]
    source.let_go()
    await settle()
    assert checks.decide("c", API, CHECK) is None


@in_a_loop
async def test_nobody_waits_for_a_request_that_began_before_all_began_to_fail(checks, source, clock):
    await checks.ask("acme", API, CHECK)
    clock.advance(5)
    source.held = True
    assert checks.decide("acme", API, CHECK) is GRANTED
    await settle()
    source.held, source.answer = False, OpenMeterOutage("down")
    await checks.ask("a", API, CHECK)
    await checks.ask("b", API, CHECK)
    clock.advance(10)
    assert checks.decide("acme", API, CHECK).reason == "stale"
    source.let_go()
    await settle()


@in_a_loop
async def test_a_429_is_respected_for_all_subjects(checks, source, clock):
    source.answer = OpenMeterThrottled("slow down", 20.0)
    await checks.ask("a", API, CHECK)
    source.answer = GRANTS
    clock.advance(19.9)
    assert checks.decide("b", API, CHECK).reason == "error_allowed"
    clock.advance(2.2)
    assert await checks.ask("b", API, CHECK) is GRANTED
    failures = checks.statistics().failures
    assert (failures["throttled"], sum(failures.values())) == (1, 1)


@in_a_loop
async def test_beyond_so_many_requests_under_way_the_next_waits_for_the_end_of_one(source, clock):
    checks = Entitlements(source, clock=clock, most_in_flight=2)
    source.held = True
    waiting = [asyncio.ensure_future(checks.ask(name, API, CHECK)) for name in "abc"]
    await settle()
    assert source.asked == ["a", "b"]
    assert (checks.statistics().in_flight, checks.statistics().queued) == (2, 1)
    source.let_go()
    assert await asyncio.gather(*waiting) == [GRANTED] * 3


@in_a_loop
async def test_the_subjects_known_are_bounded(source, clock):
    checks = Entitlements(source, clock=clock, most_subjects=10)
    for number in range(25):
        await checks.ask(f"s{number}", API, CHECK)
        clock.advance(0.1)
    statistics = checks.statistics()
    assert (statistics.snapshots, statistics.evictions) == (10, 15)


# --- what is said about it


def lines(caplog):
    return [(record.levelno, record.kind) for record in caplog.records if hasattr(record, "kind")]


@in_a_loop
async def test_a_refused_key_is_an_error_in_the_log_and_not_said_for_every_request(
    checks, source, clock, caplog
):
    source.answer = OpenMeterUnauthorized("GET /x answered 401")
    for number in range(20):
        await checks.ask(f"s{number}", API, CHECK)
        clock.advance(1)
    assert lines(caplog) == [(logging.ERROR, "unauthorized")]
    assert "API key" in caplog.text
    clock.advance(60)
    await checks.ask("later", API, CHECK)
    assert lines(caplog) == [(logging.ERROR, "unauthorized")] * 2


@in_a_loop
async def test_an_outage_is_a_warning_and_its_end_is_said(checks, source, clock, caplog):
    caplog.set_level(logging.INFO, "metergate.entitlements")
    source.answer = OpenMeterOutage("GET /x answered 503")
    await checks.ask("a", API, CHECK)
    await checks.ask("b", API, CHECK)
    clock.advance(1)
    source.answer = GRANTS
    await checks.ask("c", API, CHECK)
    assert lines(caplog) == [(logging.WARNING, "outage")]
    assert caplog.records[-1].message == "OpenMeter answers again"


@in_a_loop
async def test_a_bug_is_logged_with_its_traceback_and_harms_no_request(checks, source, caplog):
    source.answer = ZeroDivisionError("oh")
    assert (await checks.ask("a", API, CHECK)).reason == "error_allowed"
    assert lines(caplog) == [(logging.ERROR, "bug")]
    assert caplog.records[0].exc_info
    assert checks.statistics().failures["bug"] == 1


# --- life


@in_a_loop
async def test_closing_ends_what_is_in_flight_and_the_source(checks, source):
    source.held = True
    begun = asyncio.ensure_future(checks.ask("a", API, CHECK))
    await settle()
    just_begun = asyncio.ensure_future(checks.ask("b", API, CHECK))
    await asyncio.sleep(0)
    await checks.close()
    assert [(await waiting).reason for waiting in (begun, just_begun)] == ["error_allowed"] * 2
    assert source.closed
    assert checks.statistics().in_flight == 0


def test_it_serves_one_event_loop_after_another(checks, source):
    source.held = True

    async def leave():
        waiting = asyncio.ensure_future(checks.ask("a", API, CHECK))
        await settle()
        assert checks.statistics().in_flight == 1
        waiting.cancel()

    asyncio.run(leave())
    assert checks.statistics().in_flight == 0
    source.held = False
    assert asyncio.run(checks.ask("a", API, CHECK)) is GRANTED


def test_every_decision_is_counted_by_its_reason(checks, source, clock):
    async def go():
        await checks.ask("a", API, CHECK)
        for _ in range(5):
            checks.decide("a", API, CHECK)
        checks.decide("a", ("x",), CHECK)
        source.answer = OpenMeterOutage("down")
        clock.advance(20)
        await checks.ask("a", API, CHECK)
        await checks.ask("b", API, DENY)

    asyncio.run(go())
    counted = {reason: number for reason, number in checks.statistics().decisions.items() if number}
    assert counted == {"granted": 6, "not_found": 1, "stale": 1, "error": 1}
    assert "snapshots=1" in repr(checks)


# --- with a real server, from granted to an outage and back


@in_a_loop
async def test_an_outage_of_a_real_server_from_beginning_to_end(clock):
    with EntitledServer() as server:
        acme = server.customer("acme", features={"api": metered(5), "sso": granted()})
        checks = Entitlements(AccessClient(server.url, "key", timeout_seconds=5), clock=clock)
        assert await checks.ask("acme", ("api", "sso"), DENY) is GRANTED
        for fault in (
            lambda: server.fail(500),
            server.cut,
            server.garbage,
            lambda: server.fail(404, body=b"no"),
        ):
            fault()
            clock.advance(40)
            assert (await checks.ask("acme", API, DENY)).reason == "stale"
        clock.advance(200)
        assert (await checks.ask("acme", API, DENY)).status == 503
        server.recover()
        acme.features["api"] = metered(0, usage=10)
        clock.advance(60)
        assert (await checks.ask("acme", API, DENY)).reason == "exhausted"
        failures = checks.statistics().failures
        assert (failures["outage"], failures["misdirected"]) == (2, 3)
        await checks.close()


@in_a_loop
async def test_a_server_that_hangs_costs_no_more_than_the_policys_patience(clock):
    with EntitledServer() as server:
        server.customer("acme", features={"api": metered(5)})
        checks = Entitlements(AccessClient(server.url, "key"), clock=clock)
        server.hang()
        assert (await checks.ask("acme", API, IMPATIENT)).reason == "error_allowed"
        server.recover()
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        assert checks.decide("acme", API, IMPATIENT) is GRANTED
        await checks.close()
