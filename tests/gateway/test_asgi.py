"""The gateway as an ASGI application: lifespan, what it refuses, how it sends, how it ends."""

import asyncio
import json
import re

import pytest

from metergate.gateway.asgi import Gateway, new_request_id
from metergate.gateway.clientbody import READ_AHEAD, ClientBody, ClientGone, ClientSilent
from metergate.gateway.http import BodyConsumed, BodyTooLarge, Response, StreamedBody
from metergate.gateway.patience import Patience


def test_request_ids_are_random_uuids_of_version_4():
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    pattern = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert [one for one in ids if not pattern.fullmatch(one)] == []


# --- lifespan and other scopes


async def live(gateway, messages=("lifespan.startup", "lifespan.shutdown")):
    queue = asyncio.Queue()
    sent = []
    for message in messages:
        queue.put_nowait({"type": message})

    async def send(message):
        sent.append(message)

    await asyncio.wait_for(gateway({"type": "lifespan"}, queue.get, send), 10)
    return sent


def test_start_and_stop_are_awaited_in_the_lifespan():
    seen = []

    async def start():
        seen.append("start")

    async def stop():
        seen.append("stop")

    gateway = Gateway(None, observe=lambda *_: None, start=start, stop=stop)
    gateway.on_start(lambda: seen.append("started"))
    sent = asyncio.run(live(gateway))
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert seen == ["start", "started", "stop"]


def test_a_start_that_fails_is_said_to_the_server(caplog):
    async def start():
        raise RuntimeError("no spool")

    sent = asyncio.run(live(Gateway(None, observe=lambda *_: None, start=start)))
    assert sent == [{"type": "lifespan.startup.failed", "message": "no spool"}]
    assert "the gateway could not start" in caplog.text


def test_a_stop_that_fails_still_ends_the_lifespan():
    async def stop():
        raise RuntimeError("too late")

    sent = []

    async def run():
        queue = asyncio.Queue()
        queue.put_nowait({"type": "lifespan.startup"})
        queue.put_nowait({"type": "lifespan.shutdown"})

        async def send(message):
            sent.append(message["type"])

        with pytest.raises(RuntimeError):
            await Gateway(None, observe=lambda *_: None, stop=stop)({"type": "lifespan"}, queue.get, send)

    asyncio.run(run())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_websockets_are_refused():
    sent = []

    async def run():
        async def send(message):
            sent.append(message)

        await Gateway(None, observe=lambda *_: None)({"type": "websocket"}, None, send)

    asyncio.run(run())
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- pages and refusals


def test_own_pages_pass_no_policies(serve):
    def page(request, context):
        return Response({"page": True})

    served = serve(path="/(.*)", pages={"/__metergate/health": page})
    assert json.loads(served.ask("/__metergate/health?x=1").body) == {"page": True}
    assert served.ask("/__metergate/other").body == b"ok"
    assert served.observed == [("", "GET", 200), ("GET /(.*)", "GET", 200)]


def test_a_page_that_fails_is_a_500(serve):
    def page(request, context):
        raise RuntimeError("a secret")

    called = serve(pages={"/p": page}).ask("/p")
    assert (called.status, b"secret" in called.body) == (500, False)


@pytest.mark.parametrize("target", ["*", "", "other.test:443", "http://x"])
def test_a_target_that_is_no_path_is_400(serve, target):
    assert serve().ask(target, "OPTIONS").status == 400


def test_two_hosts_are_400(serve):
    assert serve().ask(headers=[("Host", "other.test")]).status == 400


@pytest.mark.parametrize("length", ["11", "1" + "0" * 30])
def test_a_length_past_the_bound_is_413_without_reading(serve, length):
    served = serve(method="POST", max_body_bytes=10)
    called = served.ask("/", "POST", headers=[("content-length", length)], body=asyncio.Queue())
    assert called.status == 413


def test_a_body_past_the_bound_is_413_while_it_is_read(serve):
    async def handler(request, context):
        return len(await request.bytes())

    served = serve(handler, method="POST", max_body_bytes=10)
    assert served.ask("/", "POST", body=[b"12345", b"67890"]).body == b"10"
    assert served.ask("/", "POST", body=[b"12345", b"678901"]).status == 413


def test_a_client_that_is_silent_in_its_body_gets_408(serve):
    async def handler(request, context):
        return len(await request.bytes())

    served = serve(handler, method="POST", client_timeout=0.05)
    assert served.ask("/", "POST", body=asyncio.Queue()).status == 408


def test_a_client_that_leaves_in_its_body_is_observed_as_400(serve):
    async def handler(request, context):
        return len(await request.bytes())

    left = asyncio.Event()
    left.set()
    served = serve(handler, method="POST")
    assert served.ask("/", "POST", body=asyncio.Queue(), left=left).status == 400  # nobody sees it
    assert served.observed == [("POST /", "POST", 400)]


# --- sending


def streamed(*chunks, length=None, close=None, prompt=False):
    async def give():
        for chunk in chunks:
            yield chunk

    return StreamedBody(give(), length, close, prompt=prompt)


