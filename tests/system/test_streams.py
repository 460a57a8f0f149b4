"""Streams pass through the gateway as they come: nothing waits for the end."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metergate.testing.processes import Server
from metergate.testing.projects import forward, route, write_project

GAP = 0.2


@pytest.mark.parametrize(
    "path", ["/sse?events=2", "/stream?chunks=4&size=20", "/stream?chunks=4&size=20&length=1"]
)
def test_the_pieces_of_a_stream_arrive_apart_as_they_were_sent(
    path: str, upstream: Server, gateway: Callable[..., Server], tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project", {"/(.*)": {"get": route(forward(upstream.url))}})
    server = gateway(project)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    asked = time.monotonic()
    connection.request("GET", f"{path}&delay={GAP}")
    response = connection.getresponse()
    arrivals = []
    while response.read1(65_536):
        arrivals.append(time.monotonic() - asked)
    connection.close()
    assert len(arrivals) == 4
    # Sent over 3 * GAP; held back, they would come together.
    assert arrivals[-1] - arrivals[0] > 2 * GAP, arrivals
