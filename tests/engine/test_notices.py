"""What the processes of one gateway tell each other: everybody hears of it, once, and the file stays small."""

import subprocess
import sys

import pytest

from metergate.engine.notices import Notices


class Process:
    """One process's notices, and what it was told to expire."""

    def __init__(self, folder, **options):
        self.expired = []
        self.notices = Notices(folder, self.expired.append, **options)
        self.notices.open()


@pytest.fixture
def start(tmp_path):
    started = []

    def make(**options):
        started.append(Process(tmp_path / "notices", **options))
        return started[-1]

    yield make
    for process in started:
        process.notices.close()


def test_who_posts_expires_at_once_and_the_others_when_they_look(start):
    first, second, third = start(), start(), start()
    assert first.notices.post("m1", ("acme", "acme-eu"))
    assert (first.expired, second.expired) == (["acme", "acme-eu"], [])
    for other in (second, third):
        other.notices.look()
        other.notices.look()
        assert other.expired == ["acme", "acme-eu"]
    first.notices.look()
    assert first.expired == ["acme", "acme-eu"]


def test_a_message_that_came_before_is_not_new_wherever_it_comes_again(start):
    first, second = start(), start()
    assert first.notices.post("m1", ["acme"])
    assert not first.notices.post("m1", ["acme"])
    assert not second.notices.post("m1", ["acme"])
    assert (first.expired, second.expired) == (["acme"], ["acme"])
    assert second.notices.post("m2", ["acme"])
    first.notices.look()
    assert (first.expired, second.expired) == (["acme"] * 2, ["acme"] * 2)


def test_a_worker_that_takes_the_place_of_another_knows_what_came_before_it_and_expires_nothing(start):
    start().notices.post("m1", ["acme"])
    late = start()
    assert late.expired == []
    assert not late.notices.post("m1", ["acme"])
    late.notices.look()
    assert late.expired == []


def test_one_process_alone_needs_no_folder():
    alone = Process(None)
    assert [alone.notices.post(message, ["acme"]) for message in ("m1", "m1", "m2")] == [True, False, True]
    alone.notices.look()
    alone.notices.close()
    assert alone.expired == ["acme", "acme"]


def test_the_file_is_begun_anew_at_its_bound_and_nobody_misses_a_line(start, tmp_path):
    writer, reader, slow = start(most_bytes=500), start(most_bytes=500), start(most_bytes=500)
    subjects = [f"subject-{number}" for number in range(200)]
    for number, subject in enumerate(subjects):
        assert writer.notices.post(f"m{number}", [subject])
        reader.notices.look()
        if number == 3:
            slow.notices.look()
    assert writer.expired == reader.expired == subjects
    assert slow.expired == subjects[:4]
    assert (tmp_path / "notices" / "lines").stat().st_size <= 500
    assert sorted(path.name for path in (tmp_path / "notices").iterdir()) == ["lines", "lock"]
    # Whoever did not look for two files' time has missed some, and goes on with the newest.
    slow.notices.look()
    assert slow.expired[-1] == subjects[-1]
    assert slow.notices.post("later", ["later"])
    reader.notices.look()
    assert reader.expired[-1] == "later"


def test_a_line_that_is_larger_than_the_bound_is_told_nevertheless(start):
    writer, reader = start(most_bytes=100), start(most_bytes=100)
    subjects = [f"subject-{number}" for number in range(100)]
    for message in ("m1", "m2"):
        assert writer.notices.post(message, subjects)
        reader.notices.look()
    assert reader.expired == subjects * 2


def test_the_ids_that_are_remembered_are_bounded_and_the_oldest_go(start):
    first = start(most_ids=3)
    for message in ("m1", "m2", "m3", "m4"):
        assert first.notices.post(message, ["acme"])
    assert not first.notices.post("m2", ["acme"])
    assert first.notices.post("m1", ["acme"])


def test_half_a_line_is_waited_for_and_a_broken_one_passed_over(start, tmp_path):
    reader = start()
    file = tmp_path / "notices" / "lines"
    with file.open("ab", buffering=0) as other:
        other.write(b'["m1",["ac')
        reader.notices.look()
        assert reader.expired == []
        other.write(b'me"]]\nnonsense\n["m2",["b"]]\n')
        reader.notices.look()
    assert reader.expired == ["acme", "b"]


def test_a_folder_that_is_gone_is_said_and_the_subject_expires_here_at_least(start, tmp_path):
    first = start()
    for file in (tmp_path / "notices").iterdir():
        file.unlink()
    (tmp_path / "notices").rmdir()
    with pytest.raises(OSError):
        first.notices.post("m1", ["acme"])
    with pytest.raises(OSError):
        first.notices.look()
    assert first.expired == ["acme"]


RACING = """
import sys
from pathlib import Path
from metergate.engine.notices import Notices

heard = []
notices = Notices(Path(sys.argv[1]), heard.append, most_bytes=4000)
notices.open()
print("ready", flush=True)
sys.stdin.readline()
mine = [f"shared-{number}" for number in range(300) if notices.post(f"shared-{number}", [f"s{number}"])]
print(*mine, flush=True)
sys.stdin.readline()
notices.look()
print(len(heard), len(set(heard)), flush=True)
"""


def test_processes_that_get_the_same_messages_at_the_same_time_take_each_once_and_all_hear_all(tmp_path):
    command = [sys.executable, "-c", RACING, str(tmp_path / "notices")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
        taken, heard = _go(processes), _go(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    messages = [message for answer in taken for message in answer]
    assert sorted(messages) == sorted(f"shared-{number}" for number in range(300))
    assert heard == [["300", "300"]] * 3


def _go(processes):
    """Have all of them take their next step, and what each says of it."""
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.stdout.readline().split() for process in processes]
