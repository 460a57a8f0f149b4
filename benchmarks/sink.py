"""An OpenMeter that says yes at once: takes events, grants everything, stores nothing.

Run by Granian as ``benchmarks.sink:application``.
"""

from __future__ import annotations

from granian._granian import RSGIHTTPProtocol
from granian.rsgi import Scope

FEATURE = "api-request"

_JSON = [("content-type", "application/json")]
_VALUE = (
    b'{"hasAccess":true,"balance":1000000000000,"usage":0,"overage":0,'
    b'"totalAvailableGrantAmount":1000000000000}'
)
_ACCESS = b'{"entitlements":{"%s":%s}}' % (FEATURE.encode(), _VALUE)


class Sink:
    """Counts nothing; what is measured is whoever sends."""

    async def __rsgi__(self, scope: Scope, protocol: RSGIHTTPProtocol) -> None:
        if scope.method == "POST":
            await protocol()
            protocol.response_empty(204, [])
        elif scope.path.endswith("/access"):
            protocol.response_bytes(200, _JSON, _ACCESS)
        elif scope.path.endswith("/value"):
            protocol.response_bytes(200, _JSON, _VALUE)
        else:
            protocol.response_bytes(200, _JSON, b"[]")


application = Sink()
