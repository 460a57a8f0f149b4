"""Who calls is known by a signed token: real keys, a real server with the issuer's keys, and what attackers try."""

import asyncio
import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.context import Context
from metergate.gateway.http import Headers, Request, Response
from metergate.gateway.policies import BUILTIN
from metergate.gateway.policies import jwt as policy_module
from metergate.gateway.policies.bearer import Refusal, credential
from metergate.gateway.policies.jwks import ASYMMETRIC, KeySet, read_keys
from metergate.gateway.policies.jwt import TokenRules, Verifier
from metergate.policy.fields import Unset

SECRET = "a shared secret of more than sixty-four bytes, as SHA-512 wants it to be"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
ISSUER, AUDIENCE = "https://issuer.example.com/", "https://api.example.com"


def jwk(key, kid=None, **members):
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = "RS256"
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = "ES256"
    else:
        algorithm = "EdDSA"
    row = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
    row.pop("key_ops", None)
    return {**row, **({"kid": kid} if kid else {}), **members}


def token(key=RSA, algorithm="RS256", kid="one", headers=None, **claims):
    body = {
        "sub": "acme",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 60,
        "plan": "gold",
        **claims,
    }
    body = {name: value for name, value in body.items() if value is not None}
    named = {"kid": kid} if kid else {}
    return jwt.encode(body, key, algorithm, {**named, **(headers or {})})


class Issuer:
    """A server with the issuer's keys. ``status`` and ``document`` can be changed; ``asked`` counts."""

    def __init__(self, *keys):
        self.document = json.dumps({"keys": list(keys)}).encode()
        self.status = 200
        self.asked = 0
        self.hold = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/jwks.json"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        head = (
            f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.document)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + self.document)
        await writer.drain()
        writer.close()


def request(value):
    return Request("GET", "/", headers=Headers({"authorization": f"Bearer {value}"} if value else {}))


def verifier(url=None, *, secret=None, clock=time.monotonic, now=time.time, allow=False, **rules):
    given_rules = TokenRules(
        rules.get("issuer", ISSUER),
        rules.get("audience", [AUDIENCE]),
        rules.get("subject_claim", "sub"),
        policy_module.SYMMETRIC if secret else ASYMMETRIC,
    )
    keys = KeySet(url, clock=clock) if url else None
    return Verifier(
        given_rules,
        credential("authorization", "Bearer"),
        Refusal("Bearer", allow),
        secret=secret,
        now=now,
        keys=keys,
    )


async def decide(check, asked):
    outcome = check(asked, Context("r"))
    return outcome if isinstance(outcome, Request | Response) else await outcome


def with_issuer(scenario, *keys):
    """Run an async scenario with an issuer that has these keys."""

    async def run():
        async with Issuer(*(keys or [jwk(RSA, "one")])) as issuer:
            await scenario(issuer)

    asyncio.run(run())


def detail(response):
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    return json.loads(response.body)["detail"]


# --- what is let in


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, "RS256"), (RSA, "RS512"), (RSA, "PS256"), (EC, "ES256"), (ED, "EdDSA")],
)
def test_a_good_token_sets_the_user_to_its_subject_and_claims(key, algorithm):
    async def scenario(issuer):
        check = verifier(issuer.url)
        asked = request(token(key, algorithm, tier={"a": 1}))
        assert await decide(check, asked) is asked
        assert asked.user.sub == "acme"
        assert (asked.user.data["iss"], asked.user.data["plan"], asked.user.data["tier"]) == (
            ISSUER,
            "gold",
            {"a": 1},
        )
        await check.stop()

    with_issuer(scenario, jwk(key, "one"))


def test_a_known_token_is_a_plain_call_and_the_keys_are_asked_for_once():
    async def scenario(issuer):
        check = verifier(issuer.url)
        text = token(account={"id": 7})
        await decide(check, request(text))
        for _ in range(3):
            asked = request(text)
            assert check(asked, Context("r")) is asked
            asked.user.data["plan"] = "changed by the request"
            asked.user.data["account"]["id"] = "changed too"
        asked = request(text)
        check(asked, Context("r"))
        assert (asked.user.data["plan"], asked.user.data["account"]) == ("gold", {"id": 7})
        assert (issuer.asked, check.statistics().verified, check.statistics().cached) == (1, 1, 1)
        await check.stop()

    with_issuer(scenario)


