"""OpenMeter's notifications: which are genuine, and whose entitlements they are about."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import UsageError
from metergate.openmeter.webhooks import (
    TOLERANCE_SECONDS,
    Envelope,
    Notification,
    SigningKey,
    judge,
    read_envelope,
    read_notification,
)

RAW = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(RAW).decode()
KEY = SigningKey(SECRET)
NOW = 1_790_000_000.0
BODY = b'{"type": "entitlements.reset"}'


def signature(message="msg_1", timestamp=NOW, body=BODY, raw=RAW):
    """As Svix describes it, written down once more with nothing of ours."""
    signed = f"{message}.{int(timestamp)}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(raw, signed, hashlib.sha256).digest()).decode()


def envelope(message="msg_1", timestamp=NOW, signatures=None):
    return Envelope(message, str(int(timestamp)), signatures or signature(message, timestamp))


# --- the secret


def test_the_published_example_of_the_scheme_verifies():
    """The example of Svix's documentation."""
    key = SigningKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    one = Envelope(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    assert judge(key, one, body, 1614265330.0) == "genuine"


@pytest.mark.parametrize(
    "secret",
    [SECRET, SECRET.removeprefix("whsec_"), f" {SECRET}\n", "whsec_" + base64.b64encode(bytes(75)).decode()],
)
def test_a_secret_is_taken_as_openmeter_shows_it_with_and_without_its_prefix(secret):
    assert SigningKey(secret).sign(envelope(), BODY).startswith("v1,")


def test_a_secret_without_its_padding_is_the_same_secret():
    padded = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    assert padded.endswith("=")
    one = envelope()
    assert SigningKey(padded).sign(one, BODY) == SigningKey(padded.rstrip("=")).sign(one, BODY)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_short",
        "a" * 31,
        "a" * 103,
        "a" * 33,  # no base64 has that length
        "hunter2 " * 5,
        "whsec_" + "-" * 32,
        "whsek_" + "a" * 32,
        "whsec_=" + "a" * 32,
    ],
)
def test_what_is_no_signing_secret_is_refused_with_what_to_write_and_not_repeated(secret):
    with pytest.raises(UsageError) as refused:
        SigningKey(secret)
    assert "whsec_ and 32 to 100 characters of base64" in str(refused.value)
    assert not secret or secret == "whsec_" or secret not in str(refused.value)


def test_a_key_shows_nowhere():
    assert repr(KEY) == str(KEY) == f"{KEY}" == "<SigningKey ***>"


# --- the envelope


@pytest.mark.parametrize("prefix", ["svix", "webhook"])
def test_an_envelope_has_either_name(prefix):
    headers = {f"{prefix}-id": "m", f"{prefix}-timestamp": "12", f"{prefix}-signature": "v1,x v1,y"}
    assert read_envelope(headers.get) == Envelope("m", "12", "v1,x v1,y")


def test_headers_of_both_names_are_not_mixed():
    headers = {"svix-id": "m", "svix-timestamp": "12", "webhook-signature": "v1,x"}
    assert read_envelope(headers.get) is None


WHOLE = {"svix-id": "m", "svix-timestamp": "12", "svix-signature": "v1,x"}


@pytest.mark.parametrize("missing", WHOLE)
def test_an_envelope_is_whole_or_none(missing):
    assert read_envelope({name: value for name, value in WHOLE.items() if name != missing}.get) is None
    assert read_envelope({**WHOLE, missing: ""}.get) is None
    assert read_envelope({}.get) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("svix-timestamp", "now"),
        ("svix-timestamp", "-1"),
        ("svix-timestamp", "1.5"),
        ("svix-timestamp", "1" * 13),
        ("svix-timestamp", "\u0661\u0662"),
        ("svix-id", "m" * 257),
    ],
)
def test_a_malformed_envelope_is_none(name, value):
    assert read_envelope({**WHOLE, name: value}.get) is None


# --- the verdict


def test_a_signed_message_is_genuine():
    assert judge(KEY, envelope(), BODY, NOW) == "genuine"


@pytest.mark.parametrize(
    "signatures",
    [
        "{other} {mine}",
        "{mine} {other}",
        "v1a,{rest} {other} {mine}",
        "v2,nonsense {mine}",
        " {mine} ",
    ],
)
def test_of_several_signatures_one_has_to_fit(signatures):
    mine, other = signature(), signature(raw=bytes(24))
    one = envelope(signatures=signatures.format(mine=mine, other=other, rest=mine[3:]))
    assert judge(KEY, one, BODY, NOW) == "genuine"


