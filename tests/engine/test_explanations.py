"""What is told of a decision: in the log at debug and in a header, its reason and its age."""

import asyncio
import logging
import math

import pytest

from metergate.engine import Admission
from metergate.engine.explanations import Explanations, explanation
from metergate.gateway.http import User
from metergate.testing.entitled import EntitledServer, granted, metered

ENGINE = "metergate.engine"


@pytest.fixture
def openmeter():
    with EntitledServer() as server:
        server.customer("acme", features={"api": metered(10), "sso": granted()})
        server.customer("spent", features={"api": metered(0)})
        yield server


def admitted(engine, *users):
    """The admission of each, one after the other, on one event loop."""

    async def asking():
        found = []
        for user in users:
            admission = engine.admit(user, "GET /")
            found.append(
                admission if isinstance(admission, Admission) else await asyncio.wait_for(admission, 20)
            )
        await engine.backends.stop()
        return found

    return asyncio.run(asking())


def explained(text):
    """The header's value, taken apart as RFC 9651 has it."""
    reason, *parameters = text.split("; ")
    return reason, {name: value for name, _, value in (part.partition("=") for part in parameters)}


@pytest.mark.parametrize(
    ("reason", "age", "shadowed", "text"),
    [
        ("granted", 1.2, False, "granted; age=1.2"),
        ("granted", 0.0, False, "granted; age=0"),
        ("stale", 100.0, False, "stale; age=100"),
        ("stale", 0.12345, False, "stale; age=0.123"),
        ("error_allowed", None, False, "error_allowed"),
        ("exhausted", 3.0, True, "exhausted; age=3; shadow"),
        ("no_user", None, True, "no_user; shadow"),
    ],
)
def test_the_header_s_value_is_a_token_with_parameters(reason, age, shadowed, text):
    assert explanation(reason, age, shadowed=shadowed) == text


def test_a_grant_is_explained_with_the_age_of_openmeter_s_answer(bench, openmeter):
    engine = bench.engine(
        apiUrl=openmeter.url, requiredEntitlements=["api", "sso"], entitlementCheck={"explainHeader": "X-Why"}
    )
    assert engine.explain_header == "x-why"
    first, second = [explained(each.explanation) for each in admitted(engine, User("acme"), User("acme"))]
    assert (first[0], second[0]) == ("granted", "granted")
    assert 0 <= float(first[1]["age"]) <= float(second[1]["age"])
    assert openmeter.count <= 2
    assert bench.backends.statistics().decisions == {"granted": 2}


@pytest.mark.parametrize(
    ("user", "mode", "reason", "parameters"),
    [
        (User("spent"), "enforce", "exhausted", {"age"}),
        (User("spent"), "shadow", "exhausted", {"age", "shadow"}),
        (User("stranger"), "enforce", "not_found", {"age"}),
        (None, "enforce", "no_user", set()),
        (User(""), "shadow", "no_subject", {"shadow"}),
    ],
)
def test_a_denial_is_explained_and_so_is_one_that_blocks_nothing(
    bench, openmeter, user, mode, reason, parameters
):
    engine = bench.engine(
        apiUrl=openmeter.url,
        requiredEntitlements=["api"],
        entitlementCheck={"explainHeader": True, "mode": mode},
    )
    [admission] = admitted(engine, user)
    told = explained(admission.explanation)
    assert (told[0], set(told[1])) == (reason, parameters)
    assert (admission.denial is None) is (mode == "shadow")


def test_what_could_not_be_asked_has_no_age(bench, openmeter):
    openmeter.fail(503)
    check = {"explainHeader": True, "timeoutSeconds": 0.5}
    engine = bench.engine(apiUrl=openmeter.url, requiredEntitlements=["api"], entitlementCheck=check)
    assert [each.explanation for each in admitted(engine, User("acme"))] == ["error_allowed"]


def test_nothing_is_explained_unless_it_is_wanted_or_there_is_no_decision(bench, openmeter, caplog):
    caplog.set_level(logging.INFO)
    asked = bench.engine("asked", apiUrl=openmeter.url, requiredEntitlements=["api"])
    free = bench.engine("free", apiUrl=openmeter.url, entitlementCheck={"explainHeader": True})
    assert [each.explanation for each in admitted(asked, User("acme"), User("spent"), None)] == [None] * 3
    assert [each.explanation for each in admitted(free, User("acme"), None)] == [None] * 2
    assert asked.explain_header is None
    assert [record for record in caplog.records if record.levelno < logging.WARNING] == []


def test_at_debug_every_decision_is_a_line_with_its_reason_and_its_age(bench, openmeter, caplog):
    caplog.set_level(logging.DEBUG, ENGINE)
    engine = bench.engine(apiUrl=openmeter.url, requiredEntitlements=["api"])
    admissions = admitted(engine, User("acme"), User("acme"), User("spent"), None)
    assert [each.explanation for each in admissions] == [None] * 4
    lines = [record for record in caplog.records if record.levelno == logging.DEBUG and record.name == ENGINE]
    assert [(line.getMessage(), line.subject) for line in lines] == [
        ("policy metered decided: granted", "acme"),
        ("policy metered decided: granted", "acme"),
        ("policy metered decided: exhausted", "spent"),
        ("policy metered decided: no_user", None),
    ]
    assert [(line.policy, line.route) for line in lines] == [("metered", "GET /")] * 4
    ages = [line.age for line in lines]
    assert ages[3] is None
    assert all(math.isfinite(age) and age >= 0 for age in ages[:3])


def test_whether_the_log_is_at_debug_is_looked_at_once(caplog):
    caplog.set_level(logging.INFO, ENGINE)
    quiet = Explanations("p", None)
    caplog.set_level(logging.DEBUG, ENGINE)
    assert (quiet.wanted, Explanations("p", None).wanted, Explanations("p", "x").wanted) == (
        False,
        True,
        True,
    )
