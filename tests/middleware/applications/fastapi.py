"""FastAPI: users are found by a dependency, so everything is let in and metered by dependencies, too."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from tests.middleware.applications import steps

from metergate.middleware import MetergateMiddleware
from metergate.middleware.fastapi import DENIALS, metered, require_entitlement, set_meters


async def current_user(x_user: Annotated[str | None, Header()] = None):
    return None if x_user is None else {"sub": x_user}


def _thing(number: int):
    return f"thing {number}"


def _fails():
    raise ValueError("bug")


def _tokens():
    set_meters({"type": "call", "data": {"tokens": 7}})
    return "done"


async def _tokens_async(request: Request):
    set_meters(request, {"type": "call", "data": {"tokens": 8}})
    return "done"


async def _stream(x_user: Annotated[str, Header()]):
    return StreamingResponse(steps.chunks(x_user))


async def _background(x_user: Annotated[str, Header()], tasks: BackgroundTasks):
    tasks.add_task(steps.work, x_user)
    return "begun"


def application(metergate):
    everything = [Depends(metered(user=current_user))]
    more = Depends(require_entitlement("chats", user=current_user, meter={"type": "chat"}))
    api = FastAPI(dependencies=everything, default_response_class=PlainTextResponse)
    api.get("/things/{number}")(_thing)
    api.get("/stream")(_stream)
    api.get("/fails")(_fails)
    api.get("/tokens")(_tokens)
    api.get("/tokens-async")(_tokens_async)
    api.get("/background")(_background)
    api.get("/chats/{number}", dependencies=[more], responses=DENIALS)(_thing)
    shops = APIRouter(prefix="/shops/{shop}")
    shops.get("/things/{number}")(_thing)
    api.include_router(shops)
    api.add_middleware(MetergateMiddleware, metergate=metergate, admits=False)
    return api
