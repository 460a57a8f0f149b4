"""``redirectHandler``: answers with a redirect to ``location``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metergate.errors import UsageError
from metergate.gateway.http import Headers, Request, Response
from metergate.gateway.options import Options

if TYPE_CHECKING:
    from metergate.gateway.context import Context
    from metergate.gateway.model import Handler, Site

STATUSES = (301, 302, 303, 307, 308)


def build(options: Any, site: Site) -> Handler | None:
    """Options: ``location`` (a URL or a path), ``status`` (302)."""
    read = Options(options)
    location = read.required("location", "https://example.com/")
    status: int = read.choice("status", 302, STATUSES)
    try:
        headers = Headers({"location": location})
    except UsageError as problem:
        read.refuse("location", f"{problem}.")
    if not read.report(site):
        return None

    def redirect(request: Request, context: Context) -> Response:
        return Response.trusted(status, headers.items.copy(), b"")

    return redirect