@pytest.mark.parametrize(("claims", "subject"), [({"client": "c-1"}, "c-1"), ({"client": 42}, "42")])
def test_the_subject_can_be_another_claim(claims, subject):
    check = verifier(secret=SECRET, subject_claim="client")
    asked = request(token(SECRET, "HS256", **claims))
    assert check(asked, Context("r")) is asked
    assert asked.user.sub == subject


def test_a_key_set_without_key_ids_is_tried_key_by_key():
    async def scenario(issuer):
        check = verifier(issuer.url)
        assert isinstance(await decide(check, request(token(kid=None))), Request)
        await check.stop()

    with_issuer(scenario, jwk(OTHER_RSA), jwk(EC), jwk(RSA))


# --- what is refused


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: "", "none"),
        (lambda: "x", "not a JWT"),
        (lambda: "a.b.c", "not a JWT"),
        (lambda: token(exp=int(time.time()) - 60), "expired"),
        (lambda: token(aud="https://other.example.com"), "another audience"),
        (lambda: token(aud=None), "not valid"),
        (lambda: token(iss="https://evil.example.com/"), "another issuer"),
        (lambda: token(nbf=int(time.time()) + 600), "not valid"),
        (lambda: token(sub=None), "no claim sub"),
        (lambda: token(sub=""), "no claim sub"),
        (lambda: token(sub=True), "no claim sub"),
        (lambda: token(OTHER_RSA), "signature"),
        (lambda: token()[:-4] + "AAAA", "signature"),
        (lambda: token(kid="unknown"), "key is not known"),
        (lambda: token(pad="x" * 20_000), "too long"),
        (lambda: jwt.encode({"sub": "acme"}, None, "none"), "algorithm"),
        (lambda: token(SECRET, "HS256"), "algorithm"),
    ],
)
def test_a_bad_token_is_a_401_that_says_why_and_repeats_nothing_of_it(make, said):
    async def scenario(issuer):
        check = verifier(issuer.url)
        text = make()
        asked = request(text)
        response = await decide(check, asked)
        assert said in detail(response)
        assert asked.user is None
        assert not text or text not in response.body.decode()
        await check.stop()

    with_issuer(scenario)


