import asyncio
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metergate.errors import (
    ConfigurationError,
    OpenMeterBlocked,
    OpenMeterMisdirected,
    OpenMeterOutage,
    OpenMeterThrottled,
    OpenMeterUnauthorized,
)
from metergate.openmeter.access import CROWD, PLACE_SECONDS, AccessClient, is_plain
from metergate.openmeter.values import FeatureValue, SubjectAccess
from metergate.testing.entitled import EntitledServer, granted, metered

ULID = "01G65Z755AFWAKHE12NY0CQ9FH"
API = FeatureValue("api", True, 5, 0, 0)
ACCESS = SubjectAccess("found", (API,))
ABSENT = SubjectAccess("absent")

SOMEBODY = b'{"type": "https://httpproblems.com/http-status/404", "title": "Not Found", "status": 404}'

UNPLAIN = [
    ULID,
    ULID.lower(),
    "..",
    ".",
    "a/b",
    "x/../acme",
    "ac%6De",
    "50%",
    "acme?x",
    "acme#x",
    "acme;x",
    "a\\b",
    "a\tb",
]
PLAIN = [
    "a b",
    "a+b",
    'say "hi"',
    "it's",
    "zoë",
    "客户",
    "a@b.example",
    "a:b|c",
    "...",
    "a&b=c",
    "01G65Z",
    "…/"[0],
    "+",
    "~",
]


@pytest.fixture
def server():
    with EntitledServer() as running:
        yield running


@pytest.fixture
def legacy():
    with EntitledServer(has_customers=False) as running:
        yield running


def run(server, *reads, **options):
    """The answers of reads, one after the other, by one client."""

    async def all_reads():
        client = AccessClient(server.url, "key", **options)
        try:
            return [await read(client) for read in reads]
        finally:
            await client.close()

    return asyncio.run(all_reads())


def access(server, subject, **options):
    return run(server, lambda client: client.access(subject), **options)[0]


# --- finding a subject


def test_a_customer_key_is_one_request_for_all_features(server):
    server.customer("acme", features={"api": metered(5), "sso": granted()})
    assert access(server, "acme") == SubjectAccess("found", (API, FeatureValue("sso", True)))
    assert server.paths == ["/api/v1/customers/acme/access"]


def test_a_subject_key_is_found_and_then_one_request_as_well(server):
    server.customer("acme", subjects=["acme-eu"], features={"api": metered(5)})
    reads = [lambda client: client.access("acme-eu")] * 3
    assert run(server, *reads) == [ACCESS] * 3
    assert server.count == 3 + 2


def test_a_customer_without_a_key_is_found_by_its_subjects(server):
    server.customer(None, subjects=["one", "two"], features={"api": metered(5)})
    assert access(server, "two") == ACCESS


def test_a_key_match_beats_a_subject_match(server):
    server.customer("other", subjects=["acme"], features={"api": metered(99)})
    server.customer("acme", features={"api": metered(5)})
    assert access(server, "acme") == ACCESS


@pytest.mark.parametrize("subject", ["acm", "ACME", "acme-2", "cme"])
def test_the_partial_matches_of_the_lists_filter_are_nobody(server, subject):
    server.customer("x", subjects=["acme", "acme-22"], features={"api": metered(5)})
    assert access(server, subject) == ABSENT


def test_a_subject_hidden_in_a_crowd_is_found_through_its_own_endpoint(server):
    for number in range(CROWD):
        server.customer(None, subjects=[f"team-{number}"])
    server.customer(None, subjects=["team"], features={"api": metered(5), "sso": granted()})
    assert access(server, "team") == SubjectAccess("found", (API, FeatureValue("sso", True)))


def test_a_server_from_before_customers_is_asked_for_the_subject(legacy):
    legacy.customer(None, subjects=["acme"], features={"api": metered(5), "sso": granted()})
    reads = [lambda client: client.access("acme")] * 2
    assert run(legacy, *reads) == [SubjectAccess("found", (API, FeatureValue("sso", True)))] * 2
    assert legacy.count == 2 + 3 + 3


def test_nobody_is_absent(server):
    assert access(server, "nobody") == ABSENT


def test_a_deleted_customer_is_told_from_none(server):
    gone = server.customer(None, subjects=["acme"], features={"api": metered(5)})

    async def delete(_):
        gone.deleted = True

    reads = run(server, lambda client: client.access("acme"), delete, lambda client: client.access("acme"))
    assert reads == [ACCESS, None, SubjectAccess("deleted")]


