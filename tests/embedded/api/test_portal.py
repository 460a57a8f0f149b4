"""The consumer portal: a token opens the query of a meter for its own subject, for a while, and nothing else."""

import jwt
import pytest

TOKENS = "/api/v1/portal/tokens"
QUERY = "/api/v1/portal/meters/tokens/query"


@pytest.fixture
def metered(openmeter, event):
    for slug in ("tokens", "other"):
        meter = {"slug": slug, "aggregation": "SUM", "eventType": "request", "valueProperty": "$.tokens"}
        openmeter("POST", "/api/v1/meters", meter | {"groupBy": {"model": "$.model"}})
    events = [
        event("1", data={"tokens": 1, "model": "a"}),
        event("2", data={"tokens": 2, "model": "b"}),
        event("3", subject="other", data={"tokens": 4}),
    ]
    openmeter("POST", "/api/v1/events", events)
    return openmeter


@pytest.fixture
def token(metered):
    def token(**fields):
        answer = metered("POST", TOKENS, {"subject": "acme"} | fields)
        assert answer.status == 200, answer.body
        return answer.json

    return token


def query(openmeter, token, parameters="", path=QUERY):
    return openmeter("GET", path + parameters, headers={"Authorization": f"Bearer {token}"})


def test_a_token_opens_the_usage_of_its_subject_only(metered, token):
    answer = query(metered, token()["token"])
    assert answer.status == 200
    (row,) = answer.json["data"]
    assert (row["value"], row["subject"]) == (3, "acme")
    grouped = query(metered, token()["token"], "?groupBy=model&windowSize=DAY&subject=other").json["data"]
    assert sorted((row["groupBy"]["model"], row["value"], row["subject"]) for row in grouped) == [
        ("a", 1, "acme"),
        ("b", 2, "acme"),
    ]


def test_a_token_says_what_openmeters_tokens_say(token):
    made = token(allowedMeterSlugs=["tokens"])
    assert (
        made.items()
        >= {
            "subject": "acme",
            "expiresAt": "2026-03-15T13:00:00Z",
            "createdAt": "2026-03-15T12:00:00Z",
            "expired": False,
            "allowedMeterSlugs": ["tokens"],
        }.items()
    )
    claims = jwt.decode(made["token"], options={"verify_signature": False})
    assert claims == {
        "Namespace": "default",
        "Id": made["id"],
        "AllowedMeterSlugs": ["tokens"],
        "iss": "openmeter",
        "sub": "acme",
        "exp": 1773579600,
        "iat": 1773576000,
    }
    assert jwt.get_unverified_header(made["token"])["alg"] == "HS256"


def test_a_token_may_be_for_some_meters_only(metered, token):
    made = token(allowedMeterSlugs=["tokens"])["token"]
    assert query(metered, made).status == 200
    answer = query(metered, made, path="/api/v1/portal/meters/other/query")
    assert (answer.status, "meter slug not allowed" in answer.detail) == (401, True)


def test_a_token_holds_until_it_expires_and_over_a_restart(metered, token, clock):
    short, long = token()["token"], token(expiresAt="2026-03-16T12:00:00Z")["token"]
    clock.move(minutes=59)
    metered.restart()
    assert query(metered, short).status == query(metered, long).status == 200
    clock.move(minutes=1)
    assert (query(metered, short).status, query(metered, long).status) == (401, 200)
    assert "token expired" in query(metered, short).detail


def test_no_other_token_opens_anything(metered, token):
    secret = "x" * 32
    claims = {"iss": "openmeter", "sub": "acme", "exp": 4102444800, "Id": "1", "AllowedMeterSlugs": []}
    forged = jwt.encode(claims, secret, algorithm="HS256")
    unsigned = jwt.encode(claims, None, algorithm="none")
    for given in (forged, unsigned, "x", "", token()["token"][:-2]):
        assert query(metered, given).status == 401
    assert metered("GET", QUERY).status == 401


def test_beside_the_servers_own_token_the_portals_is_enough_for_the_portal_only(metered, token):
    made = token()["token"]
    metered.stop()
    metered.token = "sesame"
    metered.start()
    assert query(metered, made).status == 200
    for path in ("/api/v1/meters/tokens/query", TOKENS):
        assert query(metered, made, path=path).status == 401
    assert query(metered, "sesame").status == 401


def test_a_page_of_any_origin_may_ask_for_a_meter_with_its_token_and_for_nothing_else(metered, token):
    origin = {"Origin": "https://app.example.com"}
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    allowed = metered("OPTIONS", QUERY, headers=origin | asked)
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "Authorization" in allowed.headers["access-control-allow-headers"]
    assert allowed.headers["access-control-allow-credentials"] == "true"
    for authorization, status in ((f"Bearer {token()['token']}", 200), ("Bearer wrong", 401)):
        answer = metered("GET", QUERY, headers=origin | {"Authorization": authorization})
        assert (answer.status, answer.headers["x-powered-by"]) == (status, "OpenMeter by Kong, Inc.")
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
    for method, path in (("OPTIONS", TOKENS), ("OPTIONS", "/api/v1/events"), ("GET", "/api/v1/meters")):
        answer = metered(method, path, headers=origin | asked)
        assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in query(metered, token()["token"]).headers


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"subject": ""}, 400),
        ({"subject": "acme", "allowedMeterSlugs": []}, 400),
        ({"subject": "acme", "allowedMeterSlugs": ["none"]}, 404),
        ({"subject": "acme", "expiresAt": "soon"}, 400),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(metered, body, status):
    assert metered("POST", TOKENS, body).status == status


def test_tokens_are_not_kept_so_they_are_neither_listed_nor_invalidated(metered):
    for answer in (metered("GET", TOKENS), metered("POST", f"{TOKENS}/invalidate", {"subject": "acme"})):
        assert (answer.status, "not implemented" in answer.detail) == (501, True)
    assert metered("GET", f"{TOKENS}?limit=0").status == 400
