"""Signatures as Svix makes them: its documented example, and what a receiver of ours makes of them."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.webhooks import headers, make_secret, signing_key
from metergate.openmeter.webhooks import SigningKey, read_envelope

TIME = datetime(2021, 2, 25, 15, 2, 10, tzinfo=UTC)


def test_the_documented_example_is_signed_as_documented():
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    sent = headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", TIME, b'{"test": 2432232314}')
    assert sent["webhook-timestamp"] == sent["svix-timestamp"] == "1614265330"
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sent["svix-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@given(st.binary(min_size=24, max_size=60), st.text(min_size=1, max_size=20), st.binary(), st.booleans())
def test_a_receiver_verifies_what_was_signed(key, name, body, prefixed):
    secret = ("whsec_" if prefixed else "") + base64.b64encode(key).decode()
    assert signing_key(secret) == key
    identifier = name.encode().hex()
    envelope = read_envelope(headers(secret, identifier, TIME, body).get)
    assert envelope.signatures == SigningKey(secret).sign(envelope, body)


def test_a_made_secret_is_32_random_bytes_and_another_each_time():
    assert len(signing_key(make_secret())) == 32
    assert make_secret() != make_secret()


def test_a_secret_that_is_no_base64_is_refused_without_being_repeated():
    with pytest.raises(ValueError, match="base64") as refused:
        signing_key("whsec_not-base-64")
    assert "not-base" not in str(refused.value)
