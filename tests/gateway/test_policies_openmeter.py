"""What the client sees of an entitlement decision: the problem's members, and the header that explains."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from metergate.engine import Backends, Engine
from metergate.gateway.http import Response, User
from metergate.gateway.model import NamedPolicy
from metergate.gateway.policies.openmeter import OpenMeterInboundPolicy
from metergate.policy import read_options
from metergate.testing.entitled import EntitledServer, granted, metered

SHARED = Response("the same for all")


@pytest.fixture
def openmeter():
    with EntitledServer() as server:
        server.customer("acme", features={"api": metered(10), "sso": granted()})
        server.customer("spent", features={"api": metered(0, 10)})
        yield server


@pytest.fixture
def backends(tmp_path):
    made = Backends(tmp_path / "spool")
    yield made
    made.drain(0)


@pytest.fixture
def policy(openmeter, backends):
    def make(name="metered", **options):
        defaults = {"apiUrl": openmeter.url, "apiKey": "hush", "requiredEntitlements": ["api"]}
        read, findings = read_options({**defaults, **options}, name=name)
        assert read is not None, findings
        return NamedPolicy(name, inbound=OpenMeterInboundPolicy(Engine(read, backends)))

    return make


def who(request, *rest):
    name = request.headers.get("x-user")
    request.user = User(name) if name else None
    return request


@pytest.fixture
def ask(serve, backends):
    """The answers to these users, by a route with these policies, all on one event loop."""

    def asking(policies, *users, handler=lambda request, context: SHARED):
        served = serve(handler, inbound=[who, *policies], path="/orders")

        async def run():
            calls = [
                await asyncio.wait_for(served.call("/orders", headers=[("x-user", user)] if user else []), 20)
                for user in users
            ]
            await backends.stop()
            return calls

        return asyncio.run(run())

    return asking


def problem(called):
    assert called["content-type"] == "application/problem+json"
    members = json.loads(called.body)
    members.pop("trace")
    return members


def test_a_denial_s_problem_has_its_reason_its_age_and_every_failed_feature_but_no_balance(policy, ask):
    required = [{"feature": "api", "exhaustedStatus": 402}, "sso"]
    metering = policy(requiredEntitlements=required)
    [denied] = ask([metering], "spent")
    members = problem(denied)
    assert members.pop("age") >= 0
    assert members == {
        "type": "https://httpproblems.com/http-status/403",
        "title": "Forbidden",
        "status": 403,
        "detail": "You have no access to: api, sso.",
        "instance": "/orders",
        "reason": "not_found",
        "features": [
            {"feature": "api", "reason": "exhausted"},
            {"feature": "sso", "reason": "not_found"},
        ],
    }


def test_a_feature_s_own_status_is_the_answer_s(policy, ask):
    [denied] = ask([policy(requiredEntitlements=[{"feature": "api", "exhaustedStatus": 402}])], "spent")
    assert (denied.status, problem(denied)["reason"]) == (402, "exhausted")


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
def test_in_an_outage_a_feature_s_own_on_error_decides(policy, ask, openmeter, on_error, status):
    openmeter.fail(503)
    others = {"allow": "deny", "deny": "allow"}[on_error]
    check = {"onError": others, "timeoutSeconds": 0.5}
    required = [{"feature": "api", "onError": on_error}]
    [answer] = ask([policy(requiredEntitlements=required, entitlementCheck=check)], "acme")
    assert answer.status == status
    if status == 503:
        assert int(answer["retry-after"]) >= 1
        assert problem(answer)["features"] == [{"feature": "api", "reason": "error"}]


def test_who_is_not_known_gets_a_problem_with_the_reason_alone(policy, ask):
    [denied] = ask([policy()], None)
    members = problem(denied)
    assert (denied.status, members["reason"]) == (401, "no_user")
    assert not {"age", "features"} & set(members)


def test_the_header_that_explains_is_on_what_is_let_in_and_on_what_is_not(policy, ask):
    explained = policy(entitlementCheck={"explainHeader": True})
    acme, again, spent, nobody = ask([explained], "acme", "acme", "spent", None)
    assert [each.status for each in (acme, again, spent, nobody)] == [200, 200, 403, 401]
    told = [each.all("x-metergate-decision") for each in (acme, again, spent, nobody)]
    assert [[value.partition(";")[0] for value in values] for values in told] == [
        ["granted"],
        ["granted"],
        ["exhausted"],
        ["no_user"],
    ]
    assert [";" in value for [value] in told] == [True, True, True, False]


def test_a_response_that_a_handler_gives_to_all_gets_no_header_of_another_request(policy, ask):
    before = list(SHARED.headers.items)
    answers = ask([policy(entitlementCheck={"explainHeader": "x-why"})], "acme", "acme", "acme")
    assert [len(each.all("x-why")) for each in answers] == [1, 1, 1]
    assert SHARED.headers.items == before


def test_a_request_that_fails_after_it_was_let_in_is_explained_too(policy, ask):
    def broken(request, context):
        raise RuntimeError("a bug of the project")

    [failed] = ask([policy(entitlementCheck={"explainHeader": True})], "acme", handler=broken)
    assert failed.status == 500
    assert failed["x-metergate-decision"].startswith("granted; age=")


def test_several_policies_explain_themselves_in_their_order(policy, ask):
    check = {"explainHeader": True}
    shadow = policy("first", requiredEntitlements=["none"], entitlementCheck={**check, "mode": "shadow"})
    [answer] = ask([shadow, policy("second", entitlementCheck=check)], "acme")
    first, second = answer.all("x-metergate-decision")
    assert first.startswith("not_found; age=")
    assert first.endswith("; shadow")
    assert second.startswith("granted; age=")


def test_without_the_option_there_is_no_header(policy, ask):
    [answer, denied] = ask([policy()], "acme", "spent")
    assert (answer.status, denied.status) == (200, 403)
    assert not answer.all("x-metergate-decision") + denied.all("x-metergate-decision")


# --- looking from code

PAGE = (Path(__file__).parents[2] / "docs" / "entitlement-options.md").read_text()


@pytest.fixture
def documented():
    """The handler in docs/entitlement-options.md."""
    [source] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names = {}
    exec(source, names)  # noqa: S102
    return names["default"]


def test_the_documented_handler_sees_what_is_left_and_what_would_be_decided(
    policy, ask, documented, openmeter
):
    openmeter.customer("poor", features={"api": metered(3)})
    rich, poor = ask([policy()], "acme", "poor", handler=documented)
    assert (rich.status, json.loads(rich.body)) == (200, {"left": 10.0})
    assert (poor.status, problem(poor)["detail"]) == (403, "No sso: not_found.")
