"""The status grammar: what it accepts, what it refuses and with which words, and that it means what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.policy import StatusSet

statuses = st.integers(100, 599)
spaces = st.sampled_from(["", " ", "  ", "\t", "\n", " "])


@st.composite
def ranges(draw) -> tuple[str, set[int]]:
    low, high = sorted((draw(statuses), draw(statuses)))
    if draw(st.booleans()):
        return f"{draw(spaces)}{low}{draw(spaces)}", {low}
    text = f"{draw(spaces)}{low}{draw(spaces)}-{draw(spaces)}{high}{draw(spaces)}"
    return text, set(range(low, high + 1))


def lists() -> st.SearchStrategy[list[tuple[str, set[int]]]]:
    return st.lists(ranges(), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("200-299", "200-299"),
        ("200-299,304", "200-299,304"),
        ("200-299, 304", "200-299,304"),
        (" 200 - 299 , 304 ", "200-299,304"),
        ("304,200-299", "200-299,304"),
        ("200", "200"),
        (200, "200"),
        ([200, "201", "300-302,304"], "200-201,300-302,304"),
        ("200-250,240-299", "200-299"),
        ("200-250,251-299", "200-299"),
        ("100-599", "100-599"),
        ("404-404", "404"),
    ],
)
def test_every_form_of_the_grammar_is_read(value, canonical):
    assert str(StatusSet.parse(value)) == canonical


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("*", '"*" is not a status code or a range. Write "100-599" for every status.'),
        ("2xx", '"2xx" is not a status code or a range. Write "200-299".'),
        ("2XX", '"2XX" is not a status code or a range. Write "200-299".'),
        ("2*", '"2*" is not a status code or a range. Write "200-299".'),
        (
            "",
            (
                "The string is empty, so no status would be metered. "
                'Write codes and ranges, or leave the option out for the default, "200-299".'
            ),
        ),
        (
            [],
            (
                "The list is empty, so no status would be metered. "
                'Write codes and ranges, or leave the option out for the default, "200-299".'
            ),
        ),
        ("200,,304", '"200,,304" has an empty element. Write "200, 304".'),
        (",", '"," has an empty element. Write codes and ranges, such as "200-299, 304".'),
        ("299-200", '"299-200" is a reversed range. Write "200-299".'),
        (200.5, '200.5 is not a whole number. Write codes and ranges, such as "200-299, 304".'),
        (200.0, "200.0 is not a whole number. Write 200."),
        (
            True,
            (
                "A status is a number or a string, not the boolean true. "
                'Write codes and ranges, such as "200-299, 304".'
            ),
        ),
        (
            [200, False],
            (
                "A status is a number or a string, not the boolean false. "
                'Write codes and ranges, such as "200-299, 304".'
            ),
        ),
        ("99", '"99" is outside 100 to 599. Write codes and ranges, such as "200-299, 304".'),
        (600, '600 is outside 100 to 599. Write codes and ranges, such as "200-299, 304".'),
        ("200-600", '"200-600" is outside 100 to 599. Write "200-599".'),
        ("200 to 299", '"200 to 299" is not a status code or a range. Write "200-299".'),
        ("200..299", '"200..299" is not a status code or a range. Write "200-299".'),
        (
            "0200",
            '"0200" is not a status code or a range. Write codes and ranges, such as "200-299, 304".',
        ),
        (
            "２００",
            '"２００" is not a status code or a range. Write codes and ranges, such as "200-299, 304".',
        ),
        (
            "200 304",
            '"200 304" is not a status code or a range. Write codes and ranges, such as "200-299, 304".',
        ),
        (
            "2xx, 42-41",
            (
                '"2xx" is not a status code or a range. Write "200-299". '
                '"42-41" is outside 100 to 599. Write codes and ranges, such as "200-299, 304".'
            ),
        ),
    ],
)
def test_what_is_not_of_the_grammar_is_refused_with_the_part_at_fault(value, message):
    with pytest.raises(ValueError) as refusal:
        StatusSet.parse(value)
    assert str(refusal.value) == message


@given(lists())
def test_a_list_holds_exactly_what_its_elements_name(parts):
    read = StatusSet.parse(",".join(text for text, _ in parts))
    assert read == set().union(*(numbers for _, numbers in parts))


@given(lists())
def test_a_json_list_means_what_the_comma_list_means(parts):
    texts = [text for text, _ in parts]
    assert StatusSet.parse(texts) == StatusSet.parse(",".join(texts))


@given(lists())
def test_the_canonical_form_reads_back_as_the_same_set_and_is_the_same_for_every_order(parts):
    texts = [text for text, _ in parts]
    read = StatusSet.parse(texts)
    assert StatusSet.parse(str(read)) == read
    assert str(StatusSet.parse(texts[::-1])) == str(read)


@given(lists(), st.sampled_from(["*", "2xx", "", " ", "abc", "-", "200-", "-299", "1e2", "+200", "200.0"]))
def test_one_bad_element_refuses_the_whole(parts, bad):
    with pytest.raises(ValueError):
        StatusSet.parse(",".join([*(text for text, _ in parts), bad]))


def said_of(text: str) -> str:
    try:
        return str(StatusSet.parse(text))
    except ValueError as refusal:
        return f"refused: {refusal}"


@given(st.text())
def test_any_text_is_read_or_refused_with_a_message(text):
    said = said_of(text)
    assert said[0].isdigit() or (said.startswith("refused: ") and said.endswith("."))


@given(statuses, statuses)
def test_both_ends_of_a_range_are_in_and_their_neighbours_are_not(one, other):
    low, high = sorted((one, other))
    read = StatusSet.parse(f"{low}-{high}")
    assert low in read
    assert high in read
    assert low - 1 not in read
    assert high + 1 not in read
