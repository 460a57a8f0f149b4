"""The engine inside your own application: metering and entitlements without a gateway in front.

    metergate = Metergate(api_key="…", meter={"type": "api-request"}, required_entitlements=["api"])
    app = MetergateMiddleware(app, metergate)                       # any ASGI application

Each framework's manners are in a module of its own: `metergate.middleware.fastapi`, ….
"""

from metergate.engine import Decision
from metergate.middleware.asgi import MetergateMiddleware
from metergate.middleware.callers import Caller
from metergate.middleware.current import add_meters, balance, check, get_meters, set_meters
from metergate.middleware.denied import Denied
from metergate.middleware.host import HEALTH_PATHS, Metergate

__all__ = [
    "HEALTH_PATHS",
    "Caller",
    "Decision",
    "Denied",
    "Metergate",
    "MetergateMiddleware",
    "add_meters",
    "balance",
    "check",
    "get_meters",
    "set_meters",
]
