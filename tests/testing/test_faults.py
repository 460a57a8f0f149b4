"""The fault proxy does to a request what its fault says, and nothing to others."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.testing.faults import Fault, FaultProxy, choose, first_half
from metergate.testing.processes import Server, upstream_server

_EVENTS = [{"id": str(number)} for number in range(5)]


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with upstream_server(tmp_path_factory.mktemp("upstream") / "log") as server:
        yield server


@pytest.fixture
def proxy(behind: Server) -> Iterator[FaultProxy]:
    _ask(behind.port, "/seen", "DELETE")
    with FaultProxy(behind.url, seed=1) as started:
        yield started


def _ask(port: int, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def _stored(behind: Server) -> list[list[dict[str, str]]]:
    return [json.loads(request["body"]) for request in json.loads(_ask(behind.port, "/seen")[2])]


def _send(proxy: FaultProxy) -> tuple[int, dict[str, str], bytes]:
    return _ask(proxy.port, "/api/v1/events", "POST", json.dumps(_EVENTS).encode())


def test_without_faults_request_and_answer_pass_as_they_are(proxy: FaultProxy, behind: Server) -> None:
    status, _, body = _send(proxy)
    assert status == 200
    assert json.loads(body)["path"] == "/api/v1/events"
    assert _stored(behind) == [_EVENTS]
    assert _ask(proxy.port, "/stream?chunks=3&size=5")[2] == b"x" * 15
    assert proxy.statistics().passed == 2


@pytest.mark.parametrize(("fault", "status"), [(Fault.ERROR, 500), (Fault.THROTTLE, 429)])
def test_a_refused_batch_is_not_stored(proxy: FaultProxy, behind: Server, fault: Fault, status: int) -> None:
    proxy.misbehave({fault: 1.0})
    answered, headers, _ = _send(proxy)
    assert answered == status
    assert headers.get("Retry-After") == ("1" if status == 429 else None)
    assert _stored(behind) == []
    assert proxy.statistics().faults == {fault.value: 1}


@pytest.mark.parametrize(("fault", "stored"), [(Fault.CUT_BEFORE, []), (Fault.CUT_AFTER, [_EVENTS])])
def test_a_cut_connection_has_no_answer_whether_stored_or_not(
    proxy: FaultProxy, behind: Server, fault: Fault, stored: list[object]
) -> None:
    proxy.misbehave({fault: 1.0})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        _send(proxy)
    assert _stored(behind) == stored


def test_half_of_a_batch_is_stored_and_answered_with_an_error(proxy: FaultProxy, behind: Server) -> None:
    proxy.misbehave({Fault.STORE_HALF: 1.0})
    assert _send(proxy)[0] == 500
    assert _stored(behind) == [_EVENTS[:2]]
    proxy.behave()
    assert _send(proxy)[0] == 200


def test_away_nobody_answers_until_it_comes_back(proxy: FaultProxy) -> None:
    proxy.go_away()
    with pytest.raises(ConnectionRefusedError):
        _send(proxy)
    proxy.come_back()
    assert _send(proxy)[0] == 200


def test_a_target_that_is_gone_is_a_broken_connection(tmp_path: Path) -> None:
    with upstream_server(tmp_path / "log") as server, FaultProxy(server.url) as proxy:
        server.kill()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            _send(proxy)
        assert proxy.statistics().unreachable == 1


@given(st.dictionaries(st.sampled_from(list(Fault)), st.floats(0, 0.2)), st.floats(0, 1, exclude_max=True))
def test_each_fault_is_chosen_as_often_as_its_share(shares: dict[Fault, float], chance: float) -> None:
    chosen = choose(shares, chance)
    assert (chosen is None) == (chance >= sum(shares.values())) or abs(chance - sum(shares.values())) < 1e-9


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"{not json"])
def test_what_is_no_batch_has_no_half(body: bytes) -> None:
    assert first_half(body) is None
