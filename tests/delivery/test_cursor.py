from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metergate.delivery.cursor import ENTRY_BYTES, Cursor, encode_entry, last_offset, read_offset
from metergate.delivery.files import Files
from metergate.testing.disk import FullDisk, PowerCutFiles

OFFSETS = st.lists(st.integers(0, 2**40), max_size=8).map(sorted)


def test_every_entry_has_the_same_width():
    assert {len(encode_entry("s.000001", offset)) for offset in (0, 1, 2**62)} == {ENTRY_BYTES}


@given(offsets=OFFSETS, torn=st.integers(0, ENTRY_BYTES - 1))
def test_the_last_whole_entry_counts_and_a_torn_one_does_not(offsets, torn):
    data = b"".join(encode_entry("s", offset) for offset in offsets) + encode_entry("s", 2**41)[:torn]
    assert last_offset("s", data) == (offsets[-1] if offsets else 0)


def test_of_a_long_cursor_the_end_is_read_and_all_of_it_where_the_end_is_damaged(tmp_path):
    path = tmp_path / "s.cursor"
    entries = [encode_entry("s", offset) for offset in range(1, 1001)]
    path.write_bytes(b"".join(entries) + b"torn")
    assert read_offset("s", path) == 1000
    path.write_bytes(b"".join(entries[:500]) + b"\0" * ENTRY_BYTES * 500)
    assert read_offset("s", path) == 500


@given(offsets=OFFSETS.filter(len), damage=st.data())
def test_a_damaged_entry_falls_back_to_an_earlier_one_and_never_forward(offsets, damage):
    data = bytearray(b"".join(encode_entry("s", offset) for offset in offsets))
    for position in damage.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=5)):
        data[position] ^= damage.draw(st.integers(1, 255))
    assert last_offset("s", bytes(data)) in {0, *offsets}
    assert last_offset("s", bytes(data)) <= offsets[-1]


def test_a_cursor_of_another_segment_counts_for_nothing():
    assert last_offset("b", encode_entry("a", 100)) == 0


def test_a_cursor_goes_on_where_a_torn_one_ended(tmp_path):
    path = tmp_path / "s.cursor"
    path.write_bytes(encode_entry("s", 10) + encode_entry("s", 20)[:7])
    cursor = Cursor(Files(), path, "s", durable=False)
    cursor.move(30)
    cursor.close()
    assert read_offset("s", path) == 30
    assert path.stat().st_size == 2 * ENTRY_BYTES


def test_a_cursor_that_does_not_fit_on_the_disk_leaves_the_last_one_standing(tmp_path):
    disk, path = FullDisk(ENTRY_BYTES + 5), tmp_path / "s.cursor"
    cursor = Cursor(disk, path, "s", durable=False)
    cursor.move(10)
    for _ in range(2):
        try:
            cursor.move(20)
        except OSError:
            assert read_offset("s", path) == 10
    disk.free = 1000
    cursor.move(30)
    cursor.close()
    assert read_offset("s", path) == 30


def test_a_durable_cursor_survives_a_power_cut(tmp_path):
    disk = PowerCutFiles()
    cursor = Cursor(disk, tmp_path / "s.cursor", "s", durable=True)
    cursor.move(10)
    cursor.move(20)
    cursor.close()
    disk.cut_power(tmp_path)
    assert read_offset("s", tmp_path / "s.cursor") == 20


def test_a_cursor_is_readable_for_people(tmp_path):
    cursor = Cursor(Files(), tmp_path / "s.cursor", "s", durable=False)
    cursor.move(255)
    cursor.close()
    assert (tmp_path / "s.cursor").read_text().startswith("00000000000000ff ")
    assert (tmp_path / "s.cursor").stat().st_mode & 0o077 == 0