def test_a_customer_made_again_after_its_deletion_is_found(server):
    gone = server.customer(None, subjects=["acme"], features={"api": metered(1)})

    async def replace(_):
        gone.deleted = True
        server.customer(None, subjects=["acme"], features={"api": metered(5)})

    reads = run(server, lambda client: client.access("acme"), replace, lambda client: client.access("acme"))
    assert reads[2] == ACCESS


def test_a_subject_that_moves_to_another_customer_gets_that_ones_access_in_time(server):
    old = server.customer("old", subjects=["acme"], features={"api": metered(1)})
    new = server.customer("new", features={"api": metered(5)})
    now = [0.0]

    async def move(_):
        old.subjects.remove("acme")
        new.subjects.append("acme")

    async def wait(_):
        now[0] += PLACE_SECONDS

    async def read(client):
        return (await client.access("acme")).features[0].balance

    assert run(server, read, move, read, wait, read, clock=lambda: now[0])[::2] == [1, 1, 5]


def test_the_memory_of_who_is_who_is_bounded(server):
    for number in range(5):
        server.customer(None, subjects=[f"team-{number}"], features={"api": metered(5)})

    async def read_all(client):
        for number in range(5):
            await client.access(f"team-{number}")
        return repr(client)

    assert run(server, read_all, remembered=3)[0].endswith("places=3>")


# --- nobody reads another's


def test_a_subject_called_like_a_customers_id_is_nobody(server):
    server.customer("victim", identity=ULID, features={"api": metered(5)})
    assert access(server, ULID) == ABSENT


def test_a_subject_called_like_a_subjects_id_is_nobody(legacy):
    legacy.customer(None, subjects=["victim"], features={"api": metered(5)})
    assert access(legacy, legacy.subject_id("victim")) == ABSENT


def test_a_key_that_looks_like_a_ulid_is_its_own_customers(server):
    server.customer("victim", features={"api": metered(1)})
    server.customer(ULID, features={"api": metered(5)})
    assert access(server, ULID) == ACCESS


@pytest.mark.parametrize("subject", UNPLAIN)
def test_a_name_that_a_path_could_change_is_never_in_the_path_of_a_read(server, subject):
    assert not is_plain(subject)
    server.customer("acme", features={"api": metered(1)})
    server.customer(None, subjects=[subject], features={"api": metered(5)})
    assert access(server, subject) == ACCESS
    assert server.paths[-1] == f"/api/v1/customers/{server.customers[1].id}/access"


@pytest.mark.parametrize("subject", UNPLAIN)
def test_a_name_that_a_path_could_change_works_as_a_key(server, subject):
    server.customer(subject, features={"api": metered(5)})
    assert access(server, subject) == ACCESS


@pytest.mark.parametrize("subject", [name for name in UNPLAIN if name not in (".", "..")])
def test_a_name_that_a_path_could_change_works_on_a_server_from_before_customers(legacy, subject):
    legacy.customer(None, subjects=[subject], features={"api": metered(5)})
    assert access(legacy, subject) == ACCESS


@pytest.mark.parametrize("subject", PLAIN)
def test_any_other_name_is_one_request(server, subject):
    assert is_plain(subject)
    server.customer(subject, features={"api": metered(5)})
    assert access(server, subject) == ACCESS
    assert server.count == 1


@pytest.mark.parametrize("subject", ["", "a\x00b", "\ud800", "x\udfffy"])
def test_a_name_that_openmeter_cannot_hold_is_nobodys_and_not_asked_for(server, subject):
    assert access(server, subject) == ABSENT
    assert server.count == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subject=st.text(max_size=12) | st.sampled_from(["acme", "acme/", "./acme", "acme%00", "%61cme"]))
def test_whatever_a_subject_is_called_it_gets_its_own_access_or_none(server, subject):
    server.customers.clear()
    server.customer("acme", features={"api": metered(1)})
    server.customer(None, subjects=["somebody"], features={"api": metered(2)})
    if subject in ("acme", "somebody"):
        return
    assert access(server, subject) == ABSENT
    if subject and "\x00" not in subject:
        server.customer(None, subjects=[subject], features={"api": metered(5)})
        assert access(server, subject) == ACCESS


# --- one value


@pytest.mark.parametrize("subject", ["acme", "acme-eu", "a/b"])
def test_the_value_of_one_feature_is_found_by_key_and_by_subject(server, subject):
    server.customer("acme", subjects=["acme-eu", "a/b"], features={"api": metered(5), "sso": granted()})
    assert run(server, lambda client: client.value(subject, "api"))[0] == API


