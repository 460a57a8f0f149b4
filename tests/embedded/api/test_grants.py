"""Grants over the API: issued with every rule they can have, listed, voided; what is left of them is the balance."""

import asyncio

import pytest

V1 = "/api/v1/subjects/acme/entitlements/calls"
V2 = "/api/v2/customers/acme/entitlements/calls"
NOW = "2026-03-15T12:00:00Z"


@pytest.fixture
def entitlement(openmeter):
    """A metered entitlement of ``acme`` that has no grants yet."""
    openmeter("POST", "/api/v1/meters", {"slug": "calls", "aggregation": "COUNT", "eventType": "request"})
    openmeter("POST", "/api/v1/features", {"key": "calls", "name": "Calls", "meterSlug": "calls"})
    openmeter("POST", "/api/v1/features", {"key": "sso", "name": "SSO"})
    customer = {"name": "Acme", "key": "acme", "usageAttribution": {"subjectKeys": ["acme"]}}
    openmeter("POST", "/api/v1/customers", customer)
    body = {"type": "metered", "featureKey": "calls", "usagePeriod": {"interval": "MONTH"}}
    answer = openmeter("POST", "/api/v2/customers/acme/entitlements", body)
    assert answer.status == 201
    return answer.json


@pytest.fixture
def use(openmeter, event):
    sent = 0

    def use(count, time=None):
        nonlocal sent
        events = [event(f"e{sent + number}", time=time) for number in range(count)]
        sent += count
        assert openmeter("POST", "/api/v1/events", events).status == 204

    return use


@pytest.fixture
def balance(openmeter, entitlement):
    def balance(time=None):
        return openmeter("GET", f"{V2}/value", query={"time": time} if time else None).json["balance"]

    return balance


def issue(openmeter, amount=10, path=V2, **fields):
    answer = openmeter("POST", f"{path}/grants", {"amount": amount, "effectiveAt": NOW} | fields)
    assert answer.status == 201, answer.body
    return answer.json


def test_version_2_shows_a_grant_with_everything_that_was_said_of_it(openmeter, entitlement):
    shown = issue(
        openmeter,
        12.5,
        priority=3,
        effectiveAt="2026-03-16T00:00:59Z",
        expiration={"duration": "MONTH", "count": 2},
        minRolloverAmount=1,
        maxRolloverAmount=5,
        recurrence={"interval": "WEEK", "anchor": "2026-03-12T00:00:00Z"},
        metadata={"order": "42"},
        annotations={"by": "sales"},
    )
    assert shown == {
        "id": shown["id"],
        "entitlementId": entitlement["id"],
        "amount": 12.5,
        "priority": 3,
        "effectiveAt": "2026-03-16T00:00:00Z",
        "expiration": {"duration": "MONTH", "count": 2},
        "expiresAt": "2026-05-16T00:00:00Z",
        "minRolloverAmount": 1,
        "maxRolloverAmount": 5,
        "recurrence": {"interval": "WEEK", "anchor": "2026-03-12T00:00:00Z", "intervalISO": "P1W"},
        "nextRecurrence": "2026-03-19T00:00:00Z",
        "metadata": {"order": "42"},
        "annotations": {"by": "sales"},
        "createdAt": NOW,
        "updatedAt": NOW,
    }
    page = openmeter("GET", f"{V2}/grants").json
    assert page == {"totalCount": 1, "page": 1, "pageSize": 100, "items": [shown]}


def test_without_more_being_said_version_2_rolls_over_all_for_ever_and_version_1_nothing(
    openmeter, entitlement
):
    shown = issue(openmeter, 10)
    assert (shown["priority"], shown["minRolloverAmount"], shown["maxRolloverAmount"]) == (0, 0, 10)
    assert not {"expiration", "expiresAt", "recurrence", "nextRecurrence", "voidedAt"} & shown.keys()
    older = issue(openmeter, 10, V1, expiration={"duration": "DAY", "count": 1})
    assert (older["priority"], older["minRolloverAmount"], older["maxRolloverAmount"]) == (0, 0, 0)
    assert older["expiresAt"] == "2026-03-16T12:00:00Z"


def test_version_1_shows_a_grant_without_an_end_as_ending_in_a_hundred_years(openmeter, entitlement):
    issue(openmeter)
    for path in (f"{V1}/grants", "/api/v1/grants"):
        (shown,) = openmeter("GET", path).json
        assert shown["expiration"] == {"duration": "YEAR", "count": 100}
        assert shown["expiresAt"] == "2126-03-15T12:00:00Z"


