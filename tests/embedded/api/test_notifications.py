"""Notifications: channels, rules and events over the API, delivered to a real webhook with Svix's signatures."""

from __future__ import annotations

import http.server
import threading
import time
from datetime import UTC, datetime

import msgspec
import pytest

from metergate.openmeter.webhooks import SigningKey, read_envelope
from metergate.testing import embedded_openmeter
from metergate.testing.embedded import Refused

START = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
BASE = "/api/v1/notification"
UNKNOWN = "01G65Z755AFWAKHE12NY0CQ9FH"
CONFIG = {
    "meters": [{"slug": "calls", "aggregation": "COUNT", "eventType": "call"}],
    "features": [
        {"key": "calls", "name": "Calls", "meterSlug": "calls"},
        {"key": "other", "name": "Other", "meterSlug": "calls"},
    ],
    "customers": [{"key": "acme", "name": "Acme", "usageAttribution": {"subjectKeys": ["s1"]}}],
    "entitlements": [
        {
            "customer": "acme",
            "featureKey": "calls",
            "type": "metered",
            "usagePeriod": {"interval": "DAY"},
            "issueAfterReset": 10,
        }
    ],
}


class Receiver:
    """A webhook. ``answers`` are the statuses it gives next, 200 once they are used up."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(
                    ({name.lower(): value for name, value in self.headers.items()}, body)
                )
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.end_headers()
                self.wfile.write(b"thanks")

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def bodies(self):
        return [msgspec.json.decode(body) for _, body in self.received]


@pytest.fixture
def receiver():
    receiver = Receiver()
    receiver.thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.thread.join()
    receiver.server.server_close()


@pytest.fixture
def openmeter():
    with embedded_openmeter(start=START, config=CONFIG) as openmeter:
        yield openmeter


@pytest.fixture
def channel(openmeter, receiver):
    body = {
        "type": "WEBHOOK",
        "name": "Hook",
        "url": receiver.url,
        "signingSecret": SECRET,
        "customHeaders": {"X-Team": "billing", "Svix-Id": "forged"},
        "metadata": {"a": "b"},
    }
    return openmeter.call("POST", f"{BASE}/channels", body)


@pytest.fixture
def rule(openmeter, channel):
    """Make a rule for the channel."""

    def rule(*thresholds, **fields):
        kind = "entitlements.balance.threshold" if thresholds else "entitlements.reset"
        body = {"type": kind, "name": "Rule", "channels": [channel["id"]]}
        if thresholds:
            body["thresholds"] = [{"type": name, "value": value} for name, value in thresholds]
        return openmeter.call("POST", f"{BASE}/rules", body | fields)

    return rule


def use(openmeter, count):
    openmeter.ingest(*[{"type": "call", "subject": "s1"}] * count)


def eventually(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come about"
        threading.Event().wait(0.005)
    return value


def events(openmeter, **query):
    return openmeter.call("GET", f"{BASE}/events", **query)["items"]


def delivered(openmeter, count):
    """The events, once so many are delivered or given up."""

    def settled():
        found = events(openmeter)
        states = [status["state"] for event in found for status in event["deliveryStatus"]]
        return (
            found if len(states) >= count and not {"PENDING", "SENDING", "RESENDING"} & set(states) else None
        )

    return eventually(settled)


def delivered_payloads(openmeter, count):
    return [event["payload"] for event in delivered(openmeter, count)]


def test_a_threshold_that_is_exceeded_is_told_signed_and_once(openmeter, receiver, rule):
    made = rule(("usage_percentage", 50), ("usage_value", 8), ("balance_value", 3))
    use(openmeter, 5)
    use(openmeter, 1)
    (event,) = delivered(openmeter, 1)
    ((headers, body),) = receiver.received
    payload = msgspec.json.decode(body)
    assert payload == event["payload"]
    assert (payload["type"], payload["timestamp"]) == (made["type"], "2026-03-15T12:00:00Z")
    assert payload["data"]["threshold"] == {"type": "usage_percentage", "value": 50}
    assert payload["data"]["value"] == {
        "hasAccess": True,
        "balance": 4,
        "usage": 6,
        "overage": 0,
        "totalAvailableGrantAmount": 10,
    }
    assert payload["data"]["entitlement"]["subjectKey"] == payload["data"]["subject"]["key"] == "s1"
    assert (payload["data"]["feature"]["key"], payload["data"]["customer"]["key"]) == ("calls", "acme")
    assert (headers["x-team"], headers["content-type"]) == ("billing", "application/json")
    assert headers["webhook-id"] == headers["svix-id"] == payload["id"] == event["id"]
    envelope = read_envelope(headers.get)
    assert envelope.signatures == SigningKey(SECRET).sign(envelope, body)
    assert int(envelope.timestamp) == int(START.timestamp())


def test_each_kind_of_threshold_is_told_when_it_is_reached_and_not_again_in_its_period(
    openmeter, receiver, rule
):
    rule(("usage_percentage", 50), ("usage_value", 8), ("balance_value", 3))
    for count, expected in ((5, 0), (1, 1), (1, 1), (1, 2), (1, 3), (1, 3), (5, 3)):
        use(openmeter, count)
        eventually(lambda expected=expected: len(events(openmeter)) >= expected)
    told = [each["data"]["threshold"] for each in delivered_payloads(openmeter, 3)]
    assert told == [
        {"type": "usage_percentage", "value": 50},
        {"type": "balance_value", "value": 3},
        {"type": "usage_value", "value": 8},
    ]
    openmeter.clock.move(days=1)
    use(openmeter, 6)
    again = delivered_payloads(openmeter, 4)[-1]["data"]["threshold"]
    assert again == {"type": "usage_percentage", "value": 50}


def test_a_reset_is_told_when_a_period_ends_and_when_it_is_done_by_hand(openmeter, receiver, rule):
    rule()
    use(openmeter, 3)
    openmeter.clock.move(days=1)
    (first,) = delivered_payloads(openmeter, 1)
    assert first["type"] == "entitlements.reset"
    assert first["data"]["value"]["balance"] == 10
    assert first["data"]["entitlement"]["lastReset"] == "2026-03-16T12:00:00Z"
    assert "threshold" not in first["data"]
    openmeter.clock.move(hours=1)
    openmeter.call("POST", "/api/v2/customers/acme/entitlements/calls/reset", {})
    second = delivered_payloads(openmeter, 2)[1]
    assert second["data"]["entitlement"]["lastReset"] == "2026-03-16T13:00:00Z"


def test_what_fails_is_tried_again_with_the_same_id_until_it_is_taken(openmeter, receiver, rule):
    receiver.answers = [500, 429]
    rule(("usage_value", 0))
    use(openmeter, 1)
    for seconds, attempts in ((5, 1), (300, 2)):
        event = eventually(
            lambda attempts=attempts: next(
                (
                    each
                    for each in events(openmeter)
                    if len(each["deliveryStatus"][0]["attempts"]) == attempts
                ),
                None,
            )
        )
        status = event["deliveryStatus"][0]
        assert (status["state"], status["reason"]) == ("SENDING", f"answered {[500, 429][attempts - 1]}")
        assert status["nextAttempt"] > status["updatedAt"]
        openmeter.clock.move(seconds=seconds)
    (event,) = delivered(openmeter, 1)
    status = event["deliveryStatus"][0]
    assert (status["state"], status["reason"], "nextAttempt" in status) == ("SUCCESS", "", False)
    assert [each["response"]["statusCode"] for each in status["attempts"]] == [500, 429, 200]
    assert [each["response"]["body"] for each in status["attempts"]] == ["thanks"] * 3
    ids = {headers["webhook-id"] for headers, _ in receiver.received}
    times = [int(headers["webhook-timestamp"]) for headers, _ in receiver.received]
    assert len(ids) == 1
    assert [time - times[0] for time in times] == [0, 5, 305]


def test_what_nobody_takes_is_given_up_after_the_last_try_and_can_be_sent_again(openmeter, receiver, rule):
    made = rule(("usage_value", 1000))
    openmeter.call("POST", f"{BASE}/rules/{made['id']}/test")
    delivered(openmeter, 1)
    receiver.answers = [503] * 8
    (event,) = events(openmeter)
    openmeter.call("POST", f"{BASE}/events/{event['id']}/resend", {})
    for attempts in range(2, 10):
        eventually(lambda count=attempts: len(events(openmeter)[0]["deliveryStatus"][0]["attempts"]) == count)
        openmeter.clock.move(hours=10)
    (event,) = delivered(openmeter, 1)
    assert event["deliveryStatus"][0]["state"] == "FAILED"
    openmeter.call("POST", f"{BASE}/events/{event['id']}/resend", {})
    (event,) = delivered(openmeter, 1)
    assert event["deliveryStatus"][0]["state"] == "SUCCESS"
    assert len(event["deliveryStatus"][0]["attempts"]) == len(receiver.received) == 10


def test_a_webhook_that_is_not_there_is_a_failure_without_a_status(openmeter, receiver, rule, channel):
    address = "http://127.0.0.1:1/hook"
    openmeter.call(
        "PUT", f"{BASE}/channels/{channel['id']}", {"type": "WEBHOOK", "name": "Gone", "url": address}
    )
    openmeter.call("POST", f"{BASE}/rules/{rule()['id']}/test")
    event = eventually(
        lambda: next((each for each in events(openmeter) if each["deliveryStatus"][0]["attempts"]), None)
    )
    response = event["deliveryStatus"][0]["attempts"][0]["response"]
    assert "statusCode" not in response
    assert response["body"].startswith("no answer")
    assert response["url"] == address


def test_what_was_not_delivered_is_delivered_after_a_restart_and_nothing_is_told_twice(
    openmeter, receiver, rule
):
    receiver.answers = [500]
    rule(("usage_value", 2))
    use(openmeter, 3)
    eventually(lambda: receiver.received)
    eventually(lambda: events(openmeter)[0]["deliveryStatus"][0]["attempts"])
    openmeter.restart()
    use(openmeter, 1)
    openmeter.clock.move(seconds=5)
    (event,) = delivered(openmeter, 1)
    assert [each["response"]["statusCode"] for each in event["deliveryStatus"][0]["attempts"]] == [500, 200]
    openmeter.clock.move(days=1)
    use(openmeter, 3)
    assert len(delivered(openmeter, 2)) == 2


def test_rules_are_about_their_features_and_disabled_ones_about_nothing(openmeter, receiver, rule):
    rule(("usage_value", 0), features=["other"])
    rule(("usage_value", 0), disabled=True)
    wanted = rule(("usage_value", 0), features=["calls"])
    use(openmeter, 1)
    (event,) = delivered(openmeter, 1)
    assert event["rule"]["id"] == wanted["id"]
    assert [feature["key"] for feature in event["rule"]["features"]] == ["calls"]
    for query, count in (
        ({"feature": "calls"}, 1),
        ({"feature": "other"}, 0),
        ({"subject": "s1"}, 1),
        ({"subject": "x"}, 0),
        ({"rule": wanted["id"]}, 1),
        ({"channel": UNKNOWN}, 0),
        ({"from": "2026-03-15T12:00:00Z", "to": "2026-03-15T12:00:00Z"}, 1),
        ({"from": "2026-03-15T12:00:01Z"}, 0),
    ):
        assert len(events(openmeter, **query)) == count, query
    assert openmeter.call("GET", f"{BASE}/events/{event['id']}") == event


def test_a_channel_is_made_shown_changed_and_deleted(openmeter, receiver, channel, rule):
    assert (
        channel.items()
        >= {
            "type": "WEBHOOK",
            "name": "Hook",
            "url": receiver.url,
            "disabled": False,
            "signingSecret": SECRET,
            "customHeaders": {"X-Team": "billing", "Svix-Id": "forged"},
            "metadata": {"a": "b"},
        }.items()
    )
    one = f"{BASE}/channels/{channel['id']}"
    assert openmeter.call("GET", one) == channel
    other = {"type": "WEBHOOK", "name": "Other", "url": receiver.url}
    made = openmeter.call("POST", f"{BASE}/channels", other)
    assert len(made["signingSecret"]) == len("whsec_") + 44
    changed = openmeter.call("PUT", one, other | {"disabled": True})
    assert (changed["name"], changed["signingSecret"], changed["disabled"]) == ("Other", SECRET, True)
    assert [each["id"] for each in openmeter.call("GET", f"{BASE}/channels")["items"]] == [made["id"]]
    assert openmeter.call("GET", f"{BASE}/channels", includeDisabled="true")["totalCount"] == 2
    held = rule()
    with pytest.raises(Refused, match="used by a rule"):
        openmeter.call("DELETE", one)
    openmeter.call("DELETE", f"{BASE}/rules/{held['id']}")
    openmeter.call("DELETE", one)
    with pytest.raises(Refused, match="not found"):
        openmeter.call("GET", one)
    listed = openmeter.call("GET", f"{BASE}/channels", includeDeleted="true", includeDisabled="true")
    assert listed["totalCount"] == 2


def test_a_rule_is_made_shown_changed_and_deleted(openmeter, channel, rule):
    made = rule(("PERCENT", 80), features=["calls"], metadata={"a": "b"})
    one = f"{BASE}/rules/{made['id']}"
    assert openmeter.call("GET", one) == made
    assert made["channels"] == [{"id": channel["id"], "type": "WEBHOOK"}]
    assert made["thresholds"] == [{"type": "PERCENT", "value": 80}]
    body = {"type": made["type"], "name": "New", "channels": [channel["id"]]}
    changed = openmeter.call("PUT", one, body | {"thresholds": [{"type": "NUMBER", "value": 1}]})
    assert (changed["name"], changed["thresholds"], "features" in changed) == (
        "New",
        [{"type": "NUMBER", "value": 1}],
        False,
    )
    assert openmeter.call("GET", f"{BASE}/rules", channel=channel["id"])["totalCount"] == 1
    assert openmeter.call("GET", f"{BASE}/rules", feature="calls")["totalCount"] == 0
    with pytest.raises(Refused, match="feature not found: none") as refused:
        openmeter.call("PUT", one, body | {"thresholds": made["thresholds"], "features": ["none"]})
    assert refused.value.status == 400
    openmeter.call("DELETE", one)
    assert openmeter.call("GET", f"{BASE}/rules")["items"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("channels", {"name": "x", "url": "http://x"}, 400, "type"),
        ("channels", {"type": "WEBHOOK", "name": "x", "url": "ftp://x"}, 400, "http"),
        (
            "channels",
            {"type": "WEBHOOK", "name": "x", "url": "http://x", "signingSecret": "short"},
            400,
            "signing",
        ),
        (
            "channels",
            {"type": "WEBHOOK", "name": "x", "url": "http://x", "signingSecret": "a" * 33},
            400,
            "base64",
        ),
        *(
            ("channels", {"type": "WEBHOOK", "name": "x", "url": url}, 400, "name a host")
            for url in ("http://", "http:///x", "http://[::1", "http://x:99999/", "http://a b/")
        ),
        *(
            (
                "channels",
                {"type": "WEBHOOK", "name": "x", "url": "http://x", "customHeaders": custom},
                400,
                words,
            )
            for custom, words in (
                ({"a b": "c"}, "no name of a header"),
                ({"": "c"}, "no name of a header"),
                ({"a": "b\r\nc: d"}, "control characters"),
                ({"Content-Length": "7"}, "Content-Length cannot be set"),
            )
        ),
        ("rules", {"type": "entitlements.reset", "name": "x", "channels": []}, 400, "channels"),
        (
            "rules",
            {"type": "entitlements.reset", "name": "x", "channels": [UNKNOWN]},
            404,
            "channel not found",
        ),
        ("rules", {"type": "invoice.created", "name": "x", "channels": [UNKNOWN]}, 501, "invoice.created"),
        (
            "rules",
            {"type": "entitlements.balance.threshold", "name": "x", "channels": [UNKNOWN]},
            400,
            "thresholds are required",
        ),
    ],
)
def test_what_cannot_be_is_refused(openmeter, path, body, status, words):
    with pytest.raises(Refused, match=words) as refused:
        openmeter.call("POST", f"{BASE}/{path}", body)
    assert refused.value.status == status
    assert "a" * 33 not in str(refused.value)


def test_a_disabled_channel_is_sent_nothing(openmeter, receiver, channel, rule):
    made = rule()
    body = {"type": "WEBHOOK", "name": "Hook", "url": receiver.url, "disabled": True}
    openmeter.call("PUT", f"{BASE}/channels/{channel['id']}", body)
    event = openmeter.call("POST", f"{BASE}/rules/{made['id']}/test")
    assert event["deliveryStatus"] == []
    with pytest.raises(Refused, match="is disabled"):
        openmeter.call("POST", f"{BASE}/events/{event['id']}/resend", {})
