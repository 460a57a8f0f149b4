from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.delivery import folders, name_heir
from metergate.delivery.destination import (
    Destination,
    Sighting,
    describe,
    fingerprint,
    inheritance,
    is_alive,
    make_folder,
    show_alive,
)
from metergate.delivery.files import Files
from metergate.errors import UsageError

NAMES = ["a", "b", "c", "d"]


def sighting(name, created, *, alive=False, beside=(), has_events=False, heir=""):
    return Sighting(name, created, alive, frozenset(beside), has_events, heir)


def test_one_destination_is_one_folder_however_its_url_is_spelt():
    names = {
        describe(url, "key").folder_name
        for url in (
            "https://OpenMeter.cloud",
            "https://openmeter.cloud/",
            "https://user:secret@openmeter.cloud",
        )
    }
    assert len(names) == 1
    assert names.pop().startswith("openmeter.cloud-")


def test_another_key_or_url_is_another_folder():
    names = [
        describe(url, key).folder_name
        for url in ("https://a.test", "http://a.test", "https://a.test:8443", "https://a.test/x")
        for key in ("one", "two")
    ]
    assert len(set(names)) == 8


@pytest.mark.parametrize("url", ["", "openmeter.cloud", "ftp://openmeter.cloud", "https://"])
def test_what_is_no_url_is_refused_where_it_is_given(url):
    with pytest.raises(UsageError):
        describe(url, "key")


def test_the_folder_says_whose_it_is_without_the_key(spool):
    folder = make_folder(spool, describe("https://user:pw@openmeter.cloud/", "sk_secret"), Files(), 7.0)
    text = (folder.path / "destination.json").read_text()
    assert "secret" not in text
    assert "pw" not in text
    assert folder.destination == Destination("https://openmeter.cloud", fingerprint("sk_secret"), 7.0)
    again = make_folder(spool, describe("https://openmeter.cloud", "sk_secret"), Files(), 99.0)
    assert again == folder
    assert folders(spool) == [folder]


def test_a_foreign_folder_in_the_spool_is_none_of_ours(spool):
    (spool / "notes").mkdir(parents=True)
    (spool / "broken").mkdir()
    (spool / "broken" / "destination.json").write_text("{")
    (spool / "file").touch()
    assert folders(spool) == []
    assert folders(spool / "missing") == []


def test_a_key_is_in_use_while_anybody_shows_it(spool):
    folder = make_folder(spool, describe("https://a.test", "key"), Files(), 1.0)
    assert not is_alive(folder)
    one, two = show_alive(folder), show_alive(folder)
    os.close(one)
    assert is_alive(folder)
    os.close(two)
    assert not is_alive(folder)


def test_the_only_successor_of_a_key_inherits_what_it_left():
    own = sighting("new", 2, alive=True)
    assert inheritance(own, [sighting("old", 1, has_events=True)]) == ({"old"}, set())


def test_a_whole_line_of_keys_is_inherited():
    own = sighting("third", 3, alive=True)
    others = [sighting("first", 1, has_events=True), sighting("second", 2, has_events=True)]
    assert inheritance(own, others) == ({"first", "second"}, set())


def test_a_key_that_is_in_use_keeps_its_events():
    own = sighting("new", 2, alive=True)
    assert inheritance(own, [sighting("old", 1, alive=True, has_events=True)]) == (set(), set())


def test_of_two_keys_in_use_neither_inherits():
    own = sighting("b", 2, alive=True)
    others = [sighting("a", 1, has_events=True), sighting("c", 3, alive=True)]
    assert inheritance(own, others) == (set(), {"a"})


def test_keys_that_were_ever_in_use_side_by_side_are_two_organisations():
    own = sighting("new", 3, alive=True)
    others = [sighting("a", 1, beside=["b"], has_events=True), sighting("b", 2, beside=["a"])]
    assert inheritance(own, others) == (set(), {"a"})


def test_going_back_to_an_older_key_inherits_nothing():
    own = sighting("old", 1, alive=True)
    assert inheritance(own, [sighting("new", 2, has_events=True)]) == (set(), {"new"})