def test_a_grant_counts_from_when_it_is_effective_until_it_expires(openmeter, entitlement, balance):
    issue(openmeter, 10, effectiveAt="2026-03-15T13:00:00Z", expiration={"duration": "HOUR", "count": 2})
    assert balance() == 0
    assert balance("2026-03-15T13:00:00Z") == balance("2026-03-15T14:59:00Z") == 10
    assert balance("2026-03-15T15:00:00Z") == 0


def test_the_lower_priority_then_the_earlier_expiration_is_burned_first(openmeter, entitlement, use):
    last = issue(openmeter, 5, priority=2)["id"]
    second = issue(openmeter, 5, priority=1)["id"]
    first = issue(openmeter, 5, priority=1, expiration={"duration": "DAY", "count": 1})["id"]
    use(7)
    assert openmeter("GET", f"{V2}/value").json["grantBalances"] == {first: 0, second: 3, last: 5}


def test_a_recurring_grant_is_full_again_at_each_recurrence(openmeter, entitlement, use, balance):
    issue(openmeter, 10, recurrence={"interval": "DAY"})
    use(4)
    assert balance() == 6
    assert balance("2026-03-16T11:59:00Z") == 6
    assert balance("2026-03-16T12:00:00Z") == 10


def test_what_is_left_is_rolled_over_within_its_bounds(openmeter, entitlement, use, balance):
    issue(openmeter, 10, maxRolloverAmount=3)
    issue(openmeter, 10, priority=9, minRolloverAmount=4)
    use(15)
    assert balance("2026-04-15T11:59:00Z") == 5
    assert balance("2026-04-15T12:00:00Z") == 0 + 5
    assert balance("2026-05-15T12:00:00Z") == 5


def test_a_void_grant_is_worth_nothing_but_what_it_covered_stays_covered(
    openmeter, entitlement, use, balance, clock
):
    first, second = issue(openmeter, 10)["id"], issue(openmeter, 10, priority=5)["id"]
    use(4)
    clock.move(minutes=10)
    assert openmeter("DELETE", f"/api/v1/grants/{first}").status == 204
    value = openmeter("GET", f"{V2}/value").json
    assert value["grantBalances"] == {second: 10}
    assert (value["usage"], value["overage"], value["totalAvailableGrantAmount"]) == (4, 0, 14)
    assert balance("2026-03-15T12:09:00Z") == 16
    shown = openmeter("GET", f"{V2}/grants").json["items"][0]
    assert (shown["id"], shown["voidedAt"]) == (first, "2026-03-15T12:10:00Z")


def test_a_grant_can_be_voided_in_the_past_of_the_current_period_only_once_and_never_in_the_future(
    openmeter, entitlement, clock
):
    grant = issue(openmeter)["id"]
    clock.move(hours=1)
    path = f"/api/v1/grants/{grant}"
    for time, words in (
        ("2026-03-15T13:01:00Z", "must not be in the future"),
        ("2026-03-15T11:59:00Z", "before the current usage period"),
        ("yesterday", "date-time"),
    ):
        answer = openmeter("DELETE", f"{path}?at={time}")
        assert (answer.status, words in answer.detail) == (400, True), answer.detail
    assert openmeter("DELETE", f"{path}?at=2026-03-15T12:30:00Z").status == 204
    again = openmeter("DELETE", path)
    assert (again.status, "already voided" in again.detail) == (400, True)
    assert openmeter("DELETE", "/api/v1/grants/01G65Z755AFWAKHE12NY0CQ9FH").status == 404


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"amount": 0}, "amount must be greater than 0"),
        ({"amount": -1}, "$.amount"),
        ({"priority": 0}, "$.priority"),
        ({"priority": 256}, "$.priority"),
        ({"effectiveAt": "2026-03-15T11:59:00Z"}, "before the current usage period"),
        ({"effectiveAt": "soon"}, "RFC 3339"),
        ({"expiration": {"duration": "MINUTE", "count": 1}}, "$.expiration.duration"),
        ({"expiration": {"duration": "DAY", "count": 0}}, "$.expiration.count"),
        ({"recurrence": {"interval": "PT1M"}}, "at least PT1H"),
        ({"amount": None}, "$.amount"),
    ],
)
@pytest.mark.parametrize("path", [V1, V2])
def test_what_cannot_be_a_grant_is_refused(openmeter, entitlement, path, fields, words):
    body = {"amount": 1, "effectiveAt": NOW, "expiration": {"duration": "DAY", "count": 1}}
    answer = openmeter("POST", f"{path}/grants", body | fields)
    assert (answer.status, words in answer.detail) == (400, True), answer.detail


