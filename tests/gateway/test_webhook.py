"""OpenMeter's webhook on real gateways: a signed message refreshes its subject in every worker at once."""

import http.client
import json
import shutil
import time

import pytest

from metergate.engine.webhook import SigningKey
from metergate.gateway.server import examine
from metergate.gateway.webhook import MOST_BYTES, PAGE_PATH, VARIABLE, signing_key
from metergate.openmeter.webhooks import Envelope
from metergate.testing.entitled import EntitledServer, metered
from metergate.testing.processes import HOST, ServerFailed, gateway_server
from metergate.testing.projects import custom_policy, openmeter_policy, route, write_project

SECRET = "whsec_" + "c2VjcmV0" * 4
CONNECTIONS = 48
"""New connections in a row, of which two workers both get some."""

MODULE = """
import os
from metergate.runtime import User


def who(request, context, options, policy_name):
    request.user = User(request.headers["x-user"])
    return request


def pid(request, context):
    return os.getpid()
"""


def eventually(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def openmeter():
    with EntitledServer() as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory, openmeter):
    folder = tmp_path_factory.mktemp("webhook") / "project"
    who = custom_policy("who", "own")
    who["handler"]["export"] = "who"
    check = {"ttlSeconds": 3600, "onError": "deny", "timeoutSeconds": 10}
    quota = openmeter_policy(apiUrl=openmeter.url, requiredEntitlements=["api"], entitlementCheck=check)
    handler = {"export": "pid", "module": "$import(./modules/own)"}
    routes = {"/(.*)": {method: route(handler, inbound=["who", "metered"]) for method in ("get", "post")}}
    write_project(folder, routes, [who, quota])
    (folder / "modules").mkdir()
    (folder / "modules" / "own.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def gateway(project):
    server = gateway_server(project, workers=2, env={"METERGATE_WEBHOOK_SECRET": SECRET})
    with server:
        eventually(lambda: len(server.workers()) == 2)
        yield server


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def detail(self):
        return json.loads(self.body)["detail"]


def ask(server, method="GET", path="/", body=None, headers=()):
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=20)
    try:
        connection.request(method, path, body, dict(headers))
        return Answer(connection.getresponse())
    finally:
        connection.close()


def message(subject, kind="entitlements.balance.threshold"):
    data = {"subject": {"key": subject}, "value": {"hasAccess": True, "balance": 1}}
    return json.dumps({"id": "01J", "type": kind, "data": data}).encode()


def signed(body, identity, *, secret=SECRET, age=0, prefix="svix", others=()):
    envelope = Envelope(identity, str(int(time.time() - age)))
    signatures = [*others, SigningKey(secret).sign(envelope, body)]
    return {
        f"{prefix}-id": identity,
        f"{prefix}-timestamp": envelope.timestamp,
        f"{prefix}-signature": " ".join(signatures),
    }


def send(server, body, identity, **options):
    return ask(server, "POST", PAGE_PATH, body, signed(body, identity, **options))


def answers(server, user):
    """The statuses of many new connections, and which workers let somebody in."""
    found = [ask(server, headers={"x-user": user}) for _ in range(CONNECTIONS)]
    workers = {int(each.body) for each in found if each.status == 200}
    return {each.status for each in found}, workers


def counted(server):
    page = ask(server, path="/__metergate/metrics").body.decode()
    rows = [line for line in page.splitlines() if line.startswith("metergate_webhook_messages_total{")]
    return {row.split('"')[1]: float(row.rpartition(" ")[2]) for row in rows}


# --- what it is for


def test_a_message_to_one_worker_makes_every_worker_ask_for_that_subject(gateway, openmeter):
    customer = openmeter.customer("acme", features={"api": metered(10)})
    openmeter.customer("bystander", features={"api": metered(10)})
    eventually(lambda: answers(gateway, "acme")[1] == set(gateway.workers()))
    eventually(lambda: answers(gateway, "bystander")[1] == set(gateway.workers()))
    customer.features["api"] = metered(0, 10)
    assert answers(gateway, "acme")[0] == {200}
    asked = openmeter.count
    assert send(gateway, message("acme"), "to-all").status == 204
    eventually(lambda: answers(gateway, "acme")[0] == {403})
    assert answers(gateway, "bystander")[0] == {200}
    assert asked < openmeter.count


def test_the_worker_that_received_it_asks_before_its_very_next_answer(project, openmeter):
    customer = openmeter.customer("alone", features={"api": metered(10)})
    server = gateway_server(project, workers=1, env={"METERGATE_WEBHOOK_SECRET": SECRET})
    with server:
        assert ask(server, headers={"x-user": "alone"}).status == 200
        customer.features["api"] = metered(0, 10)
        assert ask(server, headers={"x-user": "alone"}).status == 200
        assert send(server, message("alone"), "first").status == 204
        assert ask(server, headers={"x-user": "alone"}).status == 403
        customer.features["api"] = metered(10)
        assert send(server, message("alone", "entitlements.reset"), "second", prefix="webhook").status == 204
        assert ask(server, headers={"x-user": "alone"}).status == 200
        assert counted(server)["refreshed"] == 2


def test_a_replay_is_taken_as_delivered_and_refreshes_nobody(gateway, openmeter):
    customer = openmeter.customer("replayed", features={"api": metered(10)})
    later = openmeter.customer("later", features={"api": metered(10)})
    body = message("replayed")
    assert send(gateway, body, "replay").status == 204
    eventually(lambda: answers(gateway, "later")[1] == set(gateway.workers()))
    later.features["api"] = metered(0, 10)
    assert send(gateway, message("later"), "after-it").status == 204
    eventually(
        lambda: answers(gateway, "later")[0] == {403}
    )  # both have heard of this, and so of what came before
    eventually(lambda: answers(gateway, "replayed")[1] == set(gateway.workers()))
    customer.features["api"] = metered(0, 10)
    duplicates = counted(gateway)["duplicate"]
    assert {send(gateway, body, "replay").status for _ in range(CONNECTIONS)} == {204}
    assert answers(gateway, "replayed")[0] == {200}
    eventually(lambda: counted(gateway)["duplicate"] == duplicates + CONNECTIONS)


