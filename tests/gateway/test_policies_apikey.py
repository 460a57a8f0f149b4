"""Who calls is known by a key: what is let in, what is refused, and what happens when the file of consumers changes."""

import asyncio
import errno
import json
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.errors import ConfigurationError, UsageError
from metergate.gateway import consumers
from metergate.gateway.context import Context
from metergate.gateway.http import Headers, Request, Response
from metergate.gateway.policies import BUILTIN
from metergate.gateway.policies.apikey import ConsumerFile, checking
from metergate.gateway.policies.bearer import Refusal, credential

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def file(parts):
    return parts.directory / "config" / "consumers.json"


def request(value=None, header="Authorization"):
    return Request("GET", "/", headers=Headers({} if value is None else {header: value}))


def build(parts, **options):
    return BUILTIN["ApiKeyInboundPolicy"](options, parts.named())


def detail(response):
    return json.loads(response.body)["detail"]


# --- the policy


def test_a_valid_key_sets_the_user_to_the_consumer_and_its_metadata(parts, file, context):
    key, _ = consumers.create_key(file, "acme", {"plan": "gold", "accountId": 7})
    policy = build(parts)
    asked = request(f"Bearer {key}")
    assert policy.inbound(asked, context) is asked
    assert (asked.user.sub, asked.user.data) == ("acme", {"plan": "gold", "accountId": 7})
    assert parts.findings == []


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", "Basic {key}", "{key}", "Bearer {key}x", "Bearer mg_", "Bearer {hash}"],
)
def test_anything_else_is_a_401_that_names_the_scheme_and_no_key(parts, file, context, value):
    key, entry = consumers.create_key(file, "acme")
    sent = value and value.format(key=key, hash=entry.sha256)
    asked = request(sent)
    response = build(parts).inbound(asked, context)
    assert (response.status, asked.user) == (401, None)
    assert response.headers["www-authenticate"] == "Bearer"
    assert key not in response.body.decode()
    assert detail(response) in (
        "This API needs a key, and the request has none.",
        "The API key is not valid.",
    )


@pytest.mark.parametrize("value", [None, "Bearer wrong"])
def test_requests_without_a_valid_key_go_on_without_a_user_where_that_is_allowed(parts, file, context, value):
    consumers.create_key(file, "acme")
    asked = request(value)
    assert build(parts, allowUnauthenticatedRequests=True).inbound(asked, context) is asked
    assert asked.user is None


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer"])
def test_the_scheme_is_compared_without_case(parts, file, context, scheme):
    key, _ = consumers.create_key(file, "acme")
    assert isinstance(build(parts).inbound(request(f"{scheme} {key}"), context), Request)


def test_header_and_scheme_can_be_chosen(parts, file, context):
    key, _ = consumers.create_key(file, "acme")
    policy = build(parts, authHeader="X-API-Key", authScheme="")
    assert isinstance(policy.inbound(request(key, "x-api-key"), context), Request)
    refused = policy.inbound(request(f"Bearer {key}"), context)
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "ApiKey")


def test_an_expired_key_is_refused_from_that_moment_on(file, context):
    key, _ = consumers.create_key(file, "acme", expires=NOON, now=NOON - timedelta(days=1))
    known = ConsumerFile(file)
    known.load()
    now = [NOON.timestamp() - 1]
    check = checking(known, credential("Authorization", "Bearer"), Refusal("Bearer", False), lambda: now[0])
    assert isinstance(check(request(f"Bearer {key}"), context), Request)
    now[0] += 1
    assert check(request(f"Bearer {key}"), context).status == 401


def test_what_one_request_does_to_its_user_does_not_reach_the_next(parts, file, context):
    key, _ = consumers.create_key(file, "acme", {"plan": "free", "account": {"id": 7}})
    policy = build(parts)
    first, second = request(f"Bearer {key}"), request(f"Bearer {key}")
    policy.inbound(first, context)
    first.user.data["plan"] = "gold"
    first.user.data["account"]["id"] = 8  # whoever pays is read from here
    policy.inbound(second, context)
    assert second.user.data == {"plan": "free", "account": {"id": 7}}


@given(st.text(alphabet=st.characters(exclude_characters="\r\n\0")))
def test_no_header_value_raises_or_is_let_in(value):
    known = ConsumerFile(None)
    check = checking(known, credential("Authorization", ""), Refusal("Bearer", False))
    asked = Request("GET", "/", headers=Headers.trusted([("authorization", value)]))
    assert isinstance(check(asked, Context("r")), Response)


