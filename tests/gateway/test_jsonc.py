"""`metergate.gateway.jsonc`: what people write is read as meant, what is wrong is shown in its place."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway import jsonc

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

NOISE = ["", " ", "\n", "\t", '/* , ] } " */', '// " , ]\n', "/**/", " /* \n */ ", "//\r\n"]


def decorate(value: object, noise: random.Random) -> str:
    """``value`` as JSON with comments and space round its tokens, and trailing commas here and there."""

    def gap() -> str:
        return "".join(noise.choices(NOISE, k=noise.randrange(3)))

    def write(part: object) -> str:
        if isinstance(part, dict):
            members = [f"{gap()}{json.dumps(key)}{gap()}:{write(each)}" for key, each in part.items()]
            return f"{gap()}{{{','.join(members)}{comma(members)}{gap()}}}{gap()}"
        if isinstance(part, list):
            members = [write(each) for each in part]
            return f"{gap()}[{','.join(members)}{comma(members)}{gap()}]{gap()}"
        return gap() + json.dumps(part, ensure_ascii=noise.random() < 0.5) + gap()

    def comma(members: list[str]) -> str:
        return gap() + "," if members and noise.random() < 0.5 else ""

    return write(value)


@given(value=JSON, seed=st.integers())
def test_comments_and_trailing_commas_never_change_the_value(value, seed):
    text = decorate(value, random.Random(seed))  # noqa: S311
    assert jsonc.parse(text) == value
    assert jsonc.duplicates(text) == []


@given(text=st.text())
def test_any_text_is_a_value_or_an_error_with_a_position(text):
    value, error = outcome(text)
    if error is None:
        assert json.loads(json.dumps(value)) == value
    else:
        assert error.line >= 1
        assert error.column >= 1
        assert error.path.startswith("$")


def outcome(text: str) -> tuple[object, jsonc.JsoncError | None]:
    try:
        return jsonc.parse(text), None
    except jsonc.JsoncError as error:
        return None, error


@given(text=st.text(alphabet='{}[],:"\\/*1a \n\ud83d\ude00', max_size=30))
def test_text_made_of_json_marks_never_breaks_the_parser(text):
    value, error = outcome(text)
    assert value is None or error is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,}', {"a": 1}),
        ("[1, 2, /* three */]", [1, 2]),
        ('{"url": "https://a/*b*/"} // end', {"url": "https://a/*b*/"}),
        ('\ufeff{"a": "\\" // no comment"}', {"a": '" // no comment'}),
        ("/* only */ null", None),
    ],
)
def test_what_people_write_is_read(text, expected):
    assert jsonc.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "path", "message"),
    [
        ("", 1, 1, "$", "the file is empty"),
        ("// nothing\n", 2, 1, "$", "the file is empty"),
        ('{\n  "policies": [\n    {"name": }\n  ]\n}', 3, 14, "$.policies[0].name", "expecting value"),
        ('{"a": [1, 2', 1, 12, "$.a[1]", "the text ends too early: a bracket or brace is not closed"),
        ("[,]", 1, 2, "$[0]", "expecting value"),
        ("[1,,]", 1, 4, "$[1]", "expecting value"),
        ("{'a': 1}", 1, 2, "$", 'strings stand in double quotes: "…"'),
        ("[1] /* open", 1, 5, "$", "a comment that never ends: close it with */"),
        ('{"x-y": {"a b": tru}}', 1, 17, '$.x-y["a b"]', "expecting value"),
        ("[NaN]", 1, 1, "$", "NaN is not JSON: write a number or null"),
        ("[1e999]", 1, 1, "$", "the number 1e999 is too large"),
        ('["ok", "\\ud800"]', 1, 8, "$[1]", "\\u escape of half a surrogate pair"),
        ("[" * 100_000, 1, 101, "$" + "[0]" * 100, "nested more than 100 deep"),
    ],
)
def test_an_error_says_what_and_where(text, line, column, path, message):
    with pytest.raises(jsonc.JsoncError) as caught:
        jsonc.parse(text)
    found = caught.value
    assert (found.line, found.column, found.path, found.message) == (line, column, path, message)


def test_a_key_given_twice_is_found_at_its_second_place():
    text = '{"paths": {"/a": {}, // one\n "/a": {"x": 1}, "b": [{"c": 1, "c": 2}]}}'
    assert jsonc.duplicates(text) == [
        jsonc.Duplicate('$.paths["/a"]', 2, 2),
        jsonc.Duplicate("$.paths.b[0].c", 2, 33),
    ]


def test_an_integer_with_more_digits_than_python_reads_is_an_error():
    with pytest.raises(jsonc.JsoncError):
        jsonc.parse("9" * 5000)
