"""A message to the webhook: what becomes of it, what is counted, what is said."""

import asyncio
import json

import pytest

from metergate.engine import Admission
from metergate.engine.notices import Notices
from metergate.engine.webhook import OUTCOMES, REFUSED, SigningKey, Webhook
from metergate.gateway.http import User
from metergate.openmeter.webhooks import Envelope
from metergate.testing.entitled import EntitledServer, metered

SECRET = "whsec_" + "A" * 32
KEY = SigningKey(SECRET)
NOW = 1_790_000_000.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def expired():
    return []


@pytest.fixture
def webhook(expired, clock):
    return Webhook(KEY, Notices(None, expired.append), now=lambda: NOW, clock=clock)


def body(kind="entitlements.reset", **data):
    return json.dumps({"type": kind, "data": data or {"subject": {"key": "acme"}}}).encode()


def headers(content, message="m1", timestamp=NOW, key=KEY):
    envelope = Envelope(message, str(int(timestamp)))
    return {
        "svix-id": message,
        "svix-timestamp": envelope.timestamp,
        "svix-signature": key.sign(envelope, content),
    }


def receive(webhook, content=None, **options):
    content = body() if content is None else content
    return webhook.receive(headers(content, **options).get, content)


def test_a_new_message_expires_its_subjects_and_the_same_again_nothing(webhook, expired):
    content = body("entitlements.balance.threshold", subject={"key": "a"}, customer={"key": "b"})
    assert receive(webhook, content) == "refreshed"
    assert receive(webhook, content) == "duplicate"
    assert receive(webhook, content, timestamp=NOW + 60) == "duplicate"
    assert expired == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        (body("invoice.created"), "ignored"),
        (b"nonsense", "unreadable"),
        (body(subject={"id": 5}), "unreadable"),
    ],
)
def test_a_genuine_message_that_changes_nothing_is_not_refused(webhook, expired, content, outcome):
    assert receive(webhook, content) == outcome
    assert outcome not in REFUSED
    assert expired == []


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"key": SigningKey("B" * 32)}, "forged"),
        ({"timestamp": NOW - 301}, "outdated"),
        ({"timestamp": NOW + 301}, "outdated"),
        ({"message": ""}, "unsigned"),
    ],
)
def test_what_is_not_genuine_is_refused_and_its_id_is_not_used_up(webhook, expired, options, outcome):
    assert receive(webhook, **options) == outcome
    assert outcome in REFUSED
    assert expired == []
    assert receive(webhook) == "refreshed"


def test_everything_is_counted_by_what_became_of_it(webhook):
    receive(webhook)
    receive(webhook)
    receive(webhook, body("invoice.created"))
    receive(webhook, key=SigningKey("B" * 32))
    counts = dict.fromkeys(OUTCOMES, 0) | {"refreshed": 1, "duplicate": 1, "ignored": 1, "forged": 1}
    assert webhook.statistics().messages == counts


def test_what_is_refused_or_cannot_be_read_is_said_once_a_minute_and_without_the_secret(
    webhook, clock, caplog
):
    for _ in range(3):
        receive(webhook, key=SigningKey("B" * 32))
        receive(webhook, b"nonsense", message="m2")
    clock.now = 60.0
    receive(webhook, key=SigningKey("B" * 32))
    assert [record.reason for record in caplog.records] == ["forged", "unreadable", "forged"]
    assert "AAAA" not in caplog.text + repr(webhook)


def test_a_folder_that_fails_is_logged_and_the_message_counts_as_delivered(tmp_path, expired, caplog):
    notices = Notices(tmp_path / "notices", expired.append)
    notices.open()
    for file in (tmp_path / "notices").iterdir():
        file.unlink()
    (tmp_path / "notices").rmdir()
    webhook = Webhook(KEY, notices, now=lambda: NOW)
    assert receive(webhook) == "refreshed"
    notices.close()
    assert expired == ["acme"]
    assert "cannot be told" in caplog.text


def test_a_message_expires_its_subject_in_the_answers_of_every_openmeter(bench):
    with EntitledServer() as one, EntitledServer() as other:
        customers = [server.customer("acme", features={"api": metered(10)}) for server in (one, other)]
        check = {"ttlSeconds": 3600}
        engines = [
            bench.engine(
                f"p{number}", apiUrl=server.url, requiredEntitlements=["api"], entitlementCheck=check
            )
            for number, server in enumerate((one, other))
        ]
        webhook = Webhook(KEY, Notices(None, bench.backends.expire), now=lambda: NOW)

        async def run():
            for engine in engines:
                assert (await engine.admit(User("acme"))).denial is None
                assert isinstance(engine.admit(User("acme")), Admission)
            for customer in customers:
                customer.features["api"] = metered(0)
            assert isinstance(engines[0].admit(User("acme")), Admission)
            assert receive(webhook) == "refreshed"
            for engine in engines:
                assert (await engine.admit(User("acme"))).denial.reason == "exhausted"
            await bench.backends.stop()

        asyncio.run(asyncio.wait_for(run(), 20))
