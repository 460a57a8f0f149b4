"""Django: one middleware, behind what authenticates, and a decorator; below ASGI or WSGI."""

from __future__ import annotations

import asyncio
import threading

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import include, path
from tests.middleware.applications import steps

from metergate.middleware import set_meters
from metergate.middleware.django import require_entitlement

MIDDLEWARE = [f"{__name__}.Authentication", "metergate.middleware.django.MetergateMiddleware"]

if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)


class Authentication:
    """As Django's own, without a database: the user by ``request.user`` and ``await request.auser()``."""

    sync_capable = async_capable = True

    def __init__(self, get_response):
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request):
        user = request.headers.get("x-user")

        async def find():
            return user

        request.user, request.auser = user, find
        return self._get_response(request)


def thing(request, number, shop=None):
    return HttpResponse(f"thing {number}")


async def thing_async(request, number):
    return HttpResponse(f"thing {number}")


def stream(request):
    below_asgi = hasattr(request, "scope")
    return StreamingHttpResponse(
        (steps.chunks if below_asgi else steps.chunks_sync)(request.headers["x-user"])
    )


async def fails(request):
    raise ValueError("bug")


def tokens(request):
    set_meters({"type": "call", "data": {"tokens": 7}})
    return HttpResponse("done")


async def tokens_async(request):
    set_meters(request, {"type": "call", "data": {"tokens": 8}})
    return HttpResponse("done")


def background(request):
    threading.Thread(target=asyncio.run, args=(steps.work(request.headers["x-user"]),)).start()
    return HttpResponse("begun")


urlpatterns = [
    path("things/<int:number>", thing),
    path("stream", stream),
    path("fails", fails),
    path("tokens", tokens),
    path("tokens-async", tokens_async),
    path("background", background),
    path("chats-async/<int:number>", require_entitlement("chats", meter={"type": "chat"})(thing_async)),
    path("chats/<int:number>", require_entitlement("chats", meter={"type": "chat"})(thing)),
    path("shops/<shop>/", include([path("things/<int:number>", thing)])),
]


def application(metergate):
    """Below ASGI."""
    with override_settings(METERGATE=metergate):
        return ASGIHandler()


def application_wsgi(metergate):
    """Below WSGI."""
    with override_settings(METERGATE=metergate):
        return WSGIHandler()
