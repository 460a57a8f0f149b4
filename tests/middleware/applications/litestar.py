"""Litestar: a plugin, behind what authenticates, and a guard."""

from __future__ import annotations

from litestar import Litestar, MediaType, Request, Response, Router, get
from litestar.background_tasks import BackgroundTask
from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.params import FromPath
from litestar.response import Stream
from tests.middleware.applications import steps

from metergate.middleware import set_meters
from metergate.middleware.litestar import MetergatePlugin, require_entitlement

PLAIN = {"media_type": MediaType.TEXT}


class Authentication(AbstractAuthenticationMiddleware):
    async def authenticate_request(self, connection: ASGIConnection) -> AuthenticationResult:
        return AuthenticationResult(user=connection.headers.get("x-user"), auth=None)


def _thing(number: FromPath[int]) -> str:
    return f"thing {number}"


async def _shop_thing(shop: FromPath[str], number: FromPath[int]) -> str:
    return f"thing {number}"


async def _stream(request: Request) -> Stream:
    return Stream(steps.chunks(request.headers["x-user"]))


async def _fails() -> str:
    raise ValueError("bug")


def _tokens() -> str:
    set_meters({"type": "call", "data": {"tokens": 7}})
    return "done"


async def _tokens_async(request: Request) -> str:
    set_meters(request, {"type": "call", "data": {"tokens": 8}})
    return "done"


async def _background(request: Request) -> Response[str]:
    return Response("begun", background=BackgroundTask(steps.work, request.headers["x-user"]))


def application(metergate):
    more = require_entitlement("chats", meter={"type": "chat"})
    return Litestar(
        [
            get("/things/{number:int}", sync_to_thread=True, **PLAIN)(_thing),
            get("/stream")(_stream),
            get("/fails")(_fails),
            get("/tokens", sync_to_thread=True, **PLAIN)(_tokens),
            get("/tokens-async", **PLAIN)(_tokens_async),
            get("/background", **PLAIN)(_background),
            get("/chats/{number:int}", guards=[more], sync_to_thread=True, **PLAIN)(_thing),
            Router("/shops/{shop:str}", route_handlers=[get("/things/{number:int}", **PLAIN)(_shop_thing)]),
        ],
        middleware=[Authentication],
        plugins=[MetergatePlugin(metergate)],
        openapi_config=None,
        logging_config=None,
    )