def test_the_request_id_is_the_only_one_whatever_the_response_says(serve):
    called = serve(
        lambda request, context: Response("x", headers={"zp-rid": "mine", "content-length": "99"})
    ).ask()
    assert (len(called.all("zp-rid")), called["zp-rid"] == "mine") == (1, False)
    assert called.all("content-length") == ["1"]


def test_hop_by_hop_fields_of_a_handler_are_not_sent(serve):
    fields = {"connection": "close", "transfer-encoding": "chunked", "keep-alive": "1", "x-kept": "1"}
    called = serve(lambda request, context: Response("x", headers=fields)).ask()
    assert [name for name, _ in called.headers if name in fields] == ["x-kept"]


def test_the_head_of_a_stream_is_sent_before_its_first_chunk_is_there(serve):
    seen = []

    async def chunks():
        assert seen == ["http.response.start", "http.response.body"]
        yield b"x"

    served = serve(lambda request, context: Response(chunks()))
    called = served.ask(sent=lambda message: seen.append(message["type"]))
    assert called.chunks == [b"", b"x", b""]


def test_a_prompt_stream_s_head_waits_for_the_chunk_that_is_there(serve):
    called = serve(lambda request, context: Response(streamed(b"x", b"y", prompt=True))).ask()
    assert called.chunks == [b"x", b"y", b""]


@pytest.mark.parametrize("length", [0, 1, 3, 5, 99])
def test_a_stream_that_does_not_keep_its_length_is_broken_off(serve, length, caplog):
    called = serve(lambda request, context: Response(streamed(b"ab", b"cd", length=length))).ask()
    assert called.complete is False
    assert len(called.body) <= length
    assert "the response broke off" in caplog.text


@pytest.mark.parametrize("ending", ["end", "break", "leave", "raise"])
def test_a_stream_is_closed_once_whatever_happens(serve, ending):
    closed = []
    left = asyncio.Event()

    async def close():
        closed.append("body")
        if ending == "raise":
            raise RuntimeError("closing fails too")

    async def chunks():
        try:
            yield b"x"
            if ending == "leave":
                left.set()
                await asyncio.sleep(10)
            if ending in ("break", "raise"):
                raise RuntimeError("broken")
        finally:
            closed.append("generator")

    called = serve(lambda request, context: Response(StreamedBody(chunks(), None, close))).ask(left=left)
    assert (closed, called.complete) == (["generator", "body"], ending == "end")


@pytest.mark.parametrize("method", ["HEAD"])
def test_a_stream_that_nobody_wants_is_closed_unread(serve, method):
    closed = []

    async def close():
        closed.append(True)

    async def chunks():
        raise AssertionError("read")
        yield b""

    called = serve(lambda request, context: Response(StreamedBody(chunks(), 5, close)), method="HEAD").ask(
        "/", method
    )
    assert (called.status, called.body, closed) == (200, b"", [True])


def test_head_says_the_length_of_what_get_would_send(serve):
    called = serve(lambda request, context: Response(b"12345"), method="HEAD").ask("/", "HEAD")
    assert (called["content-length"], called.body) == ("5", b"")


# --- breaking off


def test_breaking_off_answers_503_before_a_response_and_breaks_one_that_has_begun(serve):
    began = []

    async def handler(request, context):
        if request.raw_path == "/waits":
            began.append(True)
            await asyncio.sleep(30)

        async def chunks():
            yield b"x"
            began.append(True)
            await asyncio.sleep(30)

        return Response(chunks())

    served = serve(handler, path="/(.*)")

    async def run():
        calls = [asyncio.ensure_future(served.call(target)) for target in ("/waits", "/streams")]
        while len(began) < 2:  # noqa: ASYNC110  # the handler runs in the same loop
            await asyncio.sleep(0)
        assert served.gateway.break_off() == 2
        return await asyncio.wait_for(asyncio.gather(*calls), 10)

    waiting, streaming = asyncio.run(run())
    assert (waiting.status, waiting.complete) == (503, True)
    assert (streaming.status, streaming.body, streaming.complete) == (200, b"x", False)
    assert sorted(served.observed) == [("GET /(.*)", "GET", 200), ("GET /(.*)", "GET", 503)]


def test_finishing_waits_for_what_is_under_way_and_breaks_off_what_takes_too_long(serve):
    began, answer = [], []

    async def handler(request, context):
        began.append(True)
        await (answer[0] if request.raw_path == "/soon" else asyncio.Event()).wait()

    served = serve(handler, path="/(.*)")

    async def run():
        answer.append(asyncio.Event())
        soon = asyncio.ensure_future(served.call("/soon"))
        while not began:  # noqa: ASYNC110  # the handler runs in the same loop
            await asyncio.sleep(0)
        finishing = asyncio.ensure_future(served.gateway.finish(10))
        await asyncio.sleep(0)
        assert not finishing.done()
        answer[0].set()
        await finishing
        assert soon.done(), "a request was still under way"
        never = asyncio.ensure_future(served.call("/never"))
        while len(began) < 2:  # noqa: ASYNC110  # the handler runs in the same loop
            await asyncio.sleep(0)
        await served.gateway.finish(0)
        return (await soon).status, (await asyncio.wait_for(never, 10)).status

    assert asyncio.run(run()) == (200, 503)


