"""What a client reads when a request went wrong."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import UsageError
from metergate.gateway import problems
from metergate.gateway.context import Context
from metergate.gateway.http import Headers, Request

REQUEST = Request("GET", "/orders/17", "secret=1")
ID = "3f0c0a2e-0000-4000-8000-000000000000"


def body_of(response):
    assert response.headers.get_all("content-type") == ["application/problem+json"]
    body = json.loads(response.body)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["trace"].pop("timestamp"))
    return body


def test_a_problem_has_exactly_the_members_of_the_format_in_their_order(context):
    response = problems.forbidden(REQUEST, context)
    golden = re.sub(rb'"timestamp":"[^"]*"', b'"timestamp":"T"', response.body)
    assert golden == (
        b'{"type":"https://httpproblems.com/http-status/403","title":"Forbidden","status":403,'
        b'"instance":"/orders/17","trace":{"timestamp":"T","requestId":"%s","buildId":"%s"}}'
        % (ID.encode(), problems.BUILD_ID.encode())
    )


def test_a_detail_stands_before_the_instance(context):
    body = body_of(problems.unauthorized(REQUEST, context, {"detail": 'a "key" is needed'}))
    assert list(body) == ["type", "title", "status", "detail", "instance", "trace"]
    assert body["detail"] == 'a "key" is needed'


def test_other_members_are_added_at_the_top_level_and_known_ones_replaced(context):
    overrides = {
        "detail": "d",
        "title": "Quota used up",
        "type": "https://e.com/q",
        "features": ["a"],
        "left": 0,
    }
    body = body_of(problems.too_many_requests(REQUEST, context, overrides))
    assert body == {
        "type": "https://e.com/q",
        "title": "Quota used up",
        "status": 429,
        "detail": "d",
        "instance": "/orders/17",
        "trace": {"requestId": ID, "buildId": problems.BUILD_ID},
        "features": ["a"],
        "left": 0,
    }


def test_a_status_among_the_overrides_makes_a_problem_of_that_status(context):
    response = problems.forbidden(REQUEST, context, {"status": 402, "detail": "pay"})
    body = body_of(response)
    assert response.status == 402
    assert (body["status"], body["title"]) == (402, "Payment Required")


def test_an_override_of_none_takes_the_detail_away(context):
    assert "detail" not in body_of(problems.forbidden(REQUEST, context, {"detail": None, "x": 1}))


@pytest.mark.parametrize(
    "headers", [{"retry-after": "5"}, Headers({"Retry-After": "5", "Content-Type": "text/html"})]
)
def test_headers_are_added_but_never_replace_the_content_type(context, headers):
    response = problems.service_unavailable(REQUEST, context, None, headers)
    assert response.headers["retry-after"] == "5"
    assert response.headers.get_all("content-type") == ["application/problem+json"]


def test_there_is_one_function_for_each_status_of_an_error_that_http_names():
    statuses = {400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418}
    statuses |= {421, 422, 423, 424, 425, 426, 428, 429, 431, 451}
    statuses |= {500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511}
    assert set(problems.BY_STATUS) == statuses
    assert problems.BY_STATUS[502] is problems.bad_gateway


@pytest.mark.parametrize(
    ("status", "title"), [(404, "Not Found"), (499, "Client Error"), (599, "Server Error")]
)
def test_any_status_of_an_error_can_be_had(context, status, title):
    response = problems.of_status(status, REQUEST, context)
    body = body_of(response)
    assert response.status == status
    assert (body["title"], body["type"]) == (title, f"https://httpproblems.com/http-status/{status}")


@pytest.mark.parametrize("status", [200, 399, 600, "403"])
def test_a_status_that_is_no_error_is_refused(context, status):
    with pytest.raises(UsageError, match="400 to 599"):
        problems.of_status(status, REQUEST, context)


@given(st.text(alphabet=st.characters(codec="utf-8")), st.text(alphabet=st.characters(codec="utf-8")))
def test_no_path_and_no_detail_breaks_the_json(path, detail):
    response = problems.forbidden(Request("GET", "/" + path), Context(detail), {"detail": detail})
    body = json.loads(response.body)
    assert (body["instance"], body["detail"], body["trace"]["requestId"]) == ("/" + path, detail, detail)
