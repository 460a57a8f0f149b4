"""``/api/v1/debug/metrics``: how many events came today, for a look without any tool."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.domain.moments import truncate
from metergate.embedded.services import Services


def routes(services: Services) -> list[Route]:
    """The route of this module."""
    return [Route("/api/v1/debug/metrics", partial(_metrics, services), methods=["GET"])]


async def _metrics(services: Services, request: Request) -> Response:
    """The events of this day in UTC by subject, in the text format of OpenMetrics."""
    midnight = truncate(services.clock(), timedelta(days=1))
    counts = await services.listing.count_by_subject(midnight, midnight + timedelta(days=1))
    lines = [
        "# HELP openmeter_events_total Number of ingested events",
        "# TYPE openmeter_events_total counter",
        *(f'openmeter_events_total{{subject="{_escaped(subject)}"}} {count}' for subject, count in counts),
        "# EOF",
    ]
    return Response("\n".join(lines) + "\n", media_type="text/plain")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