@pytest.mark.parametrize(
    "signatures",
    [
        signature(raw=bytes(24)),
        signature(body=b"{}"),
        signature(message="msg_2"),
        signature(timestamp=NOW - 1),
        signature().removeprefix("v1,"),
        signature().replace("v1,", "v2,"),
        signature().replace("v1,", "v1a,"),
        signature()[:-1],
        signature() + "=",
        signature().replace(",", ", "),
        "v1,",
        ",",
        "\u00e9",
        " ".join(["v1,x"] * 1000 + [signature()]),
    ],
)
def test_a_message_that_no_signature_fits_is_forged(signatures):
    assert judge(KEY, envelope(signatures=signatures), BODY, NOW) == "forged"


@pytest.mark.parametrize("drift", [-TOLERANCE_SECONDS, 0, TOLERANCE_SECONDS])
def test_clocks_may_differ_by_five_minutes(drift):
    assert TOLERANCE_SECONDS == 300
    assert judge(KEY, envelope(), BODY, NOW + drift) == "genuine"


@pytest.mark.parametrize("drift", [-TOLERANCE_SECONDS - 1, TOLERANCE_SECONDS + 1, 1e9])
def test_an_old_message_and_one_of_the_future_are_outdated_however_well_signed(drift):
    assert judge(KEY, envelope(), BODY, NOW + drift) == "outdated"
    assert judge(KEY, envelope(signatures="v1,x"), BODY, NOW + drift) == "forged"


@given(
    st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()),
    st.integers(0, 10**12 - 1),
    st.binary(max_size=200),
    st.binary(min_size=1, max_size=5),
)
def test_what_is_signed_verifies_and_any_change_of_it_does_not(message, timestamp, body, more):
    signed = Envelope(message, str(timestamp))
    sent = Envelope(message, str(timestamp), KEY.sign(signed, body))
    assert judge(KEY, sent, body, timestamp) == "genuine"
    assert judge(KEY, sent, body + more, timestamp) == "forged"
    moved = Envelope(message, str(timestamp + 1), sent.signatures)
    assert judge(KEY, moved, body, timestamp) == "forged"


# --- what it says


def notification(kind="entitlements.balance.threshold", **data):
    return json.dumps({"id": "01J", "type": kind, "timestamp": "2026-11-22T12:00:00Z", "data": data}).encode()


FULL = {
    "entitlement": {"id": "01E", "subjectKey": "acme-eu", "featureKey": "api"},
    "feature": {"id": "01F", "key": "api"},
    "subject": {"id": "01S", "key": "acme-eu"},
    "customer": {
        "id": "01C",
        "key": "acme",
        "usageAttribution": {"subjectKeys": ["acme-eu", "acme-us"]},
    },
    "value": {"hasAccess": True, "balance": 10},
    "threshold": {"type": "PERCENT", "value": 90},
}


@pytest.mark.parametrize("kind", ["entitlements.balance.threshold", "entitlements.reset"])
def test_all_keys_and_ids_of_the_subject_and_its_customer_are_named_once(kind):
    read = read_notification(notification(kind, **FULL))
    assert read == Notification(kind, ("acme-eu", "acme", "acme-us", "01S", "01C"))
    assert read.changes_entitlements


@pytest.mark.parametrize(
    ("data", "subjects"),
    [
        ({"subject": {"key": "acme"}}, ("acme",)),
        ({"subject": {"key": "acme"}, "customer": None}, ("acme",)),
        ({"customer": {"key": "acme"}}, ("acme",)),
        ({"customer": {"usageAttribution": {"subjectKeys": ["a", 5, "", None, "b"]}}}, ("a", "b")),
        ({"customer": {"usageAttribution": {"subjectKeys": "a"}, "id": "01C"}}, ("01C",)),
        ({"entitlement": {"subjectKey": "acme"}}, ("acme",)),
    ],
)
def test_what_is_missing_or_of_another_kind_is_passed_over(data, subjects):
    assert read_notification(notification(**data)).subjects == subjects


@pytest.mark.parametrize("kind", ["invoice.created", "entitlements.balance", "message.attempt.exhausted"])
def test_a_message_about_something_else_is_read_and_changes_nothing(kind):
    read = read_notification(notification(kind, **FULL))
    assert (read, read.changes_entitlements) == (Notification(kind), False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"\xff",
        b"[]",
        b'"entitlements.reset"',
        b"{}",
        b'{"type": 5}',
        b'{"type": ""}',
        b"[" * 100_000,
        notification(),
        notification(subject={"key": 5}, customer=[]),
        b'{"type": "entitlements.reset"}',
        b'{"type": "entitlements.reset", "data": [1]}',
    ],
)
def test_what_does_not_say_whose_entitlements_it_is_about_is_no_notification(body):
    assert read_notification(body) is None


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "data", "subject", "customer", "key", "id"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_sent_is_read_or_none_and_never_raises(body):
    read = read_notification(body)
    assert read is None or bool(read.subjects) is read.changes_entitlements
