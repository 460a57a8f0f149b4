from __future__ import annotations

import fcntl
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.delivery.files import Files
from metergate.delivery.segment import (
    claim,
    claim_new,
    count_lines,
    end_of_lines,
    new_writer_name,
    recover_segment,
    segment_path,
    try_lock,
    writer_of,
    writer_time,
)


def test_no_two_writers_have_the_same_name_and_names_sort_by_time():
    names = [new_writer_name(moment) for moment in (1.5e9, 1.5e9, 1.6e9, 1.7e9)]
    assert len(set(names)) == 4
    assert names[1:] == sorted(names[1:])
    assert writer_time(names[2]) == 1.6e9


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("20261122T144100.123456Z-1-ab.lock", "20261122T144100.123456Z-1-ab"),
        ("20261122T144100.123456Z-1-ab.000001.jsonl", "20261122T144100.123456Z-1-ab"),
        ("20261122T144100.123456Z-1-ab.1000001.cursor", "20261122T144100.123456Z-1-ab"),
        ("notes.jsonl", ""),
        ("notes.txt", ""),
        (".20261122T144100.123456Z-1-ab.000001.jsonl.77", ""),
    ],
)
def test_a_file_tells_its_writer_and_a_foreign_file_has_none(name, writer):
    assert writer_of(name) == writer


def test_a_writers_lock_is_held_until_it_is_closed(tmp_path):
    lock = claim_new(tmp_path, 1.0)
    assert claim(tmp_path, lock.writer) is None
    lock.close()
    again = claim(tmp_path, lock.writer)
    assert again is not None
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path, eventually):
    code = (
        "import sys, pathlib; from metergate.delivery.segment import claim_new\n"
        "print(claim_new(pathlib.Path(sys.argv[1]), 1.0).writer, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        writer = child.stdout.readline().strip()
        assert claim(tmp_path, writer) is None
        child.kill()
        child.wait()
    lock = eventually(lambda: claim(tmp_path, writer))
    lock.close()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_worth_nothing(tmp_path, monkeypatch):
    holder = claim_new(tmp_path, 1.0)
    real = fcntl.flock

    def removed_just_before(fd, kind):
        holder.remove()
        monkeypatch.setattr(fcntl, "flock", real)
        return real(fd, kind)

    monkeypatch.setattr(fcntl, "flock", removed_just_before)
    assert claim(tmp_path, holder.writer) is None


def test_a_glance_that_shares_a_lock_does_not_take_it(tmp_path):
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    other = os.open(tmp_path / "f", os.O_RDWR)
    assert try_lock(fd, fcntl.LOCK_SH)
    assert try_lock(other, fcntl.LOCK_SH)
    assert not try_lock(other, fcntl.LOCK_EX)
    os.close(fd)
    os.close(other)


@given(
    lines=st.lists(st.binary(max_size=300).map(lambda each: each.replace(b"\n", b"")), max_size=20),
    tail=st.binary(),
)
def test_recovery_cuts_what_stands_behind_the_last_newline_and_nothing_else(tmp_path_factory, lines, tail):
    folder = tmp_path_factory.mktemp("recovery")
    tail = tail.replace(b"\n", b"")
    whole = b"".join(line + b"\n" for line in lines)
    path = segment_path(folder, new_writer_name(1.0), 1)
    path.write_bytes(whole + tail)
    segment, torn = recover_segment(Files(), path)
    assert path.read_bytes() == whole
    assert (segment.committed, torn, segment.closed) == (len(whole), len(tail), True)
    assert count_lines(path, 0, segment.committed) == len(lines)


def test_the_last_newline_is_found_however_long_the_torn_tail_is(tmp_path):
    path = tmp_path / "s"
    path.write_bytes(b"{}\n" + b"x" * 200_000)
    with path.open("rb") as file:
        assert end_of_lines(file.fileno(), 200_003) == 3
        assert end_of_lines(file.fileno(), 2) == 0
