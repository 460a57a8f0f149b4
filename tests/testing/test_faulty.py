"""The faulty server is what other tests believe, so it is tested itself."""

from __future__ import annotations

import contextlib
import http.client
import json

import pytest

from metergate.testing.faulty import (
    BATCH_TYPE,
    FaultyOpenMeter,
    answer,
    cut,
    half_stored,
    page,
    slow,
    throttle,
)


def events(*numbers):
    return [
        {"specversion": "1.0", "id": f"e{number}", "source": "s", "type": "t", "subject": "u"}
        for number in numbers
    ]


def post(openmeter, batch, content_type=BATCH_TYPE, key="k", path="/api/v1/events"):
    connection = http.client.HTTPConnection("127.0.0.1", openmeter.port, timeout=10)
    with contextlib.closing(connection):
        headers = {"Content-Type": content_type, "Authorization": f"Bearer {key}"}
        connection.request("POST", path, json.dumps(batch), headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers


@pytest.fixture
def openmeter():
    with FaultyOpenMeter() as server:
        yield server


def test_events_are_stored_once_by_source_and_id_and_every_arrival_is_logged(openmeter):
    assert post(openmeter, events(1, 2))[0] == 204
    assert post(openmeter, events(2, 3))[0] == 204
    assert [event["id"] for event in openmeter.events] == ["e1", "e2", "e3"]
    assert len(openmeter.received) == 4
    assert [request.events for request in openmeter.requests] == [2, 2]


def test_faults_are_used_up_in_order_and_then_it_is_well(openmeter):
    openmeter.script(answer(500), throttle(7), half_stored(), page(200))
    statuses = [post(openmeter, events(1, 2))[0] for _ in range(5)]
    assert statuses == [500, 429, 500, 200, 204]
    assert [event["id"] for event in openmeter.received] == ["e1", "e1", "e2"]


def test_a_throttle_says_how_long(openmeter):
    openmeter.script(throttle("Sun, 22 Nov 2026 12:00:00 GMT"), throttle(None))
    assert post(openmeter, events(1))[2]["Retry-After"] == "Sun, 22 Nov 2026 12:00:00 GMT"
    assert post(openmeter, events(1))[2]["Retry-After"] is None


@pytest.mark.parametrize("stored", [True, False])
def test_a_cut_connection_gives_no_answer(openmeter, stored):
    openmeter.script(cut(stored=stored))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        post(openmeter, events(1))
    assert len(openmeter.events) == int(stored)


def test_a_refused_event_refuses_its_batch_with_a_problem(openmeter):
    openmeter.refuse(lambda event: event["id"] == "e2")
    status, body, headers = post(openmeter, events(1, 2))
    assert (status, headers["Content-Type"]) == (400, "application/problem+json")
    assert "'e2'" in json.loads(body)["detail"]
    assert openmeter.events == []


def test_an_event_without_a_subject_is_refused_as_openmeter_does(openmeter):
    (event,) = events(1)
    assert post(openmeter, [event | {"subject": ""}])[0] == 400


def test_a_content_type_with_parameters_is_refused_as_openmeter_does(openmeter):
    assert post(openmeter, events(1), content_type=BATCH_TYPE + "; charset=utf-8")[0] == 400


def test_another_key_is_refused(openmeter):
    openmeter.api_key = "right"
    assert post(openmeter, events(1), key="wrong")[0] == 401
    assert post(openmeter, events(1), key="right")[0] == 204


def test_away_refuses_connections_and_comes_back_with_what_it_had(openmeter):
    post(openmeter, events(1))
    openmeter.go_away()
    with pytest.raises(ConnectionError):
        post(openmeter, events(2))
    openmeter.come_back()
    post(openmeter, events(2))
    assert len(openmeter.events) == 2


def test_a_slow_answer_ends_with_the_server(openmeter):
    openmeter.script(slow(0.01))
    assert post(openmeter, events(1))[0] == 204
    assert len(openmeter.events) == 1


def test_waiting_ends_with_what_was_found(openmeter):
    post(openmeter, events(1))
    openmeter.wait_for_events(1)
    with pytest.raises(TimeoutError, match="1 of 2 events"):
        openmeter.wait_for_events(2, timeout=0.01)


def test_another_path_is_not_found(openmeter):
    assert post(openmeter, events(1), path="/api/v1")[0] == 404
    assert openmeter.requests == []
