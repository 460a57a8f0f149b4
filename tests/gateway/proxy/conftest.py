"""One gateway process between raw sockets on both sides, for all tests of what may go wrong on the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from metergate.testing.faulty import FaultyOpenMeter
from metergate.testing.processes import Server, free_port, gateway_server
from metergate.testing.projects import custom_policy, forward, openmeter_policy, route, write_project
from metergate.testing.scripted import OK, Exchange, ScriptedUpstream
from metergate.testing.wire import Wire, WireResponse

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
MAX_BODY = 32 << 20
DEADLINE = 10.0

MODULE = '''
import asyncio

from metergate.runtime import OpenMeterInboundPolicy, Response, User


def who(request, context, options, policy_name):
    """The caller, for tests: as the header says."""
    name = request.headers.get("x-user")
    if name:
        request.user = User(name)
    return request


def secret(request, context, options, policy_name):
    request.headers["x-added"] = "by the gateway"
    return request


def label(request, context):
    return {"route": context.route.label, "path": request.raw_path}


async def body_size(request, context):
    return {"size": len(await request.bytes())}


async def ignore_body(request, context):
    async def chunks():
        while True:
            yield b"tick"
            await asyncio.sleep(0.01)
    return Response(chunks())


def echo(request, context):
    return Response(request.stream())


def raises_at_once(request, context):
    async def chunks():
        raise RuntimeError("a secret of the project")
        yield b""
    return Response(chunks())


def silent_stream(request, context):
    async def chunks():
        await asyncio.sleep(60)
        yield b"late"
    return Response(chunks())


def odd_chunks(request, context):
    async def chunks():
        yield b"a"
        yield b""
        yield b"b"
    return Response(chunks())


def nothing(request, context):
    return Response(None, 204, {"content-length": "5"})


def malformed(request, context):
    response = Response("x")
    response.headers.items.append(("x-bad", "a\\r\\nx-forged: 1"))
    return response
'''


@dataclass
class Proxy:
    """The gateway, the API behind it and the OpenMeter, and what a test asks them."""

    gateway: Server
    api: ScriptedUpstream
    openmeter: FaultyOpenMeter

    def wire(self, **options: Any) -> Wire:
        return Wire(self.gateway.port, **options)

    def ask(self, target: str, method: str = "GET", **options: Any) -> WireResponse:
        """An ordinary request on a connection of its own, and its response."""
        with self.wire() as wire:
            wire.request(target, method, **options)
            return wire.response(method)

    def send(self, data: bytes) -> WireResponse:
        """Any bytes, and the response."""
        with self.wire() as wire:
            wire.send(data)
            return wire.response()

    def answer(self, path: str, data: bytes, *, close: bool = False) -> str:
        """Have the API answer with these bytes at that path, after it has read the request; gives the path."""

        def script(exchange: Exchange) -> None:
            exchange.body()
            exchange.send(data)
            if close:
                exchange.close()

        self.api.on(path, script)
        return path

    def seen(self, target: str, method: str = "GET", **options: Any) -> Exchange:
        """The request as the API has seen it."""
        taken: list[Exchange] = []

        def script(exchange: Exchange) -> None:
            exchange.body()
            taken.append(exchange)
            exchange.send(OK)

        self.api.on(target.partition("?")[0], script)
        assert self.ask(target, method, **options).status == 200
        return taken[0]

    def log(self, request_id: str) -> list[dict[str, Any]]:
        """The lines of the gateway's log about that request, so far."""
        return [line for line in self.lines() if line.get("request_id") == request_id]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.gateway.output().splitlines() if line.startswith("{")]

    def eventually(self, condition: Callable[[], object], what: str = "the condition") -> None:
        """Wait until it holds, at most `DEADLINE` seconds."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true"
            time.sleep(0.005)

    def await_log(self, request_id: str, count: int = 1) -> list[dict[str, Any]]:
        self.eventually(lambda: len(self.log(request_id)) >= count, f"{count} log lines of {request_id}")
        return self.log(request_id)

    def events(self, request_id: str) -> list[dict[str, Any]]:
        """What OpenMeter was sent for that request, repeats included, once a later request's event is there too."""
        marker = self.ask("/metered/marker", headers=[("x-user", "marker")])["zp-rid"]
        self.openmeter.wait_until(
            lambda: any(event["id"].startswith(str(marker)) for event in self.openmeter.events), DEADLINE
        )
        return [event for event in self.openmeter.received if event["id"].startswith(request_id)]


def write_raw_project(folder: Path, api: str, openmeter: str) -> Path:
    """The project that the gateway of these tests runs."""
    refused = f"http://127.0.0.1:{free_port()}"
    to_api = forward(api)
    following = forward(api)
    following["options"]["followRedirects"] = True
    policies = [
        custom("who"),
        custom("secret"),
        openmeter_policy(apiUrl=openmeter, meter={"type": "call"}, meterOnStatusCodes="200-599"),
    ]
    routes = {
        "/raw/(.*)": route(to_api),
        "/added/(.*)": route(to_api, inbound=["secret"]),
        "/metered/(.*)": route(to_api, inbound=["who", "metered"]),
        "/refused/(.*)": route(forward(refused)),
        "/follow/(.*)": route(following),
        "/public/(.*)": route(function("label")),
        "/admin/(.*)": route(function("label")),
        "/files/:name": route(function("label")),
    }
    own = ("body_size", "ignore_body", "echo", "raises_at_once", "odd_chunks", "nothing", "malformed")
    for name in (*own, "silent_stream"):
        routes[f"/own/{name}"] = route(function(name), inbound=["who", "metered"])
    write_project(folder, {path: dict.fromkeys(METHODS, one) for path, one in routes.items()}, policies)
    (folder / "modules").mkdir()
    (folder / "modules" / "own.py").write_text(MODULE)
    return folder


def custom(name: str) -> dict[str, Any]:
    policy = custom_policy(name, "own")
    policy["handler"]["export"] = name
    return policy


def function(name: str) -> dict[str, Any]:
    return {"export": name, "module": "$import(./modules/own)"}


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    with ExitStack() as stack:
        api = stack.enter_context(ScriptedUpstream())
        openmeter = stack.enter_context(FaultyOpenMeter())
        project = write_raw_project(folder / "project", api.url, openmeter.url)
        gateway = gateway_server(project)
        gateway.command += ["--max-body", str(MAX_BODY), "--upstream-timeout", "5"]
        stack.callback(gateway.kill)
        gateway.start()
        proxy = Proxy(gateway, api, openmeter)
        yield proxy
        assert [line for line in proxy.lines() if line["logger"].startswith("_granian")] == []
