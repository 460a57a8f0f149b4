"""What stands in the gateway's log, and what must never stand there."""

import io
import json
import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metergate.gateway import logs
from metergate.gateway.timestamps import timestamp

KEY = "mg_Zk3vQ8s1LmN0pQrStUvWxYz0123456789abcdefghijk"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJlLW9mLWl0"


@pytest.fixture
def lines():
    """A logger and a reader of what it wrote, as JSON; the root logger is as before afterwards."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure_logging("debug", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before
    logging.captureWarnings(False)


def one(lines):
    (line,) = lines()
    return line


def test_a_line_has_time_level_logger_message_and_what_the_entry_brought(lines):
    logging.getLogger("metergate.request").warning(
        "denied %s",
        "acme",
        extra={"request_id": "r-1", "route": "GET /a", "policy": "meter", "nothing": None},
    )
    line = one(lines)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "metergate.request",
        "message": "denied acme",
        "request_id": "r-1",
        "route": "GET /a",
        "policy": "meter",
    }


def test_the_time_is_utc_in_milliseconds():
    assert timestamp(1_782_907_200_123) == "2026-07-01T12:00:00.123Z"


def test_an_exception_is_one_string_with_its_traceback(lines):
    try:
        raise ValueError("bad thing")
    except ValueError:
        logging.getLogger("metergate.x").exception("it failed")
    trace = one(lines)["exception"]
    assert trace.startswith("Traceback (most recent call last):")
    assert trace.endswith("ValueError: bad thing")
    assert "\n" in trace


def test_extras_cannot_replace_the_fields_of_a_line(lines):
    logging.getLogger("metergate.x").info("real", extra={"time": "never", "level": "fake"})
    line = one(lines)
    assert (line["level"], line["message"]) == ("info", "real")
    assert line["time"] != "never"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"sent Authorization: Bearer {KEY}", "sent Authorization: ***"),
        (f"with Bearer {JWT} it failed", "with Bearer *** it failed"),
        ('options {"apiKey": "om_secret_1", "meter": 1}', 'options {"apiKey": ***, "meter": 1}'),
        ("apiKey=om_secret_1&x=1", "apiKey=***&x=1"),
        ('Write "apiKey": "$env(OM_KEY)".', 'Write "apiKey": "$env(OM_KEY)".'),
        (f"the key {KEY} is new", "the key mg_*** is new"),
        (f"token {JWT}", "token eyJ***"),
        ("GET https://user:hunter2@host/path", "GET https://user:***@host/path"),
        ("password: 'p w d'", "password: ***"),
        ("the keynote of api meters", "the keynote of api meters"),
    ],
)
def test_credentials_inside_of_text_are_hidden(text, shown):
    assert logs.redact(text) == shown


def test_values_under_a_secrets_name_are_hidden_at_any_depth(lines):
    logging.getLogger("metergate.x").info(
        "options",
        extra={
            "options": {"apiKey": "k1", "nested": [{"client_secret": "k2", "subject": "acme"}]},
            "token": "k3",
        },
    )
    line = one(lines)
    assert line["options"] == {"apiKey": "***", "nested": [{"client_secret": "***", "subject": "acme"}]}
    assert line["token"] == "***"


def test_a_secret_in_a_traceback_is_hidden(lines):
    try:
        raise RuntimeError(f"refused: Authorization: Bearer {KEY}")
    except RuntimeError:
        logging.getLogger("metergate.x").exception("no")
    assert KEY not in json.dumps(one(lines))


def test_arguments_that_do_not_fit_their_message_still_make_a_line():
    record = logging.makeLogRecord({"msg": "%d of %d", "args": ("many",), "levelname": "INFO", "name": "x"})
    assert json.loads(logs.JsonFormatter().format(record))["message"] == "%d of %d ('many',)"


def test_what_json_cannot_hold_is_shown_as_text(lines):
    logging.getLogger("metergate.x").info(
        "odd", extra={"nan": float("nan"), "thing": object, "half": "\ud800", "several": {"b"}}
    )
    line = one(lines)
    assert line["nan"] == "nan"
    assert "object" in line["thing"]
    assert line["half"] == "?"
    assert line["several"] == ["b"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.text(), VALUES)
@example("\ud800", {"a": ["\ud800"]})
def test_any_message_and_extra_is_one_line_of_json(message, value):
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "x", "extra_value": value})
    formatted = logs.JsonFormatter().format(record)
    assert "\n" not in formatted
    assert json.loads(formatted)["level"] == "info"


def test_a_person_gets_one_short_line_and_the_traceback_below():
    record = logging.makeLogRecord(
        {
            "msg": "denied\nby %s",
            "args": ("policy",),
            "levelname": "WARNING",
            "name": "x",
            "subject": "acme",
            "n": 2,
        }
    )
    line = logs.TextFormatter().format(record)
    assert line[9:] == "warning  denied\\nby policy  subject=acme  n=2"


def test_configuring_twice_writes_every_line_once(lines):
    stream = io.StringIO()
    logs.configure_logging("info", "json", stream)
    logging.getLogger("metergate.x").info("hello")
    assert len(stream.getvalue().splitlines()) == 1
    assert lines() == []


def test_a_terminal_gets_text_and_a_file_json(lines):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, file = Terminal(), io.StringIO()
    logs.configure_logging("info", "auto", terminal)
    logging.getLogger("metergate.x").info("hello")
    logs.configure_logging("info", "auto", file)
    logging.getLogger("metergate.x").info("hello")
    assert terminal.getvalue()[9:] == "info     hello\n"
    assert json.loads(file.getvalue())["message"] == "hello"


@pytest.mark.parametrize(("level", "shape"), [("loud", "json"), ("info", "xml")])
def test_an_unknown_level_or_format_is_refused_with_the_known_ones(level, shape):
    with pytest.raises(ValueError, match="use "):
        logs.configure_logging(level, shape)
