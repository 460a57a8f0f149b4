"""What goes wrong, as OpenMeter answers it: ``application/problem+json`` (its pkg/models/problem.go).

Raise one of the exceptions anywhere below a route, in a store function too; ``app.py`` makes the answer::

    raise NotFound("feature not found: api-calls")          # 404, detail "not found error: feature not found:
    …" raise Conflict("…", conflictingEntityId=other)          # 409, keyword arguments go to ``extensions``

``Problem`` itself is for any other status, its detail is given as it is.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from metergate.errors import MetergateError

RETRY_AFTER = "1"
"""Seconds."""
_encode = msgspec.json.Encoder().encode
_TITLES = {413: "Request Entity Too Large"}
"""Where Go's words are not those of every version of Python."""


class Problem(MetergateError):
    """An answer that is not the one asked for. ``detail`` is told to the client: no secret may be in it."""

    status = 400
    prefix = ""
    by_schema = False
    """Whether it is the request that does not fit the API's description; OpenMeter's validator of requests
    answers those, and names no instance."""

    def __init__(self, detail: str = "", *, status: int | None = None, **extensions: Any) -> None:
        self.detail = self.prefix + detail
        self.extensions = extensions
        if status is not None:
            self.status = status
        super().__init__(self.detail)


class Invalid(Problem):
    """400: the request contradicts a rule of the domain."""

    prefix = "validation error: "


class BadRequest(Problem):
    """400 without a kind: what a handler turns down while it reads the request."""


class Misfit(BadRequest):
    """400: the request does not fit the API's schema. With another ``status``: nor any of its routes."""

    by_schema = True


class InvalidParameter(Misfit):
    """400: a parameter or a part of the body does not fit. ``field`` is its name or its path in the body,
    ``source`` is query, path, header or body; version 3 of the API tells both apart from the ``reason``.
    """

    def __init__(self, field: str, reason: str, source: str = "query", *, detail: str = "") -> None:
        self.field = field
        self.reason = reason
        self.source = source
        super().__init__(detail or f'parameter "{field}" in {source} has an error: {reason}')


class Issue(Problem):
    """400, or another status: what OpenMeter lists under ``extensions.validationErrors`` beside the detail."""

    prefix = "validation error: "

    def __init__(
        self, code: str, message: str, field: str = "", *, status: int = 400, **attributes: Any
    ) -> None:
        issue = {"code": code, "field": field, "message": message, "severity": "critical"} | attributes
        shown = {name: value for name, value in issue.items() if value != ""}
        super().__init__(message, status=status, validationErrors=[shown])


class Unauthorized(Problem):
    """401"""

    status = 401
    prefix = "unauthorized error: "


class Forbidden(Problem):
    """403"""

    status = 403
    prefix = "forbidden error: "


class NotFound(Problem):
    """404"""

    status = 404
    prefix = "not found error: "


class Conflict(Problem):
    """409"""

    status = 409
    prefix = "conflict error: "


class PreconditionFailed(Problem):
    """412"""

    status = 412
    prefix = "precondition failed error: "


def problem_response(problem: Problem, request_id: str, *, version_3: bool = False) -> Response:
    """The answer to the client. The detail of a 500 is always left out, as OpenMeter does.

    A 503 says when to try again; whatever it was, it is usually over in a second.
    """
    headers = {"Retry-After": RETRY_AFTER} if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Response(
        _encode(_body_v3(problem, request_id) if version_3 else _body(problem, request_id)),
        problem.status,
        headers,
        media_type="application/problem+json",
    )


def _body(problem: Problem, request_id: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status) or HTTPStatus(problem.status).phrase,
        "status": problem.status,
    }
    if problem.detail and problem.status != HTTPStatus.INTERNAL_SERVER_ERROR:
        body["detail"] = problem.detail
    if not problem.by_schema:
        body["instance"] = f"urn:request:{request_id}"
    if problem.extensions:
        body["extensions"] = problem.extensions
    return body


def _body_v3(problem: Problem, request_id: str) -> dict[str, Any]:
    """In version 3 the detail and the instance are always there, and what does not fit is named field by field."""
    if not isinstance(problem, InvalidParameter):
        phrase = HTTPStatus(problem.status).phrase
        return {"detail": phrase, **_body(problem, request_id), "instance": f"urn:request:{request_id}"}
    invalid = {"field": problem.field, "reason": problem.reason, "source": problem.source}
    return {
        "type": "https://kongapi.info/konnect/bad-request",
        "status": problem.status,
        "title": "Bad Request",
        "instance": f"urn:request:{request_id}",
        "detail": f"Bad Request: {problem.field}: {problem.reason}",
        "invalid_parameters": [invalid],
    }
