from __future__ import annotations

import gzip
import os

import pytest

from metergate.delivery.sent import SentOptions, keep_sent, prune_sent


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sent").mkdir()
    return tmp_path / "sent"


def kept(folder, name, size, age, now=1_000_000.0):
    path = folder / f"{name}.jsonl.gz"
    path.write_bytes(b"x" * size)
    os.utime(path, (now - age, now - age))


def names(folder):
    return sorted(path.name.removesuffix(".jsonl.gz") for path in folder.iterdir())


def test_a_sent_segment_is_kept_compressed(tmp_path, folder):
    segment = tmp_path / "w.000001.jsonl"
    segment.write_bytes(b'{"id":"e"}\n' * 10_000)
    keep_sent(segment, folder)
    (copy,) = folder.iterdir()
    assert copy.name == "w.000001.jsonl.gz"
    assert gzip.decompress(copy.read_bytes()) == segment.read_bytes()
    assert copy.stat().st_size < 5000


def test_a_copy_that_cannot_be_made_is_said_and_stops_nothing(tmp_path, caplog):
    segment = tmp_path / "w.000001.jsonl"
    segment.write_bytes(b"{}\n")
    keep_sent(segment, tmp_path / "missing")
    assert "could not be kept" in caplog.text


def test_what_is_too_old_goes(folder):
    kept(folder, "old", 1, age=101)
    kept(folder, "young", 1, age=99)
    prune_sent(folder, SentOptions(keep_seconds=100, keep_bytes=1000), 1_000_000.0)
    assert names(folder) == ["young"]


def test_of_what_is_too_much_the_oldest_goes(folder):
    for age in (10, 20, 30):
        kept(folder, f"age{age}", 40, age)
    prune_sent(folder, SentOptions(keep_seconds=100, keep_bytes=100), 1_000_000.0)
    assert names(folder) == ["age10", "age20"]


def test_a_folder_that_is_not_there_is_nothing_to_prune(tmp_path):
    prune_sent(tmp_path / "missing", SentOptions(), 0.0)
    assert not (tmp_path / "missing").exists()