def test_a_cancellation_by_the_server_is_not_ours_to_answer(serve):
    async def handler(request, context):
        await asyncio.sleep(30)

    served = serve(handler)

    async def run():
        call = asyncio.ensure_future(served.call())
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(run())


# --- the client's body


class Pieces:
    """``receive`` of a client that sends these and then stays, or leaves."""

    def __init__(self, *pieces, leaves=False, ends=True):
        self.messages = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1 or not ends}
            for number, piece in enumerate(pieces)
        ]
        if leaves:
            self.messages.append({"type": "http.disconnect"})
        self.readers = 0
        self.calls = 0

    async def __call__(self):
        self.readers += 1
        assert self.readers == 1, "two readers at once"
        try:
            self.calls += 1
            await asyncio.sleep(0)
            if not self.messages:
                await asyncio.sleep(30)
            return self.messages.pop(0)
        finally:
            self.readers -= 1


def body_of(receive, limit=1000, patience=5.0):
    return ClientBody(receive, limit, Patience(patience))


def test_the_body_comes_in_the_pieces_that_were_sent():
    async def run():
        return [piece async for piece in body_of(Pieces(b"a", b"", b"b", b"")).stream()]

    assert asyncio.run(run()) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("receive", "failure"),
    [
        (Pieces(b"a", leaves=True, ends=False), ClientGone),
        (Pieces(b"a" * 1001), BodyTooLarge),
        (Pieces(b"a" * 600, b"b" * 600), BodyTooLarge),
    ],
)
def test_a_body_that_does_not_come_to_its_end_raises(receive, failure):
    with pytest.raises(failure):
        asyncio.run(body_of(receive).read())


def test_a_body_that_stalls_raises():
    with pytest.raises(ClientSilent):
        asyncio.run(body_of(Pieces(b"a", ends=False), patience=0.05).read())


def test_a_body_is_read_once():
    async def run():
        body = body_of(Pieces(b"a"))
        await body.read()
        with pytest.raises(BodyConsumed):
            await body.read()

    asyncio.run(run())


def test_who_watches_for_the_client_s_leaving_loses_nothing_for_the_reader():
    async def run():
        body = body_of(Pieces(*(b"%d," % n for n in range(100)), leaves=True))
        watch = asyncio.ensure_future(body.gone())
        pieces = []
        async for piece in body.stream():
            pieces.append(piece)
            await asyncio.sleep(0)
        await asyncio.wait_for(watch, 5)
        return pieces

    assert asyncio.run(run()) == [b"%d," % n for n in range(100)]


def test_who_watches_reads_only_so_far_ahead():
    async def run():
        receive = Pieces(*[b"x" * 10_000] * 100, leaves=True)
        body = body_of(receive, limit=10**9)
        watch = asyncio.ensure_future(body.gone())
        for _ in range(500):
            await asyncio.sleep(0)
        ahead = receive.calls
        size = len(await body.read())
        await asyncio.wait_for(watch, 5)
        return ahead, size

    ahead, size = asyncio.run(run())
    assert READ_AHEAD // 10_000 <= ahead <= READ_AHEAD // 10_000 + 2
    assert size == 1_000_000


def test_a_reader_that_gave_up_does_not_hide_that_the_client_leaves():
    async def run():
        body = body_of(Pieces(*[b"x" * 10_000] * 100, leaves=True), limit=10**9)
        watch = asyncio.ensure_future(body.gone())
        stream = body.stream()
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(watch, 5)
        return body._ahead_bytes

    assert asyncio.run(run()) <= READ_AHEAD  # the rest was dropped


def test_the_reader_is_told_of_a_leaving_that_the_watcher_saw():
    async def run():
        body = body_of(Pieces(b"a", leaves=True, ends=False))
        await asyncio.wait_for(body.gone(), 5)
        with pytest.raises(ClientGone):
            await body.read()

    asyncio.run(run())


# --- patience


def test_a_wait_ends_after_its_time_and_not_before():
    async def run():
        loop = asyncio.get_running_loop()
        patience = Patience(0.2)
        began = loop.time()
        wait = patience.begin()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            assert wait.expired()
        finally:
            wait.end()
        assert asyncio.current_task().cancelling() == 0
        return loop.time() - began, len(patience)

    took, left = asyncio.run(run())
    assert 0.2 <= took < 2
    assert left == 0


def test_a_wait_that_moves_or_is_paused_does_not_end():
    async def run():
        patience = Patience(0.08)
        for keep in ("move", "pause"):
            wait = patience.begin()
            wait.paused = keep == "pause"
            for _ in range(20):
                await asyncio.sleep(0.01)
                if keep == "move":
                    wait.moved()
            wait.end()

    asyncio.run(run())


def test_a_cancellation_from_elsewhere_is_not_taken_for_the_wait_s():
    async def run():
        patience = Patience(30)

        async def waiting():
            wait = patience.begin()
            try:
                await asyncio.sleep(30)
            finally:
                assert not wait.expired()
                wait.end()

        task = asyncio.ensure_future(waiting())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        patience.stop()

    asyncio.run(run())
