"""Answers of OpenMeter that all processes of a host share, and that outlive a restart."""

import itertools
import os
import stat

import pytest

from metergate.entitlements.answers import Answers
from metergate.entitlements.snapshot import NEVER, Snapshot
from metergate.entitlements.usage.folder import Folder
from metergate.entitlements.usage.holds import Ceiling
from metergate.entitlements.usage.places import Place
from metergate.openmeter.values import FeatureValue, SubjectAccess

BALANCE = FeatureValue("calls", True, 7.5, 2.5, 0.0)
CEILING = Ceiling("calls", Place(3, 1), 9.5, 7.5)
LEVEL = Ceiling("seats", Place(4, 0), 5.0, 4.0, (NEVER, 12.5))
EARLY = Ceiling("tokens", Place(5, 2), 1.0, 100.0, early=True)
MEMBERS = ("asked_at", "balances_at", "fresh_from", "state", "values", "ceilings")


def snapshot(asked_at=10.0, *values, state="found", ceilings=()):
    made = Snapshot(asked_at, SubjectAccess(state, values or (BALANCE,)))
    made.ceilings = ceilings
    return made


def provisional(asked_at=10.0):
    made = snapshot(asked_at, FeatureValue("calls", True), ceilings=(CEILING,))
    made.balances_at = NEVER
    return made


def expired(asked_at=10.0):
    made = snapshot(asked_at)
    made.expire()
    return made


def members(one):
    return {name: getattr(one, name) for name in MEMBERS}


