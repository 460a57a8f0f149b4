"""Subject paths: their grammar, the corrections, and whom they find."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.policy import SubjectPath
from metergate.policy.subject import corrected


@dataclass
class User:
    sub: Any = "user-1"
    data: Any = field(default_factory=dict)


keys = st.text(st.characters(exclude_characters=".[]*", exclude_categories=["Cs"]), min_size=1, max_size=8)
subjects = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def nested(path: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


def test_the_default_path_reads_the_sub():
    assert SubjectPath.parse(".sub").read(User("user-456")) == "user-456"


def test_the_original_s_example_reads_the_account():
    assert SubjectPath.parse(".data.accountId").read(User(data={"accountId": "acme"})) == "acme"


@given(st.lists(keys, min_size=1, max_size=5), subjects)
def test_a_path_finds_the_string_at_the_end_of_its_keys_as_it_is(path, subject):
    assert SubjectPath.parse(".data." + ".".join(path)).read(User(data=nested(path, subject))) == subject


@given(st.integers(-(10**30), 10**30))
def test_an_integer_becomes_its_decimal_form(number):
    assert SubjectPath.parse(".data.id").read(User(data={"id": number})) == str(number)


@pytest.mark.parametrize(
    "value", [True, False, None, "", {}, {"id": "x"}, [], ["x"], ("x",), 1.5, 12.0, b"x", object()]
)
def test_everything_else_is_no_subject(value):
    assert SubjectPath.parse(".data.id").read(User(data={"id": value})) is None
    assert SubjectPath.parse(".sub").read(User(sub=value)) is None


def test_no_user_is_no_subject():
    assert SubjectPath.parse(".sub").read(None) is None


def test_text_that_utf8_cannot_carry_is_no_subject():
    assert SubjectPath.parse(".sub").read(User("\ud800")) is None


def test_an_integer_with_more_digits_than_python_writes_is_no_subject():
    assert SubjectPath.parse(".sub").read(User(10**5000)) is None


def test_a_kind_of_integer_is_its_number_and_a_kind_of_string_its_text():
    class Tenant(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

    assert SubjectPath.parse(".sub").read(User(IntEnum("Account", [("ACME", 7)]).ACME)) == "7"
    subject = SubjectPath.parse(".sub").read(User(Tenant("acme")))
    assert subject == "acme"
    assert type(subject) is str


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType])
def test_every_plain_mapping_is_walked(kind):
    user = User(data=kind({"a": kind({"b": "acme"})}))
    assert SubjectPath.parse(".data.a.b").read(user) == "acme"


def test_looking_makes_nothing_that_was_not_there():
    data: defaultdict[str, str] = defaultdict(lambda: "made up")
    assert SubjectPath.parse(".data.account").read(User(data=data)) is None
    assert not data


@pytest.mark.parametrize("data", [["acme"], "acme", 5, None, User("acme")])
def test_lists_strings_and_attributes_are_not_walked(data):
    for path in (".data.0", ".data.sub", ".data.__class__", ".data.__len__"):
        assert SubjectPath.parse(path).read(User(data=data)) is None


def test_attributes_of_the_user_other_than_sub_and_data_are_not_read():
    user = User()
    user.account = "acme"  # type: ignore[attr-defined]
    assert SubjectPath.parse(".account").read(user) is None
    assert SubjectPath.parse(".__class__").read(user) is None


def test_keys_are_exact():
    data = {"AccountId": "no", "accountid": "no", "account id ": "no", "account/id": "yes", "0": "zero"}
    assert SubjectPath.parse(".data.accountId").read(User(data=data)) is None
    assert SubjectPath.parse(".data.account id").read(User(data=data)) is None
    assert SubjectPath.parse(".data.account/id").read(User(data=data)) == "yes"
    assert SubjectPath.parse(".data.0").read(User(data=data)) == "zero"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data.accountId", '"data.accountId" has no leading dot. Write ".data.accountId".'),
        ("sub", '"sub" has no leading dot. Write ".sub".'),
        ("accountId", '"accountId" has no leading dot. Write ".data.accountId".'),
        ("$.sub", '"$.sub" has no leading dot. Write ".sub".'),
        ("$.data.accountId", '"$.data.accountId" has no leading dot. Write ".data.accountId".'),
        ("user.sub", '"user.sub" has no leading dot. Write ".sub".'),
        ("request.user.data.a", '"request.user.data.a" has no leading dot. Write ".data.a".'),
        (
            ".data[0].x",
            '".data[0].x" has brackets; a subject path has keys only and looks into no list. Write ".data.x".',
        ),
        (
            '.data["account"]',
            (
                '".data[\\"account\\"]" has brackets; a subject path has keys only and looks into no list. '
                'Write ".data.account".'
            ),
        ),
        (".data.*", '".data.*" has a wildcard; a subject path names one value. Write ".data.accountId".'),
        (".data..x", '".data..x" has an empty segment. Write ".data.x".'),
        (".sub.", '".sub." has an empty segment. Write ".sub".'),
        (".", '"." has an empty segment. Write ".sub".'),
        ("", 'The subject path is empty. Write ".sub".'),
        (None, 'A subject path is a string, not null. Write ".sub".'),
        ([".sub"], 'A subject path is a string, not a list. Write ".sub".'),
    ],
)
def test_what_is_no_path_is_refused_with_the_corrected_path(path, message):
    with pytest.raises(ValueError) as refusal:
        SubjectPath.parse(path)
    assert str(refusal.value) == message


@given(st.text())
def test_the_corrected_path_of_any_text_is_a_path(text):
    assert str(SubjectPath.parse(corrected(text))).startswith((".sub", ".data."))


@given(st.lists(keys, min_size=1, max_size=4))
def test_a_valid_path_reads_back_from_its_text(path):
    text = "." + ".".join(path)
    assert str(SubjectPath.parse(text)) == text
    assert SubjectPath.parse(text) == SubjectPath.parse(text)
    assert hash(SubjectPath.parse(text)) == hash(SubjectPath.parse(text))
    assert SubjectPath.parse(text) != text
