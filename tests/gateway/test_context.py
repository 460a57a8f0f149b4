"""One request's context: its log, its hooks, its background work."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from metergate.gateway.context import BackgroundWork, Context
from metergate.gateway.http import Request, Response


def test_the_log_knows_request_and_route_and_lets_a_line_say_more(caplog):
    caplog.set_level(logging.INFO)
    context = Context("the-id", SimpleNamespace(label="GET /a"))
    context.log.info("one")
    context.log.info("two", extra={"order": 7, "route": "another"})
    first, second = caplog.records
    assert (first.request_id, first.route, hasattr(first, "incoming_request_id")) == (
        "the-id",
        "GET /a",
        False,
    )
    assert (second.request_id, second.route, second.order) == ("the-id", "another", 7)


def test_the_route_is_the_one_at_the_time_of_the_line(caplog):
    context = Context("the-id")
    context.log.warning("before")
    context.route = SimpleNamespace(label="GET /a")
    context.log.warning("after")
    assert [record.route for record in caplog.records] == [None, "GET /a"]


def test_the_log_is_made_once():
    context = Context("the-id")
    assert context.log is context.log


def test_metering_begins_when_somebody_asks_for_it():
    context = Context("the-id")
    assert context.begun_metering is None
    assert context.metering.request_id == "the-id"
    assert context.begun_metering is context.metering


def test_hooks_are_those_that_were_added_in_order():
    context = Context("the-id")
    assert (context.sending_hooks, context.final_hooks) == ((), ())
    for hook in ("a", "b"):
        context.add_response_sending_hook(hook)
        context.add_response_sending_final_hook(hook)
    assert (context.sending_hooks, context.final_hooks) == (("a", "b"), ("a", "b"))


def test_policies_can_be_invoked_in_a_gateway_only():
    context = Context("the-id")
    for call in (
        context.invoke_inbound_policy("other", Request("GET", "/")),
        context.invoke_outbound_policy("other", Response(), Request("GET", "/")),
    ):
        with pytest.raises(RuntimeError, match="while a request passes through a gateway"):
            asyncio.run(call)


def test_a_context_shows_its_id_and_route():
    assert repr(Context("the-id")) == "<Context the-id no route>"
    assert repr(Context("the-id", SimpleNamespace(label="GET /a"))) == "<Context the-id GET /a>"


# --- background work


def test_work_past_the_bound_is_refused_counted_and_said(caplog):
    async def run():
        work = BackgroundWork(limit=2)
        stop = asyncio.Event()
        for _ in range(4):
            work.start(stop.wait(), Context("the-id"))
        counted = (len(work), work.refused)
        stop.set()
        await work.drain(5)
        return (*counted, len(work))

    assert asyncio.run(run()) == (2, 2, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "background work refused: 2 tasks are under way"
    ] * 2


def test_a_stop_waits_for_a_while_and_then_cancels():
    seen = []

    async def stubborn():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def quick():
        seen.append("done")

    async def run():
        work = BackgroundWork()
        work.start(stubborn(), Context("a"))
        work.start(quick(), Context("b"))
        await work.drain(0.05)
        return len(work)

    assert asyncio.run(run()) == 0
    assert seen == ["done", "cancelled"]


def test_a_failure_is_logged_with_the_request_it_belongs_to(caplog):
    async def fails():
        raise RuntimeError("later")

    async def run():
        work = BackgroundWork()
        work.start(fails(), Context("the-id"))
        await work.drain(5)

    asyncio.run(run())
    (record,) = caplog.records
    assert (record.getMessage(), record.request_id, str(record.exc_info[1])) == (
        *("background work failed", "the-id"),
        "later",
    )