@pytest.fixture
def answers(tmp_path):
    """``answers()`` is one process's view of the file."""
    made = []

    def make(**options):
        made.append(Answers(tmp_path / "answers-key", **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def subjects(found):
    return [subject for subject, _ in found]


@pytest.mark.parametrize(
    "answer",
    [
        snapshot(ceilings=(CEILING, LEVEL, EARLY)),
        snapshot(10.0, FeatureValue("sso", True), FeatureValue("off", False)),
        snapshot(state="absent"),
        snapshot().confirmed(20.0),
        provisional(),
        expired(),
    ],
    ids=["balances", "booleans", "absent", "confirmed", "provisional", "expired"],
)
def test_an_answer_comes_as_it_was_told(answers, answer):
    mine, other = answers(), answers()
    list(other.recall())
    mine.share([("Ünïcode \n subject", answer)])
    ((subject, heard),) = other.look()
    assert subject == "Ünïcode \n subject"
    assert members(heard) == members(answer)
    assert list(other.look()) == []


def test_nobody_hears_what_they_said_themselves(answers):
    mine, other = answers(), answers()
    mine.share([("a", snapshot())])
    other.share([("b", snapshot())])
    assert subjects(mine.look()) == ["b"]
    assert subjects(other.look()) == ["a"]


def test_many_answers_are_one_line(answers, tmp_path):
    answers().share((f"s{number}", provisional()) for number in range(100))
    assert len((tmp_path / "answers-key").read_text("utf-8").split()) == 1


def test_the_file_is_for_its_owner_alone(answers, tmp_path):
    answers().share([("a", snapshot())])
    assert stat.S_IMODE((tmp_path / "answers-key").stat().st_mode) == 0o600


def test_who_starts_later_hears_all_that_was_said_before(answers):
    mine = answers()
    for number in range(500):
        mine.share([(f"s{number}", snapshot())])
    assert subjects(answers().recall()) == [f"s{number}" for number in range(500)]


def test_a_torn_line_and_what_is_none_of_ours_are_passed_over(answers, tmp_path):
    mine, other = answers(), answers()
    mine.share([("a", snapshot())])
    whole = (tmp_path / "answers-key").read_bytes()
    with (tmp_path / "answers-key").open("ab") as file:
        file.write(whole[: len(whole) // 2])
    assert subjects(other.look()) == ["a"]
    mine.share([("b", snapshot())])
    with (tmp_path / "answers-key").open("ab") as file:
        file.write(b'{"not": "ours"}\n\xff\xfe\n[]\n["x", [["a", "b"]]]\n' + b"[" * 5000 + b"\n")
    mine.share([("c", snapshot())])
    assert subjects(other.look()) == ["b", "c"]
    assert subjects(answers().recall()) == ["a", "b", "c"]


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(answers, tmp_path):
    answers().share([("a", snapshot())])
    whole = (tmp_path / "answers-key").read_bytes()
    (tmp_path / "answers-key").write_bytes(whole[:-20])
    other = answers()
    assert subjects(other.recall()) == []
    with (tmp_path / "answers-key").open("ab") as file:
        file.write(whole[-20:])
    assert subjects(other.look()) == ["a"]


def test_a_line_longer_than_a_look_is_heard_whole(answers):
    other = answers()
    list(other.recall())
    answers().share((f"s{number}-{'x' * 200}", snapshot()) for number in range(1000))
    assert len(list(other.look())) == 1000


def test_a_long_backlog_is_read_bit_by_bit(answers):
    mine, other = answers(), answers()
    list(other.recall())
    for number in range(3000):
        mine.share([(f"s{number}", snapshot())])
    looks = []
    while found := subjects(other.look()):
        looks.append(found)
    assert list(itertools.chain(*looks)) == [f"s{number}" for number in range(3000)]
    assert len(looks) > 2


def test_a_full_file_is_begun_anew_and_nobody_misses_anything(answers, tmp_path):
    (tmp_path / "lock").touch()
    mine, other = answers(most_bytes=2000), answers(most_bytes=2000)
    heard = []
    for number in range(60):
        (mine if number % 3 else other).share([(f"s{number}", snapshot())])
        heard += subjects(other.look())
    assert heard == [f"s{number}" for number in range(60) if number % 3]
    files = [tmp_path / "answers-key", tmp_path / "answers-key.before"]
    assert all(100 < file.stat().st_size <= 2000 for file in files)
    assert subjects(answers().recall())[-10:] == [f"s{number}" for number in range(50, 60)]


def test_what_was_answered_before_the_machine_started_is_forgotten_with_the_count(tmp_path):
    Folder(tmp_path, most_places=8).close()
    first = Answers(tmp_path / "answers-key", most_bytes=200)
    for number in range(3):
        first.share([(f"s{number}", snapshot())])
    first.close()
    assert len(list(tmp_path.glob("answers*"))) == 2
    Folder(tmp_path, most_places=8).close()
    assert len(list(tmp_path.glob("answers*"))) == 2, "a new start of the gateway keeps them"
    (tmp_path / "boot").write_text("another", "ascii")
    Folder(tmp_path, most_places=8).close()
    assert not list(tmp_path.glob("answers*"))


def test_a_disk_that_is_full_is_said_once_and_nobody_is_told(answers, tmp_path, caplog):
    mine = answers()
    list(mine.recall())
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, mine._file)
    os.close(full)
    for _ in range(3):
        mine.share([("a", snapshot())])
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert mine.shared == 0


def test_where_the_folder_is_gone_nothing_is_heard_and_nothing_raised(answers, tmp_path):
    mine = Answers(tmp_path / "gone" / "answers")
    mine.share([("a", snapshot())])
    assert list(mine.look()) == []
    assert list(mine.recall()) == []


def test_a_subject_that_no_file_can_hold_is_kept_to_oneself(answers):
    mine, other = answers(), answers()
    mine.share([("\ud800", snapshot())])
    assert list(other.recall()) == []


def test_after_the_end_nothing_is_said_or_heard(answers):
    mine, other = answers(), answers()
    other.close()
    mine.share([("a", snapshot())])
    assert list(other.look()) == []


@pytest.mark.parametrize(
    ("known", "heard", "newer"),
    [
        (snapshot(10.0), snapshot(11.0), True),
        (snapshot(10.0), snapshot(10.0), False),
        (snapshot(10.0), snapshot(9.0), False),
        (snapshot(10.0), provisional(11.0), False),
        (provisional(10.0), provisional(11.0), True),
        (provisional(10.0), snapshot(11.0), True),
        (snapshot(10.0), snapshot(9.0).confirmed(11.0), False),
        (expired(10.0), provisional(11.0), True),
    ],
)
def test_an_answer_takes_the_place_of_an_older_one_but_not_of_one_that_knows_more(known, heard, newer):
    assert heard.is_newer_than(known) is newer