def test_a_grant_of_version_1_must_end(openmeter, entitlement):
    answer = openmeter("POST", f"{V1}/grants", {"amount": 1, "effectiveAt": NOW})
    assert (answer.status, "expiration" in answer.detail) == (400, True)


def test_only_metered_entitlements_that_are_there_have_grants(openmeter, entitlement):
    openmeter("POST", "/api/v2/customers/acme/entitlements", {"type": "boolean", "featureKey": "sso"})
    body = {"amount": 1, "effectiveAt": NOW}
    answer = openmeter("POST", "/api/v2/customers/acme/entitlements/sso/grants", body)
    assert (answer.status, "only metered" in answer.detail) == (400, True)
    assert openmeter("GET", "/api/v2/customers/acme/entitlements/sso/grants").json["items"] == []
    for path in (
        "/api/v2/customers/acme/entitlements/nothing/grants",
        "/api/v2/customers/nobody/entitlements/calls/grants",
    ):
        assert openmeter("POST", path, body).status == 404
        assert openmeter("GET", path).status == 404


def test_an_entitlement_is_named_by_its_id_or_its_feature(openmeter, entitlement):
    issue(openmeter)
    for path in (V1, V2):
        by_id = path.replace("calls", entitlement["id"])
        assert openmeter("GET", f"{by_id}/grants").json == openmeter("GET", f"{path}/grants").json


def test_the_grant_behind_issue_after_reset_says_so(openmeter, entitlement):
    openmeter("DELETE", f"{V2}")
    body = {"type": "metered", "featureKey": "calls", "usagePeriod": {"interval": "MONTH"}}
    issue_after = {"issueAfterReset": 7, "issueAfterResetPriority": 3}
    openmeter("POST", "/api/v1/subjects/acme/entitlements", body | issue_after)
    (shown,) = openmeter("GET", f"{V1}/grants").json
    assert shown["annotations"] == {"issueAfterReset": True}
    assert (shown["amount"], shown["priority"], shown["minRolloverAmount"]) == (7, 3, 7)


def test_the_lists_are_ordered_paged_and_narrowed(openmeter, entitlement, clock):
    made = []
    for amount in (1, 2, 3):
        made.append(issue(openmeter, amount)["id"])
        clock.move(minutes=1)
    openmeter("DELETE", f"/api/v1/grants/{made[0]}")

    def amounts(path, **query):
        shown = openmeter("GET", path, query=query).json
        return [each["amount"] for each in (shown if isinstance(shown, list) else shown["items"])]

    assert amounts("/api/v2/grants") == amounts("/api/v1/grants") == [1, 2, 3]
    assert amounts("/api/v2/grants", order="DESC") == [3, 2, 1]
    assert amounts("/api/v2/grants", orderBy="updatedAt") == [2, 3, 1]
    assert amounts("/api/v2/grants", page=2, pageSize=2) == [3]
    assert amounts("/api/v1/grants", limit=1, offset=1) == [2]
    assert amounts("/api/v1/grants", feature="calls", subject="acme") == [1, 2, 3]
    assert amounts("/api/v1/grants", feature="other") == amounts("/api/v1/grants", subject="x") == []
    assert amounts("/api/v2/grants", customer=["x", "acme"]) == [1, 2, 3]
    assert amounts("/api/v2/grants", customer="x") == []
    sliced = openmeter("GET", f"{V2}/grants?limit=1&offset=1").json
    assert (sliced["page"], sliced["pageSize"], sliced["totalCount"]) == (0, 0, 3)
    assert [each["amount"] for each in sliced["items"]] == [2]
    assert openmeter("GET", "/api/v2/grants?page=0").status == 400
    assert openmeter("GET", "/api/v2/grants?orderBy=amount").status == 400
    openmeter("DELETE", V2)
    assert amounts("/api/v2/grants") == []
    assert amounts("/api/v2/grants", includeDeleted="true") == [1, 2, 3]


def test_grants_issued_and_voided_at_the_same_time_all_count_and_survive_a_restart(openmeter, entitlement):
    async def together():
        body = {"amount": 10, "effectiveAt": NOW}
        made = await asyncio.gather(*(openmeter.request("POST", f"{V2}/grants", body) for _ in range(8)))
        path = f"/api/v1/grants/{made[0].json['id']}"
        return await asyncio.gather(*(openmeter.request("DELETE", path) for _ in range(4)))

    assert sorted(answer.status for answer in openmeter.runner.run(together())) == [204, 400, 400, 400]
    before = openmeter("GET", "/api/v2/grants").json
    openmeter.restart()
    assert openmeter("GET", "/api/v2/grants").json == before
    assert openmeter("GET", f"{V2}/value").json["balance"] == 70
