"""Answers that say what went wrong: ``application/problem+json`` (RFC 9457), one function per HTTP status.

The members, in this order: ``type`` (``https://httpproblems.com/http-status/<code>``), ``title``, ``status``,
``detail`` where there is one, ``instance`` (the path without query), ``trace`` {``timestamp``, ``requestId``,
``buildId``}, then what else the caller adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from metergate.errors import UsageError
from metergate.gateway.http import Headers, Request, Response
from metergate.gateway.timestamps import now

if TYPE_CHECKING:
    from metergate.gateway.context import Context

BUILD_ID = version("metergate")
TYPE_PREFIX = "https://httpproblems.com/http-status/"
CONTENT_TYPE = ("content-type", "application/problem+json")

_encode = msgspec.json.Encoder(decimal_format="number").encode
_BUILD = b',"buildId":' + _encode(BUILD_ID) + b"}}"
_OWN_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "trace"})


class Problem:
    """Makes the responses of one status; called with a request and its context."""

    __slots__ = ("_with_detail", "_without_detail", "status", "title")

    def __init__(self, status: int, title: str) -> None:
        self.status = status
        self.title = title
        head = b'{"type":%s,"title":%s,"status":%d' % (
            _encode(f"{TYPE_PREFIX}{status}"),
            _encode(title),
            status,
        )
        self._with_detail = head + b',"detail":'
        self._without_detail = head + b',"instance":'

    def __call__(
        self,
        request: Request,
        context: Context,
        overrides: Mapping[str, Any] | None = None,
        headers: Headers | Mapping[str, str] | None = None,
    ) -> Response:
        """The problem as a response.

        ``overrides`` replaces members (``detail``, ``title``, ``type``, ``instance``) and adds others at the
        top level; a ``status`` in it makes a problem of that status instead. ``headers`` are added.
        """
        if not overrides:
            body = self._without_detail + _rest(request, context)
        elif overrides.keys() == {"detail"}:
            detail = _encode(overrides["detail"]) + b',"instance":'
            body = self._with_detail + detail + _rest(request, context)
        elif overrides.get("status", self.status) != self.status:
            others = {name: value for name, value in overrides.items() if name != "status"}
            return of_status(overrides["status"], request, context, others, headers)
        else:
            body = self._overridden(request, context, overrides)
        return Response.trusted(self.status, _with_content_type(headers), body)

    def _overridden(self, request: Request, context: Context, overrides: Mapping[str, Any]) -> bytes:
        members: dict[str, Any] = {
            "type": overrides.get("type", f"{TYPE_PREFIX}{self.status}"),
            "title": overrides.get("title", self.title),
            "status": self.status,
            "detail": overrides.get("detail"),
            "instance": overrides.get("instance", request.raw_path),
            "trace": {
                "timestamp": now(),
                "requestId": context.request_id,
                "buildId": BUILD_ID,
                **overrides.get("trace", {}),
            },
        }
        if members["detail"] is None:
            del members["detail"]
        members.update((name, value) for name, value in overrides.items() if name not in _OWN_MEMBERS)
        return _encode(members)

    def __repr__(self) -> str:
        return f"<Problem {self.status} {self.title}>"


def _rest(request: Request, context: Context) -> bytes:
    """From the value of ``instance`` to the end."""
    return b'%s,"trace":{"timestamp":"%s","requestId":%s%s' % (
        _encode(request.raw_path),
        now().encode(),
        _encode(context.request_id),
        _BUILD,
    )


def _with_content_type(headers: Headers | Mapping[str, str] | None) -> list[tuple[str, str]]:
    if not headers:
        return [CONTENT_TYPE]
    checked = headers if isinstance(headers, Headers) else Headers(headers)
    return [CONTENT_TYPE, *(item for item in checked.items if item[0] != "content-type")]


bad_request = Problem(400, "Bad Request")
unauthorized = Problem(401, "Unauthorized")
payment_required = Problem(402, "Payment Required")
forbidden = Problem(403, "Forbidden")
not_found = Problem(404, "Not Found")
method_not_allowed = Problem(405, "Method Not Allowed")
not_acceptable = Problem(406, "Not Acceptable")
proxy_authentication_required = Problem(407, "Proxy Authentication Required")
request_timeout = Problem(408, "Request Timeout")
conflict = Problem(409, "Conflict")
gone = Problem(410, "Gone")
length_required = Problem(411, "Length Required")
precondition_failed = Problem(412, "Precondition Failed")
content_too_large = Problem(413, "Content Too Large")
uri_too_long = Problem(414, "URI Too Long")
unsupported_media_type = Problem(415, "Unsupported Media Type")
range_not_satisfiable = Problem(416, "Range Not Satisfiable")
expectation_failed = Problem(417, "Expectation Failed")
im_a_teapot = Problem(418, "I'm a teapot")
misdirected_request = Problem(421, "Misdirected Request")
unprocessable_content = Problem(422, "Unprocessable Content")
locked = Problem(423, "Locked")
failed_dependency = Problem(424, "Failed Dependency")
too_early = Problem(425, "Too Early")
upgrade_required = Problem(426, "Upgrade Required")
precondition_required = Problem(428, "Precondition Required")
too_many_requests = Problem(429, "Too Many Requests")
request_header_fields_too_large = Problem(431, "Request Header Fields Too Large")
unavailable_for_legal_reasons = Problem(451, "Unavailable For Legal Reasons")
internal_server_error = Problem(500, "Internal Server Error")
not_implemented = Problem(501, "Not Implemented")
bad_gateway = Problem(502, "Bad Gateway")
service_unavailable = Problem(503, "Service Unavailable")
gateway_timeout = Problem(504, "Gateway Timeout")
http_version_not_supported = Problem(505, "HTTP Version Not Supported")
variant_also_negotiates = Problem(506, "Variant Also Negotiates")
insufficient_storage = Problem(507, "Insufficient Storage")
loop_detected = Problem(508, "Loop Detected")
not_extended = Problem(510, "Not Extended")
network_authentication_required = Problem(511, "Network Authentication Required")

BY_STATUS: dict[int, Problem] = {
    problem.status: problem for problem in list(globals().values()) if isinstance(problem, Problem)
}


def of_status(
    status: int,
    request: Request,
    context: Context,
    overrides: Mapping[str, Any] | None = None,
    headers: Headers | Mapping[str, str] | None = None,
) -> Response:
    """The problem of any status from 400 to 599; raises `UsageError` for another."""
    problem = BY_STATUS.get(status)
    if problem is None:
        if status not in range(400, 600):
            raise UsageError(f"{status!r} is not the status of a problem: use a number from 400 to 599")
        problem = Problem(status, "Client Error" if status < 500 else "Server Error")
    return problem(request, context, overrides, headers)
