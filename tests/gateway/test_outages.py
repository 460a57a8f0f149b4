"""What the log says of an upstream that gives no answer: which it was and why, and no flood of it."""

import asyncio
import time

import pytest

from metergate.gateway import outages
from metergate.gateway.context import Context
from metergate.gateway.http import Request
from metergate.gateway.outages import Outages, origin
from metergate.gateway.upstream import Upstream
from metergate.testing.processes import free_port


def run(scenario):
    """Run ``scenario(outages)`` in an event loop."""

    async def running():
        found = Outages()
        try:
            await scenario(found)
        finally:
            found.stop()

    asyncio.run(running())


async def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0)


def late(found, url="http://api.internal:8080/x"):
    return found.too_late(3.0, url, Request("GET", "/"), Context("the-request-id"))


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_failure_names_the_upstream_without_what_may_be_secret(caplog):
    port = free_port()

    async def forwarded():
        upstream = Upstream()
        url = f"http://user:hidden@127.0.0.1:{port}/customers/acme?token=hidden"
        response = await upstream.forward(Request("GET", "/x"), Context("the-request-id"), url)
        await upstream.stop()
        return response

    response = asyncio.run(forwarded())
    (record,) = caplog.records
    assert response.status == 502
    assert record.getMessage().startswith(f"no answer from upstream http://127.0.0.1:{port}: ")
    assert (record.upstream, record.kind) == (f"http://127.0.0.1:{port}", "no_connection")
    assert record.request_id == "the-request-id"
    assert "hidden" not in str(vars(record)) + response.body.decode()
    assert str(port) not in response.body.decode()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example.com/a/b?c#d", "https://api.example.com:443"),
        ("http://u:p@API.example.com:81", "http://api.example.com:81"),
        ("http://[::1]:9000/", "http://[::1]:9000"),
        ("http://", "(malformed address)"),
        ("http://a:b:c/", "(malformed address)"),
        ("http://[::1/", "(malformed address)"),
        ("", "(malformed address)"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url, shown):
    assert origin(url) == shown


def test_a_flood_is_one_line_in_full_and_then_a_number(caplog, monkeypatch):
    monkeypatch.setattr(outages, "PERIOD_SECONDS", 0.01)

    async def scenario(found):
        for _ in range(1000):
            assert late(found).status == 504
        await eventually(lambda: len(caplog.records) == 2)

    run(scenario)
    assert said(caplog) == [
        "no answer from upstream http://api.internal:8080: nothing came for 3 s",
        "no answer from upstream http://api.internal:8080: 999 more requests, like the one before",
    ]
    assert caplog.records[1].unsaid == 999


def test_what_is_counted_when_the_gateway_stops_is_said(caplog):
    async def scenario(found):
        late(found)
        late(found)

    run(scenario)
    assert said(caplog)[1:] == [
        "no answer from upstream http://api.internal:8080: 1 more requests, like the one before"
    ]


def test_each_upstream_and_each_kind_of_failure_is_said(caplog):
    async def scenario(found):
        late(found)
        late(found, "http://other.internal/")
        found.not_sent(ValueError("no URL"), "http://other.internal/", Request("GET", "/"), Context("id"))

    run(scenario)
    assert [(record.upstream, record.kind) for record in caplog.records] == [
        ("http://api.internal:8080", "timeout"),
        ("http://other.internal:80", "timeout"),
        ("http://other.internal:80", "malformed"),
    ]


def test_after_a_quiet_time_a_failure_is_said_in_full_again(caplog, monkeypatch):
    monkeypatch.setattr(outages, "PERIOD_SECONDS", 0.0)

    async def scenario(found):
        late(found)
        await eventually(lambda: not found._periods)
        late(found)

    run(scenario)
    assert said(caplog) == ["no answer from upstream http://api.internal:8080: nothing came for 3 s"] * 2


def test_hosts_without_end_are_said_together_past_the_bound(caplog, monkeypatch):
    monkeypatch.setattr(outages, "MOST", 3)

    async def scenario(found):
        for number in range(10):
            late(found, f"http://host{number}/")
        assert len(found._periods) == 4

    run(scenario)
    assert said(caplog)[-1] == "no answer from upstream others: 6 more requests, like the one before"
