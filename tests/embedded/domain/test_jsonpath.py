"""The JSONPath of meters."""

from __future__ import annotations

import duckdb
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.embedded.domain.jsonpath import MISSING, look_up, parse_path, to_pointer

DOCUMENT = {
    "a": {"b": 1, "c d": [10, {"e": None}]},
    "x/y": "slash",
    "m~n": "tilde",
    "0": "zero",
    "list": ["l"],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", DOCUMENT),
        ("$.a.b", 1),
        ('$.a["c d"][0]', 10),
        ("$['a']['c d'][1].e", None),
        ("$.a.missing", MISSING),
        ("$.a.b.c", MISSING),
        ('$.a["c d"][2]', MISSING),
        ('$["x/y"]', "slash"),
        ('$["m~n"]', "tilde"),
        ("$.0", "zero"),
        ("$.list.0", "l"),
        ("$.list.x", MISSING),
    ],
)
def test_a_path_leads_to_its_value(path, value):
    assert look_up(DOCUMENT, parse_path(path)) == value


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "$a",
        "$..a",
        "$.*",
        "$[*]",
        "$.a[?(@.b)]",
        "$[-1]",
        "$.a.",
        '$["a]',
        "$[01]",
        "$." + "a" * 512,
    ],
)
def test_what_could_name_several_values_is_turned_down(path):
    with pytest.raises(ValueError, match=r"must|is not understood"):
        parse_path(path)


keys = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\$;'), min_size=1, max_size=8
)
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(keys, children, max_size=3),
    max_leaves=8,
)


@st.composite
def documents_and_paths(draw):
    """A document and a path that leads somewhere in it, or a step too far."""
    document = value = draw(st.dictionaries(keys, documents, min_size=1, max_size=3))
    path = "$"
    while isinstance(value, dict | list) and value and draw(st.booleans() | st.just(True)):
        if isinstance(value, dict):
            key = draw(st.sampled_from(sorted(value)))
            path, value = f'{path}["{key}"]', value[key]
        else:
            place = draw(st.integers(0, len(value) - 1))
            path, value = f"{path}[{place}]", value[place]
    return document, path + draw(st.sampled_from(["", ".beyond"]))


@given(documents_and_paths())
def test_the_databases_reading_of_a_path_is_the_same(case):
    document, path = case
    steps = parse_path(path)
    found = look_up(document, steps)
    text = msgspec.json.encode(document).decode()
    (row,) = duckdb.execute(
        "SELECT json_extract($1::VARCHAR, $2::VARCHAR)::VARCHAR", [text, to_pointer(steps)]
    ).fetchall()
    assert (MISSING if row[0] is None else msgspec.json.decode(row[0])) == found
