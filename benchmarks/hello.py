"""The upstream where no nginx is installed: one short answer to everything."""

from __future__ import annotations

from granian._granian import RSGIHTTPProtocol
from granian.rsgi import Scope

from benchmarks.servers import ANSWER

_JSON = [("content-type", "application/json")]


async def application(scope: Scope, protocol: RSGIHTTPProtocol) -> None:
    protocol.response_str(200, _JSON, ANSWER)
