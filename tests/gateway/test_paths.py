"""`metergate.gateway.paths`: which patterns there are, and what is said of one that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.gateway.paths import MODES, PatternError, normal_path, parse_pattern


@pytest.mark.parametrize(
    ("mode", "path", "message", "fix"),
    [
        ("open-api", "users", 'The path "users" does not begin with a slash.', 'Write "/users".'),
        ("open-api", "/a?b=1", "A query never affects matching.", 'Write "/a".'),
        ("open-api", "/{}", '"{}" in the path is not a parameter.', "Write {name}."),
        ("open-api", "/{a", '"{" in the path has no partner.', "Write {name} for a parameter."),
        ("open-api", "/{a}/{a}", 'The path has two parameters "a".', "Give each a name of its own."),
        (
            "open-api",
            "/a/../b",
            "A segment . or .. never reaches a route.",
            "Write the path that it stands for.",
        ),
        ("open-api", "/a\nb", "The path holds a control character.", ""),
        (
            "url-pattern",
            "/:",
            '":" in the path is followed by no name.',
            'Write ":name", or "\\:" for itself.',
        ),
        ("url-pattern", "/a)", '")" in the path has nothing to stand for there.', 'Write "\\)" for itself.'),
        ("url-pattern", "/(a", '"(" in the path is never closed.', 'Write ")".'),
        ("url-pattern", "/()", '"()" in the path is empty.', 'Write "(.*)" for anything.'),
        ("url-pattern", "/((a))", '"((a))" in the path has a group inside.', "Write (?:…) for a group."),
        (
            "url-pattern",
            "/(^a)",
            '"(^a)" in the path is not supported.',
            "Leave ^, $ and (? out; it matches as a whole.",
        ),
        ("url-pattern", "/a\\", "The path ends in a backslash.", "Remove it."),
        (
            "url-pattern",
            "/{a:b:c}",
            '"{" in the path is not closed as it should be.',
            "Write {text}, {text:name} or {text}?.",
        ),
    ],
)
def test_a_path_that_is_no_pattern_is_explained(mode, path, message, fix):
    with pytest.raises(PatternError) as caught:
        parse_pattern(path, mode)
    assert (caught.value.message, caught.value.fix) == (message, fix)


def test_a_bad_regular_expression_is_named():
    with pytest.raises(
        PatternError, match=r'"\(\*\)" in the path is not a regular expression: nothing to repeat'
    ):
        parse_pattern("/(*)", "url-pattern")


@given(st.text(alphabet="/ab{}:()*+?\\.d^$[|é%2", max_size=20), st.sampled_from(MODES))
def test_any_text_is_a_pattern_or_is_explained(text, mode):
    try:
        pattern = parse_pattern("/" + text, mode)
    except PatternError as error:
        assert error.message  # noqa: PT017  # either outcome is right, a third is not
    else:
        assert pattern.source == "/" + text


@given(st.text())
def test_the_normal_path_is_its_own_normal_path_unless_an_escape_was_escaped(text):
    once = normal_path("/" + text)
    assert normal_path(once) == once or "%25" in text
