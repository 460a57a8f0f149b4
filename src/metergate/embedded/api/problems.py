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


def problem_response(problem: Problem, request_id: str) -> Response:
    """The answer to the client. The detail of a 500 is always left out, as OpenMeter does."""
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
    return Response(_encode(body), problem.status, media_type="application/problem+json")