def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_refused():
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = (
        part({"alg": "HS256", "kid": "one"}) + b"." + part({"sub": "admin", "iss": ISSUER, "aud": AUDIENCE})
    )
    signature = hmac.new(public, signed, hashlib.sha256).digest()
    forged = (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()

    async def scenario(issuer):
        check = verifier(issuer.url)
        assert "algorithm" in detail(await decide(check, request(forged)))
        await check.stop()

    with_issuer(scenario)


def test_a_key_is_not_used_with_another_algorithm_than_it_names():
    async def scenario(issuer):
        check = verifier(issuer.url)
        assert "not known" in detail(await decide(check, request(token(RSA, "RS512"))))
        assert isinstance(await decide(check, request(token(RSA, "RS256"))), Request)
        await check.stop()

    with_issuer(scenario, jwk(RSA, "one", alg="RS256"))


def test_a_shared_secret_accepts_hs_only():
    check = verifier(secret=SECRET)
    assert isinstance(check(request(token(SECRET, "HS512")), Context("r")), Request)
    assert "algorithm" in detail(check(request(token(RSA)), Context("r")))
    assert "signature" in detail(check(request(token(SECRET + "x", "HS256")), Context("r")))


def test_requests_without_a_valid_token_go_on_without_a_user_where_that_is_allowed():
    check = verifier(secret=SECRET, allow=True)
    for text in ("", "junk", token(SECRET, "HS256", exp=1)):
        asked = request(text)
        assert check(asked, Context("r")) is asked
        assert asked.user is None


@pytest.mark.parametrize(("lasts", "believed"), [(100, 104), (10_000, 299)])
def test_a_remembered_token_is_believed_until_it_expires_and_at_most_for_five_minutes(lasts, believed):
    start = int(time.time())
    now = [float(start)]
    check = verifier(secret=SECRET, now=lambda: now[0])
    text = token(SECRET, "HS256", exp=start + lasts)
    for after, verified in ((0, 1), (believed, 1), (believed + 2, 2)):
        now[0] = start + after
        assert isinstance(check(request(text), Context("r")), Request)
        assert check.statistics().verified == verified  # by the library, whose clock stands still meanwhile


def test_the_memory_for_tokens_is_bounded_and_says_what_that_cost(monkeypatch):
    monkeypatch.setattr(policy_module, "CACHE_LIMIT", 3)
    check = verifier(secret=SECRET)
    for number in range(5):
        check(request(token(SECRET, "HS256", jti=str(number))), Context("r"))
    assert (check.statistics().cached, check.statistics().evicted) == (3, 2)


@pytest.mark.parametrize("header", ["[]", "5", '{"alg": []}', '{"alg": {}}', '{"alg": 5}', "[" * 9000, "{}"])
def test_no_header_of_a_token_raises(header):
    text = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode() + ".e30.eA"
    assert verifier(secret=SECRET)(request(text), Context("r")).status == 401


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_no_token_raises(text):
    response = verifier(secret=SECRET)(request(text), Context("r"))
    assert response.status == 401


# --- the issuer's keys


def test_all_who_wait_for_the_keys_wait_for_one_fetch():
    async def scenario(issuer):
        issuer.hold = asyncio.Event()
        check = verifier(issuer.url)
        waiting = [asyncio.ensure_future(decide(check, request(token(jti=str(n))))) for n in range(20)]
        deadline = time.monotonic() + 10
        while issuer.asked == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        issuer.hold.set()
        assert all(isinstance(one, Request) for one in await asyncio.gather(*waiting))
        assert issuer.asked == 1
        await check.stop()

    with_issuer(scenario)


def test_a_new_key_of_the_issuer_is_fetched_but_made_up_ids_are_not_a_load_on_it():
    async def scenario(issuer):
        clock = [0.0]
        check = verifier(issuer.url, clock=lambda: clock[0])
        assert isinstance(await decide(check, request(token())), Request)
        issuer.document = json.dumps({"keys": [jwk(OTHER_RSA, "two")]}).encode()
        for number in range(5):
            assert "not known" in detail(await decide(check, request(token(kid=f"made-up-{number}"))))
        assert issuer.asked == 1
        clock[0] = 11.0
        assert isinstance(await decide(check, request(token(OTHER_RSA, kid="two"))), Request)
        assert issuer.asked == 2
        await check.stop()

    with_issuer(scenario)


def test_a_token_of_a_withdrawn_key_is_not_believed_from_memory():
    async def scenario(issuer):
        clock = [0.0]
        keys = KeySet(issuer.url, clock=lambda: clock[0], on_change=lambda: check._cache.clear())
        check = Verifier(
            TokenRules(ISSUER, [AUDIENCE], "sub", ASYMMETRIC),
            credential("authorization", "Bearer"),
            Refusal("Bearer", False),
            keys=keys,
        )
        old = token()
        assert isinstance(await decide(check, request(old)), Request)
        issuer.document = json.dumps({"keys": [jwk(OTHER_RSA, "two")]}).encode()
        clock[0] = 11.0
        await keys.refresh()
        assert "not known" in detail(await decide(check, request(old)))
        await check.stop()

    with_issuer(scenario)


def test_old_keys_serve_while_the_issuer_is_away_and_are_renewed_in_the_background():
    async def scenario(issuer):
        clock = [0.0]
        check = verifier(issuer.url, clock=lambda: clock[0])
        await decide(check, request(token(jti="1")))
        issuer.status = 503
        clock[0] = 700.0
        asked = request(token(jti="2"))
        assert check(asked, Context("r")) is asked  # a plain call: nobody waits for the renewal
        deadline = time.monotonic() + 10
        while check.statistics().keys.failed_fetches == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        assert isinstance(check(request(token(jti="3")), Context("r")), Request)
        issuer.status = 200
        clock[0] = 711.0
        check(request(token(jti="4")), Context("r"))
        while check.statistics().keys.age_seconds:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        await check.stop()

    with_issuer(scenario)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b'{"keys": 1}', b'{"keys": []}', b'{"keys": [{"kty": "oct"}]}', b"x"]
)
def test_without_usable_keys_a_request_is_a_503_that_may_be_repeated(document):
    async def scenario(issuer):
        issuer.document = document
        check = verifier(issuer.url)
        response = await decide(check, request(token()))
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert issuer.url not in response.body.decode()
        # Also while it is too soon to ask again: a 401 would make clients throw good tokens away.
        again = await decide(check, request(token()))
        assert (again.status, issuer.asked) == (503, 1)
        await check.stop()

    with_issuer(scenario)


