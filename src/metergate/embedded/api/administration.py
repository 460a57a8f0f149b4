"""``/api/metergate/…``: what only this server has: its backup and all of its events, for the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from metergate.embedded.api.requests import integer
from metergate.embedded.services import Services
from metergate.embedded.store.backup import archive, archive_size
from metergate.embedded.store.database import Database, Unavailable
from metergate.embedded.store.transfer import PAGE, read_page

UPTO = "Metergate-Upto"
LAST = "Metergate-Last"


def routes(services: Services) -> list[Route]:
    """The routes of this module."""
    return [
        Route("/api/metergate/backup", partial(_backup, services), methods=["GET"]),
        Route("/api/metergate/events", partial(_events, services), methods=["GET"]),
    ]


async def _backup(services: Services, request: Request) -> Response:
    """A tar archive with all that was acknowledged before this request. It breaks off where it cannot be whole."""
    return _Backup(services.database, await services.database.hold())


class _Backup(Response):
    """The files are held until it is sent, or the client is gone."""

    def __init__(self, database: Database, files: Mapping[str, int]) -> None:
        self._database = database
        self._files = files
        super().__init__(media_type="application/x-tar", headers={"Content-Length": str(archive_size(files))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reopened = self._database.statistics().reopened
        pieces = archive(self._database.folder, self._files)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                if self._database.statistics().reopened != reopened:
                    raise Unavailable("The database was opened anew while it was copied.")
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._database.release()


async def _events(services: Services, request: Request) -> Response:
    """JSON lines of the events stored after the number ``after``; up to which, and which is the last, is in headers."""
    after = integer(request, "after", -1, least=-1, most=2**62)
    page = await services.database.reading(lambda cursor: read_page(cursor, after, PAGE))
    headers = {UPTO: str(page.upto), LAST: str(page.last)}
    body = b"".join(line + b"\n" for line in page.lines)
    return Response(body, media_type="application/x-ndjson", headers=headers)
