"""Quart: an extension, behind what authenticates with ``before_request``."""

from __future__ import annotations

from quart import Blueprint, Quart, g, request
from tests.middleware.applications import steps

from metergate.middleware import set_meters
from metergate.middleware.quart import QuartMetergate


async def _authenticate():
    name = request.headers.get("x-user")
    g.user = {"sub": name} if name else None


async def _thing(number, shop=None):
    return f"thing {number}"


async def _stream():
    return steps.chunks(request.headers["x-user"])


async def _fails():
    raise ValueError("bug")


def _tokens():
    set_meters({"type": "call", "data": {"tokens": 7}})
    return "done"


async def _tokens_async():
    set_meters(request, {"type": "call", "data": {"tokens": 8}})
    return "done"


def application(metergate):
    app = Quart("shop")
    app.before_request(_authenticate)
    extension = QuartMetergate(app, metergate)

    async def background():
        app.add_background_task(steps.work, request.headers["x-user"])
        return "begun"

    app.get("/things/<int:number>")(_thing)
    app.get("/stream")(_stream)
    app.get("/fails")(_fails)
    app.get("/tokens")(_tokens)
    app.get("/tokens-async")(_tokens_async)
    app.get("/background")(background)
    app.get("/chats/<int:number>", endpoint="chat")(
        extension.require("chats", meter={"type": "chat"})(_thing)
    )
    shops = Blueprint("shops", __name__, url_prefix="/shops/<shop>")
    shops.get("/things/<int:number>")(_thing)
    app.register_blueprint(shops)
    return app
