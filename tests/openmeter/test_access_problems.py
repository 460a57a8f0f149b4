import json
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import (
    OpenMeterBlocked,
    OpenMeterError,
    OpenMeterMisdirected,
    OpenMeterOutage,
    OpenMeterThrottled,
    OpenMeterUnauthorized,
)
from metergate.openmeter.problems import (
    LONGEST_RETRY_AFTER,
    Lack,
    read_answer,
    read_problem,
    read_retry_after,
)

PROBLEM = "application/problem+json"
NOW = 1_800_000_000.0


def problem(expected, **changes):
    """A problem of OpenMeter's; a change to None leaves a member out."""
    members = {"type": "about:blank", "title": "x", "status": expected, "detail": "the detail", **changes}
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def answer(status, body=None, content_type=PROBLEM, retry_after=None):
    if body is None:
        body = problem(status)
    return read_answer(status, content_type, retry_after, body, endpoint="GET /x", wall_time=NOW)


def test_a_200_is_its_body():
    assert answer(200, b"anything", "text/plain") == b"anything"


@pytest.mark.parametrize(("status", "lack"), [(404, Lack.ABSENT), (412, Lack.DELETED), (400, Lack.REFUSED)])
def test_a_problem_tells_what_is_lacking(status, lack):
    assert answer(status) is lack


@pytest.mark.parametrize("status", [404, 412, 400])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>404</html>", "text/html"),
        (b"", ""),
        (b'{"message": "no Route matched"}', "application/json"),
        (b"[]", PROBLEM),
        (b"\xff\xfe", PROBLEM),
        (b'{"title": "Not Found"}', PROBLEM),
    ],
)
def test_a_lack_that_is_not_by_openmeter_is_an_outage_for_another_reason(status, body, content_type):
    with pytest.raises(OpenMeterMisdirected, match="apiUrl"):
        answer(status, body, content_type)


STRANGERS = {
    "ASP.NET": {
        "type": "https://tools.ietf.org/html/rfc9110#section-15.5.5",
        "traceId": "00-1",
        "detail": None,
    },
    "Spring": {"detail": "No static resource api/v1/customers.", "instance": "/api/v1/customers/acme/access"},
    "this gateway": {
        "type": "https://httpproblems.com/http-status/404",
        "instance": "/api/v1/customers/acme/access",
    },
    "no type": {"type": None},
    "another status": {"status": 500},
    "an instance that is no text": {"instance": 7},
}


@pytest.mark.parametrize("changes", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("status", [404, 412, 400])
def test_the_problem_of_another_api_says_nothing_of_a_subject(status, changes):
    with pytest.raises(OpenMeterMisdirected, match="not OpenMeter's: check apiUrl"):
        answer(status, problem(status, **changes))


@pytest.mark.parametrize("instance", [None, "urn:request:host/4Ud1-000001"])
def test_openmeters_problem_names_its_request_or_nothing(instance):
    assert answer(404, problem(404, instance=instance, extensions={"validationErrors": []})) is Lack.ABSENT


@pytest.mark.parametrize(
    "content_type", ["application/problem+json; charset=utf-8", "Application/Problem+JSON"]
)
def test_the_media_type_of_a_problem_is_read_with_parameters_and_without_case(content_type):
    assert answer(404, problem(404), content_type) is Lack.ABSENT


def test_a_problem_whose_media_type_a_proxy_changed_still_counts():
    assert answer(404, content_type="application/json") is Lack.ABSENT


@pytest.mark.parametrize("status", [414, 431])
def test_a_name_too_long_for_any_server_is_nobodys(status):
    assert answer(status, b"", "text/html") is Lack.REFUSED


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (401, b"<html>", "text/html"),
        (401, None, PROBLEM),
        (403, None, PROBLEM),
        (403, b'{"message": "You cannot consume this service"}', "application/json"),
    ],
)
def test_a_refused_key_is_told_from_an_outage(status, body, content_type):
    with pytest.raises(OpenMeterUnauthorized, match=f"GET /x answered {status}"):
        answer(status, body, content_type)


@pytest.mark.parametrize("body", [b"<html>blocked</html>", b"", b"RBAC: access denied", b"[]"])
def test_a_page_with_403_is_a_firewall_s_word_on_this_request_and_not_on_our_key(body):
    with pytest.raises(OpenMeterBlocked, match=r"GET /x answered 403 .*firewall"):
        answer(403, body, "text/html")


def test_a_429_says_how_long_to_wait():
    with pytest.raises(OpenMeterThrottled) as caught:
        answer(429, retry_after="7")
    assert caught.value.retry_after == 7


def test_the_detail_of_a_problem_is_in_the_error():
    with pytest.raises(OpenMeterOutage, match=r"answered 500 \(the detail\)"):
        answer(500)


def test_a_redirect_is_an_outage_that_names_the_option():
    with pytest.raises(OpenMeterOutage, match=r"redirect.*apiUrl"):
        answer(302, b"")


@given(
    st.integers(100, 599).filter(lambda status: status != 200), st.binary(max_size=40), st.text(max_size=30)
)
def test_no_answer_but_a_200_is_ever_a_body(status, body, content_type):
    try:
        read = answer(status, body, content_type)
    except OpenMeterError:
        return
    assert isinstance(read, Lack)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 12 ", 12),
        ("86400", LONGEST_RETRY_AFTER),
        ("9" * 400, LONGEST_RETRY_AFTER),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("", None),
        (formatdate(NOW + 30, usegmt=True), 30),
        (formatdate(NOW - 30, usegmt=True), 0),
        (formatdate(NOW + 86400, usegmt=True), LONGEST_RETRY_AFTER),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_bounded(value, seconds):
    assert read_retry_after(value, NOW) == seconds


@given(st.text(max_size=60), st.floats(0, 4e9))
def test_no_retry_after_raises_or_leaves_its_bounds(value, now):
    seconds = read_retry_after(value, now)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER


def test_a_body_too_deep_to_be_read_is_no_problem():
    assert read_problem(400, "application/problem+json", b"[" * 100_000) is None
