"""The routes of a project: which one a request takes, and the answer to a browser's CORS preflight."""

from __future__ import annotations

from metergate.gateway.http import Request, Response
from metergate.gateway.matcher import Matcher
from metergate.gateway.model import Route


class Router(Matcher[Route]):
    """`match(method, raw_path)` gives the route and its path parameters; see `metergate.gateway.matcher`."""

    __slots__ = ()

    def preflight(self, request: Request) -> Response | None:
        """The answer to a CORS preflight; None where it is none, or where the route in question refuses it.

        Ask before `match`: the browser's question goes before routes for OPTIONS, no policy runs and nothing is metered.
        """
        if request.method != "OPTIONS":
            return None
        origin = request.headers.get("origin")
        method = request.headers.get("access-control-request-method")
        if origin is None or method is None:
            return None
        found = self.match(method, request.raw_path)
        if found is None or found[0].cors is None:
            return None
        return found[0].cors.preflight(request, self.methods(request.raw_path))