def test_a_worker_that_takes_the_place_of_a_killed_one_knows_the_ids_of_before(gateway):
    assert send(gateway, message("x"), "before-the-kill").status == 204
    victim = gateway.kill_worker(0)
    eventually(lambda: len(gateway.workers()) == 2 and victim not in gateway.workers())
    eventually(lambda: both_answer(gateway))
    duplicates = counted(gateway)["duplicate"]
    assert {send(gateway, message("x"), "before-the-kill").status for _ in range(CONNECTIONS)} == {204}
    eventually(lambda: counted(gateway)["duplicate"] == duplicates + CONNECTIONS)


def both_answer(server):
    try:
        found = [ask(server, headers={"x-user": "acme"}) for _ in range(8)]
    except OSError:
        return False
    return {each.status for each in found} <= {200, 403}


# --- what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"secret": "whsec_" + "B" * 32}, "does not fit"),
        ({"age": 301}, "more than 300 seconds ago"),
        ({"age": -302}, "more than 300 seconds ago"),
    ],
)
def test_what_is_not_signed_with_the_secret_and_now_is_401(gateway, openmeter, options, says):
    asked = openmeter.count
    answer = send(gateway, message("acme"), "refused", **options)
    assert answer.status == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.detail
    assert openmeter.count == asked
    assert send(gateway, message("acme"), f"then-fine-{options}").status == 204


def test_a_message_without_signature_is_401_and_one_changed_on_its_way_too(gateway):
    body = message("acme")
    assert ask(gateway, "POST", PAGE_PATH, body).status == 401
    assert ask(gateway, "POST", PAGE_PATH, body + b" ", signed(body, "changed")).status == 401


def test_one_of_several_signatures_is_enough(gateway):
    body = message("acme")
    assert send(gateway, body, "rotated", others=["v1,bm90IGl0", "v2,future"]).status == 204


@pytest.mark.parametrize("kind", ["invoice.created", "some.thing"])
def test_messages_about_something_else_are_taken_and_ignored(gateway, openmeter, kind):
    asked, ignored = openmeter.count, counted(gateway)["ignored"]
    answer = send(gateway, message("acme", kind), f"other-{kind}")
    assert (answer.status, answer.body, openmeter.count) == (204, b"", asked)
    eventually(lambda: counted(gateway)["ignored"] == ignored + 1)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_405(gateway, method):
    answer = ask(gateway, method, PAGE_PATH)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_message_that_is_too_large_is_413_however_it_comes(gateway, chunked):
    body = b"x" * (MOST_BYTES + 1)
    pieces = iter([body[:1000], body[1000:]]) if chunked else body
    try:
        answer = ask(gateway, "POST", PAGE_PATH, pieces, signed(body, "large"))
    except (BrokenPipeError, ConnectionResetError):
        return  # it was not read to its end
    assert answer.status == 413


def test_nobody_finds_the_secret_in_the_log_and_no_policy_sees_the_page(gateway):
    assert send(gateway, message("acme"), "logged", secret="B" * 32).status == 401
    eventually(lambda: "a message to the webhook was refused" in gateway.output())
    assert SECRET.removeprefix("whsec_") not in gateway.output()


def test_without_the_secret_there_is_no_such_page_and_no_route_takes_its_place(project):
    server = gateway_server(project, env={"METERGATE_WEBHOOK_SECRET": None})
    with server:
        assert send(server, message("acme"), "m").status == 404
        assert "METERGATE_WEBHOOK_SECRET is not set" in send(server, message("acme"), "m").detail
        assert counted(server) == {}


# --- the variable


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_secret_of_the_wrong_form_is_refused_before_the_start_with_where_it_stands(
    project, tmp_path, monkeypatch, where
):
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    if where == ".env":
        monkeypatch.delenv(VARIABLE, raising=False)
        (folder / ".env").write_text(f"OPENMETER_API_KEY=k\n{VARIABLE}=hunter2\n")
    else:
        monkeypatch.setenv(VARIABLE, "hunter2")
    monkeypatch.setenv("OPENMETER_API_KEY", "k")
    [found] = [each for each in examine(folder) if each.severity == "error"]
    place = f".env: line 2, {VARIABLE}" if where == ".env" else f"environment: {VARIABLE}"
    assert str(found) == (
        f"error: {place}: {VARIABLE} is not right: a signing secret is whsec_ and 32 to 100 characters of base64, "
        "as OpenMeter shows it for the channel. Correct it, or leave it out for no webhook."
    )


def test_a_gateway_does_not_start_with_a_secret_of_the_wrong_form_and_does_not_show_it(project):
    server = gateway_server(project, env={VARIABLE: "hunter2"})
    with pytest.raises(
        ServerFailed, match=rf"status 2 (.|\n)*environment: {VARIABLE}: .* is not right"
    ) as failed:
        server.start()
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), "", " "])
def test_a_secret_of_the_right_form_is_fine_and_an_empty_one_is_none(project, monkeypatch, secret):
    monkeypatch.setenv(VARIABLE, secret)
    monkeypatch.setenv("OPENMETER_API_KEY", "k")
    assert [each for each in examine(project) if VARIABLE in str(each)] == []
    assert (signing_key({VARIABLE: secret}) is not None) is bool(secret.strip())
