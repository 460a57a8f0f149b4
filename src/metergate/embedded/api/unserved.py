"""What OpenMeter's API has beside metering, customers and entitlements: plans, subscriptions, invoices, …

It answers 501, so that a client knows that it is not its request that is wrong. Last of all modules, since
its paths are wide.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metergate.embedded.api.problems import Problem
from metergate.embedded.services import Services

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_CUSTOMER, _FEATURE, _V3 = "/api/v1/customers/{id}", "/api/v1/features/{id}", "/api/v3/openmeter"
UNSERVED = (
    *(f"/api/v1/{name}" for name in ("addons", "app", "apps", "billing", "info", "marketplace", "plans")),
    *(f"/api/v1/{name}" for name in ("product-catalog", "stripe", "subscriptions")),
    *(f"{_CUSTOMER}/{name}" for name in ("apps", "stripe", "subscriptions")),
    f"{_FEATURE}/cost",
    *(f"{_V3}/customers/{{id}}/{name}" for name in ("billing", "charges", "credits", "entitlements")),
    f"{_V3}/features/{{id}}/cost",
    *(f"{_V3}/{name}" for name in ("addons", "apps", "billing", "charges", "currencies")),
    *(f"{_V3}/{name}" for name in ("defaults", "entitlements", "governance", "grants")),
    *(f"{_V3}/{name}" for name in ("invoices", "llm-cost", "notification", "notifications", "plans")),
    *(f"{_V3}/{name}" for name in ("profiles", "subscriptions", "tax-codes")),
)


def routes(services: Services) -> list[Route]:
    """A route for each part that is not served, and one for all below it."""
    paths = [path for part in UNSERVED for path in (part, f"{part}/{{rest:path}}")]
    return [Route(path, _answer, methods=METHODS) for path in paths]


async def _answer(request: Request) -> Response:
    raise Problem(
        f"{request.method} {request.url.path} is not served here: metering, customers and entitlements are. "
        "Use OpenMeter itself for the rest.",
        status=501,
    )