def test_the_options_of_the_originals_key_service_are_known_and_others_are_not(parts, file):
    consumers.create_key(file, "acme")
    known = {"cacheTtlSeconds": "60", "bucketName": "x", "disableAutomaticallyAddingKeyHeaderToOpenApi": True}
    assert build(parts, **known) is not None
    assert parts.findings == []
    build(parts, authHeadr="x")
    assert 'Did you mean "authHeader"?' in parts.said[0]


def test_without_a_file_the_gateway_starts_with_a_warning_and_nobody_gets_in(parts, context):
    policy = build(parts)
    assert "warning" in parts.said[0]
    assert "metergate keys create" in parts.said[0]
    assert policy.inbound(request("Bearer x"), context).status == 401


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"consumers": [}', "line 1"),
        ('{"consumers": {}}', "$.consumers"),
        ('{"consumers": [{"name": 5}]}', "$.consumers[0].name"),
        ('{"consumers": [{"name": " "}]}', "The name is empty"),
        ('{"consumers": [{"name": "a"}, {"name": "a"}]}', '"a" is there twice'),
        ('{"consumers": [{"name": "a", "keys": [{"sha256": "abc"}]}]}', "64 hexadecimal"),
        (
            '{"consumers": [{"name": "a", "keys": [{"sha256": "%s", "expires": "2026-01-01T00:00:00"}]}]}',
            "no zone",
        ),
    ],
)
def test_a_broken_file_is_found_at_start_with_its_place(parts, file, text, said):
    file.parent.mkdir()
    file.write_text(text.replace("%s", "0" * 64))
    assert build(parts) is None
    assert said in "\n".join(
        f"{line} {one.file}" for line, one in zip(parts.said, parts.findings, strict=True)
    )
    assert parts.findings[0].file == "config/consumers.json"


# --- the file changes


def test_a_new_key_works_and_a_revoked_one_does_not_after_the_file_is_read_again(file, context):
    old, entry = consumers.create_key(file, "acme")
    known = ConsumerFile(file)
    known.load()
    check = checking(known, credential("Authorization", "Bearer"), Refusal("Bearer", False))
    new, _ = consumers.create_key(file, "globex")
    assert consumers.revoke_key(file, entry.id)
    known.refresh()
    assert isinstance(check(request(f"Bearer {new}"), context), Request)
    assert check(request(f"Bearer {old}"), context).status == 401
    assert known.statistics().reloads == 1


@pytest.mark.parametrize("damage", ["{", '{"consumers": 1}', None])
def test_a_file_that_breaks_or_vanishes_leaves_the_keys_and_is_logged(file, caplog, damage):
    consumers.create_key(file, "acme")
    known = ConsumerFile(file)
    known.load()
    before = known.known
    if damage is None:
        file.unlink()
    else:
        file.write_text(damage)
    known.refresh()
    assert known.known is before
    assert known.statistics().failed_reloads == 1
    assert "the keys stay as they were" in caplog.text


def test_a_change_is_noticed_without_a_request_and_said_once_where_it_is_broken(file):
    consumers.create_key(file, "acme")
    known = ConsumerFile(file, check_seconds=0.001)
    known.load()

    async def run():
        await known.start()
        file.write_text("{")
        await until(lambda: known.statistics().failed_reloads == 1)
        consumers_text = '{"consumers": []}'
        file.write_text(consumers_text)
        await until(lambda: known.statistics().reloads == 1)
        await known.stop()

    asyncio.run(run())
    assert known.statistics() == type(known.statistics())(keys=0, reloads=1, failed_reloads=1)


