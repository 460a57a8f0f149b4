"""What the gateway hands to meters that take something from the traffic: the request's head, the response's, its body.

Nothing is collected unless a policy that has let the request in asks for it; see `metergate.engine.traffic`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metergate.gateway.clientbody import ClientBody
from metergate.gateway.http import NO_BODY_STATUSES, Headers, Request, RequestBody, Response

if TYPE_CHECKING:
    from metergate.engine import Look, Traffic
    from metergate.engine.traffic import Header
    from metergate.gateway.context import Context


def note_request(traffic: Traffic, request: Request, context: Context) -> None:
    """The request as it has reached the policy that lets it in."""
    route = context.route.path if context.route is not None else None
    header = _reader(request.headers)
    traffic.request(
        request.method, request.raw_path, request.query_string, header, route=route, user=request.user
    )


def note_response(
    traffic: Traffic, response: Response, method: str, client: RequestBody, began: float
) -> Look | None:
    """The response as it will be sent, and who wants to see its body. ``client`` is the request's body, ``began`` when it
    came."""

    def received() -> int:
        return client.received if isinstance(client, ClientBody) else 0

    return traffic.response(
        response.status,
        _reader(response.headers),
        began=began,
        received=received,
        has_body=method != "HEAD" and response.status not in NO_BODY_STATUSES,
    )


def _reader(headers: Headers) -> Header:
    def header(name: str) -> str | None:
        return ", ".join(values) if (values := headers.get_all(name)) else None

    return header
