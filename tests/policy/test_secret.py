"""A secret is seen by nobody who did not ask for it by name."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import msgspec
import pytest

from metergate.policy import Policy, Secret


def test_a_secret_gives_its_value_away_only_when_asked():
    assert Secret("om_abc").reveal() == "om_abc"


@pytest.mark.parametrize(
    "show", [str, repr, "{}".format, "{!r}".format, "%s".__mod__, lambda secret: f"{secret:>3}"]
)
def test_a_secret_shows_as_stars_however_it_is_printed(show):
    assert show(Secret("om_abc")) == "***"


def test_a_policy_shows_its_key_in_no_dump():
    policy = Policy(name="p", api_key=Secret("om_abc"))
    dumps = [repr(policy), str(dataclasses.asdict(policy)), str(dataclasses.astuple(policy))]
    assert all("***" in dump and "om_abc" not in dump for dump in dumps)


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode, pickle.dumps, msgspec.to_builtins])
def test_a_secret_cannot_leave_the_process_inside_something_larger(encode):
    with pytest.raises(TypeError) as refusal:
        encode({"key": Secret("om_abc")})
    assert "om_abc" not in str(refusal.value)


def test_secrets_are_equal_and_hash_by_value():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert hash(Secret("a")) != hash("a")


def test_a_copy_of_a_secret_is_the_secret():
    secret = Secret("a")
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"key": secret})["key"] is secret


def test_a_secret_cannot_be_changed():
    secret = Secret("a")
    with pytest.raises(AttributeError):
        secret._value = "b"
    with pytest.raises(AttributeError):
        del secret._value
    assert secret.reveal() == "a"


def test_an_empty_secret_is_false():
    assert Secret("a")
    assert not Secret("")


def test_an_error_about_a_secret_does_not_show_it_in_its_traceback_text():
    with pytest.raises(AttributeError) as refusal:
        Secret("om_abc").value  # noqa: B018
    assert "om_abc" not in str(refusal.value)