def test_a_file_that_cannot_be_read_for_a_while_is_tried_until_it_can_and_complained_of_once(
    file, monkeypatch, caplog
):
    _, entry = consumers.create_key(file, "acme")
    known = ConsumerFile(file, check_seconds=0.001)
    known.load()
    failures = [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")] * 2
    read = Path.read_bytes

    def unlucky(path):
        if path == file and failures:
            raise failures.pop()
        return read(path)

    async def run():
        await known.start()
        consumers.revoke_key(file, entry.id)
        monkeypatch.setattr(Path, "read_bytes", unlucky)
        await until(lambda: not known.known)
        await known.stop()

    asyncio.run(run())
    assert known.statistics().failed_reloads == 2
    assert sum("the keys stay as they were" in message for message in caplog.messages) == 1


async def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


# --- making keys


def test_a_key_is_random_and_the_file_holds_its_hash_only(file):
    first, entry = consumers.create_key(file, "acme", {"plan": "gold"}, now=NOON)
    second, _ = consumers.create_key(file, "acme", expires=NOON + timedelta(days=1), now=NOON)
    assert first != second
    assert first.startswith("mg_")
    assert len(first) == 46
    assert first[3:].isalnum()
    text = file.read_text()
    assert first not in text
    assert second not in text
    assert json.loads(text)["consumers"] == [
        {
            "name": "acme",
            "metadata": {"plan": "gold"},
            "keys": [
                {"sha256": entry.sha256, "id": entry.sha256[:8], "created": "2026-07-01T12:00:00Z"},
                {
                    "sha256": consumers.digest(second).hex(),
                    "id": consumers.digest(second).hex()[:8],
                    "created": "2026-07-01T12:00:00Z",
                    "expires": "2026-07-02T12:00:00Z",
                },
            ],
        }
    ]


def test_a_new_file_is_for_its_owner_only_and_an_old_one_keeps_its_mode(file):
    consumers.create_key(file, "acme")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    consumers.create_key(file, "acme")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_metadata_is_replaced_where_given_and_kept_where_not(file):
    consumers.create_key(file, "acme", {"plan": "free"})
    consumers.create_key(file, "acme")
    assert consumers.read_document(file.read_bytes()).consumers[0].metadata == {"plan": "free"}
    consumers.create_key(file, "acme", {"plan": "gold"})
    assert consumers.read_document(file.read_bytes()).consumers[0].metadata == {"plan": "gold"}


def test_many_who_create_keys_at_once_lose_none(file):
    made = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(consumers.create_key(file, f"c{n % 3}")[0]))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = ConsumerFile(file)
    known.load()
    assert set(known.known) == {consumers.digest(key) for key in made}
    assert len(made) == 12


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[]", "$", "It has to be an object, not a list."),
        ('{"consumers": {}}', "$.consumers", "It has to be a list, not an object."),
        ('{"consumers": [{}]}', "$.consumers[0]", '"name" is missing.'),
        ('{"consumers": [{"name": 5}]}', "$.consumers[0].name", "It has to be a string, not a number."),
        (
            '{"consumers": [{"name": "a", "keys": [{"sha256": "x", "expires": "soon"}]}]}',
            "$.consumers[0].keys[0].expires",
            'This is no time: write "2026-07-01T12:00:00Z".',
        ),
        (
            '{"consumers": [{"name": "a", "keys": [{"sha256": "x", "created": 5}]}]}',
            "$.consumers[0].keys[0].created",
            "It has to be a string or null, not a number.",
        ),
    ],
)
def test_what_is_wrong_with_the_file_is_said_in_the_words_of_json(text, path, message):
    with pytest.raises(ConfigurationError) as caught:
        consumers.read_document(text, "consumers.json")
    [finding] = caught.value.findings
    assert (finding.file, finding.path, finding.message) == ("consumers.json", path, message)


def test_a_broken_file_is_left_as_it_is(file):
    file.parent.mkdir()
    file.write_text("{broken")
    with pytest.raises(ConfigurationError):
        consumers.create_key(file, "acme")
    assert file.read_text() == "{broken"
    assert sorted(one.name for one in file.parent.iterdir()) == [".consumers.json.lock", "consumers.json"]


@pytest.mark.parametrize(("name", "expires"), [(" ", None), ("acme", datetime(2026, 1, 1))])  # noqa: DTZ001  # the point
def test_a_key_needs_a_name_and_a_zone_for_its_end(file, name, expires):
    with pytest.raises(UsageError):
        consumers.create_key(file, name, expires=expires)


def test_a_key_that_would_be_over_at_once_is_not_made(file):
    with pytest.raises(
        UsageError, match=r"is over, .*: write a time to come, 2\d{3}-01-01T00:00:00Z, or leave it out"
    ):
        consumers.create_key(file, "acme", expires=NOON, now=NOON)
    assert not file.exists()


def test_revoking_an_unknown_key_changes_nothing(file):
    consumers.create_key(file, "acme")
    before = file.read_text()
    assert not consumers.revoke_key(file, "ffffffff")
    assert file.read_text() == before
