"""What is answered to who is not let in: ``application/problem+json``, as the gateway answers it."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import msgspec

from metergate.engine import Denial
from metergate.errors import MetergateError

_TYPE = "https://httpproblems.com/http-status/"
CONTENT_TYPE = "application/problem+json"


class Denied(MetergateError):
    """Raised where a request is not let in amid an application; the middleware answers it with `problem`."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.detail)
        self.denial = denial


def problem(denial: Denial, path: str, request_id: str) -> bytes:
    """The body of the answer (RFC 9457): the denial's own members, and which request it was. ``path`` without query."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    members: dict[str, Any] = {
        "type": f"{_TYPE}{denial.status}",
        "title": title(denial.status),
        "status": denial.status,
        "detail": denial.detail,
        "instance": path,
        "trace": {"timestamp": moment, "requestId": request_id},
    }
    return msgspec.json.encode(members | denial.members())


def title(status: int) -> str:
    """The words for a status."""
    return HTTPStatus(status).phrase


def headers(denial: Denial, length: int) -> list[tuple[str, str]]:
    """The header fields of that answer, names in lower case."""
    fields = [("content-type", CONTENT_TYPE), ("content-length", str(length))]
    if denial.retry_after is not None:
        fields.append(("retry-after", str(denial.retry_after)))
    return fields