def test_an_heir_that_was_named_inherits_whatever_was_seen():
    own = sighting("new", 1, alive=True, beside=["old"])
    other = sighting("old", 2, beside=["new"], has_events=True, heir="new")
    assert inheritance(own, [other]) == ({"old"}, set())
    assert inheritance(sighting("other", 3, alive=True), [other])[0] == set()


@given(
    st.lists(
        st.builds(
            Sighting,
            st.sampled_from(NAMES),
            st.floats(0, 10),
            st.booleans(),
            st.frozensets(st.sampled_from(NAMES), max_size=2),
            st.booleans(),
        ),
        min_size=1,
        unique_by=lambda each: each.name,
    )
)
def test_nobody_inherits_from_the_living_or_from_two_at_once(sightings):
    own, *others = sightings
    inherited, stranded = inheritance(own, others)
    by_name = {each.name: each for each in others}
    assert not inherited & stranded
    assert inherited | stranded == {each.name for each in others if each.has_events and not each.alive}
    for name in inherited:
        assert by_name[name].created < own.created
        assert not by_name[name].beside & {each.name for each in sightings}
        assert not any(each.alive for each in others)


def test_an_heir_has_to_be_of_the_same_openmeter(spool):
    for url in ("https://a.test", "https://b.test"):
        make_folder(spool, describe(url, "key"), Files(), 1.0)
    one, other = (folder.path.name for folder in folders(spool))
    with pytest.raises(UsageError, match="never change OpenMeter"):
        name_heir(spool, one, other)
    with pytest.raises(UsageError, match="There are"):
        name_heir(spool, one, "nobody")


def left_behind(deliver, event, key, **options):
    delivery = deliver(api_key=key, **options)
    delivery.record(event(key), 1)
    delivery.close(0)
    return delivery


def test_what_a_rotated_key_left_is_sent_with_the_new_one_and_said_without_alarm(
    deliver, event, openmeter, ids, clock, caplog
):
    left_behind(deliver, event, "old")
    new = deliver(api_key="new", clock=clock, inherit_after=60)
    new.start()
    new.record(event("new"), 1)
    openmeter.wait_for_events(1)
    assert ids(openmeter.events) == ["enew"]
    clock.ahead += 61
    openmeter.wait_for_events(2)
    assert openmeter.requests[-1].headers["authorization"] == "Bearer new"
    (said,) = [record for record in caplog.records if "has changed" in record.getMessage()]
    assert said.levelname == "WARNING"
    assert f"The API key for {openmeter.url} has changed." in said.getMessage()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert new.statistics().stranded_folders == 0


def test_what_another_organisations_key_left_is_never_sent_and_loudly_said(
    deliver, event, openmeter, ids, clock, spool, caplog, eventually
):
    both = [deliver(api_key=key) for key in ("one", "two")]
    for delivery in both:
        delivery.start()
        delivery.record(event("first"), 1)
        assert delivery.flush(10)
    eventually(lambda: any(spool.glob("*/beside-*")))
    for delivery in both:
        delivery.close(5)
    left_behind(deliver, event, "one")
    third = deliver(api_key="three", inherit_after=0, clock=clock)
    third.start()
    eventually(lambda: third.statistics().stranded_folders == 1)
    assert "NOT sent" in caplog.text
    assert "eone" not in ids(openmeter.events)
    source = next(
        folder for folder in folders(spool) if folder.destination.key_fingerprint == fingerprint("one")
    )
    heir = next(
        folder for folder in folders(spool) if folder.destination.key_fingerprint == fingerprint("three")
    )
    name_heir(spool, source.path.name, heir.path.name)
    clock.ahead += 11
    eventually(lambda: "eone" in ids(openmeter.events))
    eventually(lambda: third.statistics().stranded_folders == 0)


def test_what_was_recorded_for_one_url_never_goes_to_another(deliver, event, openmeter, clock, eventually):
    left_behind(deliver, event, "key", url="http://127.0.0.1:9")
    delivery = deliver(api_key="key", inherit_after=0, clock=clock)
    delivery.start()
    delivery.record(event(1), 1)
    assert delivery.flush(10)
    clock.ahead += 11
    openmeter.wait_for_requests(1)
    delivery.close(5)
    assert len(openmeter.events) == 1
