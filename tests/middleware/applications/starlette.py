"""Starlette: the plain ASGI middleware, behind Starlette's own authentication."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.background import BackgroundTask
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from tests.middleware.applications import steps

from metergate.middleware import MetergateMiddleware, set_meters


class Backend(AuthenticationBackend):
    async def authenticate(self, conn):
        name = conn.headers.get("x-user")
        return (AuthCredentials(), SimpleUser(name)) if name else None


async def thing(request):
    return PlainTextResponse(f"thing {request.path_params['number']}")


async def stream(request):
    return StreamingResponse(steps.chunks(request.headers["x-user"]))


async def fails(request):
    raise ValueError("bug")


def tokens(request):
    set_meters({"type": "call", "data": {"tokens": 7}})
    return PlainTextResponse("done")


async def tokens_async(request):
    set_meters(request, {"type": "call", "data": {"tokens": 8}})
    return PlainTextResponse("done")


async def background(request):
    return PlainTextResponse("begun", background=BackgroundTask(steps.work, request.headers["x-user"]))


def application(metergate):
    routes = [
        Route("/things/{number:int}", thing),
        Route("/stream", stream),
        Route("/fails", fails),
        Route("/tokens", tokens),
        Route("/tokens-async", tokens_async),
        Route("/background", background),
        Mount("/shops/{shop}", routes=[Route("/things/{number:int}", thing)]),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(MetergateMiddleware, metergate=metergate)
    app.add_middleware(AuthenticationMiddleware, backend=Backend())  # the one that is added last comes first
    return app