def test_the_keys_are_fetched_at_the_start():
    async def scenario(issuer):
        check = verifier(issuer.url)
        await check.start()
        deadline = time.monotonic() + 10
        while check.statistics().keys.keys == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        asked = request(token())
        assert check(asked, Context("r")) is asked
        await check.stop()

    with_issuer(scenario)


def test_a_document_larger_than_the_bound_is_not_read_to_its_end():
    async def scenario(issuer):
        issuer.document = b'{"keys": [' + b" " * (2 << 20) + b"]}"
        check = verifier(issuer.url)
        assert (await decide(check, request(token()))).status == 503
        await check.stop()

    with_issuer(scenario)


def test_only_keys_that_can_verify_a_signature_are_taken():
    rows = [
        jwk(RSA, "sig", use="sig"),
        jwk(RSA, "enc", use="enc"),
        jwk(RSA, "hs", alg="HS256"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": ["RSA"]},
        "row",
        jwk(EC, "ec"),
    ]
    assert [key.kid for key in read_keys(json.dumps({"keys": rows}).encode())] == ["sig", "ec"]


# --- the options


def build(parts, **options):
    return BUILTIN["OpenIdJwtInboundPolicy"](options, parts.named())


def test_the_options_make_the_policy(parts):
    policy = build(
        parts,
        issuer=ISSUER,
        audience=AUDIENCE,
        secret=SECRET,
        subPropertyName="plan",
        authHeader="X-Token",
        allowUnauthenticatedRequests="false",
        oAuthResourceMetadataEnabled=False,
    )
    asked = Request("GET", "/", headers=Headers({"x-token": f"Bearer {token(SECRET, 'HS256')}"}))
    assert policy.inbound(asked, Context("r")) is asked
    assert (asked.user.sub, parts.findings) == ("gold", [])


def test_several_audiences_are_any_of_them(parts):
    policy = build(parts, audience=["https://a.example.com", AUDIENCE], secret=SECRET)
    assert isinstance(policy.inbound(request(token(SECRET, "HS256")), Context("r")), Request)


@pytest.mark.parametrize(
    ("options", "path", "said"),
    [
        ({}, "$", "Neither"),
        ({"jwkUrl": "https://e.com/jwks", "secret": SECRET}, "$.secret", "exclude each other"),
        ({"jwkUrl": "e.com/jwks"}, "$.jwkUrl", "not an http(s) URL"),
        ({"jwkUrl": 5}, "$.jwkUrl", "non-empty string"),
        ({"secret": SECRET, "audience": []}, "$.audience", "empty list"),
        ({"secret": SECRET, "subPropertyName": ""}, "$.subPropertyName", "non-empty"),
    ],
)
def test_what_is_wrong_with_the_options_is_found_at_start(parts, options, path, said):
    assert build(parts, **options) is None
    assert any(one.startswith(f"error {path} ") and said in one for one in parts.said)


def test_an_unset_variable_for_the_secret_stops_the_start_and_is_named(parts):
    assert build(parts, secret=Unset("JWT_SECRET")) is None
    assert "JWT_SECRET" in " ".join(parts.said)
    assert any(one.severity == "error" for one in parts.findings)


def test_doubtful_options_are_warned_about_without_showing_the_secret(parts):
    assert build(parts, secret="too short") is not None
    assert build(parts, jwkUrl="https://e.com/jwks") is not None
    assert [one.split(" ")[:2] for one in parts.said] == [["warning", "$.secret"], ["warning", "$"]]
    assert "too short" not in " ".join(parts.said)