def test_the_value_of_a_feature_on_a_server_from_before_customers(legacy):
    legacy.customer(None, subjects=["acme"], features={"payment-api/x": metered(5)})
    reads = run(
        legacy,
        lambda client: client.value("acme", "payment-api/x"),
        lambda client: client.value("acme", "none"),
    )
    assert reads == [FeatureValue("payment-api/x", True, 5, 0, 0), None]


def test_the_value_of_what_is_not_there(server):
    server.customer("acme")
    reads = run(
        server, lambda client: client.value("acme", "api"), lambda client: client.value("nobody", "api")
    )
    assert reads == [FeatureValue("api", False), None]


# --- what goes wrong


def test_the_key_is_sent_and_a_refused_one_is_told():
    with EntitledServer(api_key="key") as server:
        server.customer("acme", features={"api": metered(5)})
        assert access(server, "acme") == ACCESS
    with EntitledServer(api_key="another") as server, pytest.raises(OpenMeterUnauthorized):
        access(server, "acme")


@pytest.mark.parametrize("status", [500, 502, 503, 408, 302, 204])
def test_any_other_status_is_an_outage(server, status):
    server.fail(status, body=b"" if status in (204, 302) else None)
    with pytest.raises(OpenMeterOutage, match=str(status)):
        access(server, "acme")


def test_slow_down_is_told_with_the_time(server):
    server.fail(429, retry_after="3")
    with pytest.raises(OpenMeterThrottled) as caught:
        access(server, "acme")
    assert caught.value.retry_after == 3


def test_a_cut_connection_an_endless_answer_and_garbage_are_outages_without_the_subject_in_their_text(server):
    for fault in (server.cut, server.hang, server.garbage):
        fault()
        with pytest.raises(OpenMeterOutage) as caught:
            access(server, "secret-name", timeout_seconds=0.2)
        assert "secret-name" not in str(caught.value)


def test_nobody_listening_is_an_outage():
    with EntitledServer() as server:
        url = server.url
    with pytest.raises(OpenMeterOutage, match="no answer"):
        asyncio.run(AccessClient(url, "key").access("acme"))


def test_a_404_of_a_proxy_is_an_outage_and_not_a_missing_customer(server):
    server.fail(404, body=b"<html>not here</html>")
    with pytest.raises(OpenMeterOutage):
        access(server, "acme")


@pytest.mark.parametrize(
    "fault", [lambda server: server.fail(404, body=SOMEBODY), lambda server: server.garbage()]
)
def test_another_api_or_site_is_named_by_its_url_and_denies_nobody(server, fault):
    server.customer("acme", features={"api": metered(5)})
    fault(server)
    with pytest.raises(OpenMeterMisdirected) as caught:
        access(server, "acme")
    assert str(caught.value).startswith(f"{server.url} does not look like OpenMeter: GET /api/v1/customers/")
    assert "acme" not in str(caught.value)


def test_a_firewall_that_turns_one_name_down_is_not_a_refused_key(server):
    server.customer("acme", features={"api": metered(5)})
    server.fail(403, body=b"<html>blocked</html>", times=1)
    with pytest.raises(OpenMeterBlocked):
        access(server, "<script>")
    assert access(server, "acme") == ACCESS


def test_a_name_that_openmeter_refuses_is_nobodys(server):
    server.fail(400)
    assert access(server, "x" * 300) == ABSENT


def test_a_trailing_slash_of_the_url_is_cut(server):
    server.customer("acme", features={"api": metered(5)})

    async def read():
        client = AccessClient(server.url + "/", "key")
        try:
            return await client.access("acme")
        finally:
            await client.close()

    assert asyncio.run(read()) == ACCESS


# --- life


def test_the_key_is_in_no_repr_and_no_error():
    client = AccessClient("http://127.0.0.1:1", "s3cret\n")
    assert "s3cret" not in repr(client)
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(client.access("acme"))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_client_serves_one_event_loop_after_another_and_after_close(server):
    server.customer("acme", features={"api": metered(5)})
    client = AccessClient(server.url, "key")

    async def read():
        try:
            return await client.access("acme")
        finally:
            await client.close()

    assert [asyncio.run(read()) for _ in range(3)] == [ACCESS] * 3


FORKING = """
import asyncio, os, sys
from metergate.openmeter.access import AccessClient
client = AccessClient(sys.argv[1], "key")
child = os.fork()
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert asyncio.run(client.access("acme")).state == "found"
asyncio.run(client.close())
os._exit(0)  # the HTTP client's own threads may still end while the interpreter does, which can abort it
"""


def test_a_client_made_before_a_fork_works_in_child_and_parent(server):
    server.customer("acme", features={"api": metered(5)})
    subprocess.run([sys.executable, "-c", FORKING, server.url], check=True, timeout=60)
    assert server.count == 2
