from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading

import pytest

from metergate.delivery.destination import describe
from metergate.delivery.files import Files
from metergate.delivery.segment import claim, writer_of
from metergate.delivery.spool import REOPEN_SECONDS, Spool, SpoolOptions
from metergate.delivery.wake import Wake
from metergate.testing.disk import FullDisk

DESTINATION = describe("http://openmeter.test", "key")


@pytest.fixture
def open_spool(spool, clock):
    made = []

    def make(files=None, **options):
        made.append(
            Spool(
                SpoolOptions(spool, DESTINATION, **options),
                files=files or Files(),
                wake=Wake(),
                clock=clock,
                wall_clock=clock.wall,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close(5)


def on_disk(spool):
    return b"".join(path.read_bytes() for path in sorted(spool.glob("*/segments/*.jsonl")))


def test_what_is_recorded_is_in_the_segment_when_record_returns(open_spool, spool, event):
    writer = open_spool()
    writer.record(event(1), 1)
    writer.record(event(2) + event(3), 2)
    assert on_disk(spool) == event(1) + event(2) + event(3)
    assert writer.recorded == 3


def test_a_record_without_its_last_newline_does_not_spoil_the_next(open_spool, spool, event):
    writer = open_spool()
    writer.record(event(1).rstrip(), 1)
    writer.record(event(2), 1)
    assert on_disk(spool) == event(1) + event(2)


def test_nobody_else_may_read_the_events(open_spool, spool, event):
    open_spool().record(event(1), 1)
    paths = list(spool.rglob("*"))
    assert len(paths) >= 5
    assert [path for path in paths if path.stat().st_mode & 0o077] == []


def test_the_key_is_in_no_file(deliver, spool, event, openmeter):
    openmeter.refuse(lambda _: True)
    delivery = deliver(api_key="sk_live_very_secret")
    delivery.start()
    delivery.record(event(1), 1)
    assert delivery.flush(10)
    assert "sk_live" not in repr(delivery)
    assert not any(b"sk_live" in path.read_bytes() for path in spool.rglob("*") if path.is_file())


def test_a_full_segment_is_followed_by_another(open_spool, spool, event):
    size = len(event(1))
    writer = open_spool(segment_bytes=3 * size)
    for number in range(7):
        writer.record(event(number), 1)
    assert [segment.committed for segment in writer.segments] == [3 * size, 3 * size, size]
    assert [segment.closed for segment in writer.segments] == [True, True, False]
    assert on_disk(spool) == b"".join(event(number) for number in range(7))


def test_a_record_larger_than_a_segment_gets_one_of_its_own(open_spool, spool, event):
    writer = open_spool(segment_bytes=10)
    writer.record(event(1), 1)
    writer.record(event(2), 1)
    assert on_disk(spool) == event(1) + event(2)
    assert len(writer.segments) == 2


def test_an_old_segment_is_closed_and_an_empty_one_is_not_made(open_spool, event, clock):
    writer = open_spool(segment_seconds=300)
    writer.record(event(1), 1)
    writer.close_old_segment()
    assert not writer.segments[0].closed
    clock.ahead += 301
    writer.close_old_segment()
    assert writer.segments[0].closed
    assert len(writer.segments) == 1


def test_at_the_bound_events_are_counted_and_nothing_raises(open_spool, spool, event, caplog):
    writer = open_spool(max_bytes=3 * len(event(1)))
    for number in range(10):
        assert writer.record(event(number), 1) is None
    writer.record(event(10) + event(11), 2)
    assert writer.dropped == {"spool_full": 9}
    assert on_disk(spool) == event(0) + event(1) + event(2)
    assert len(caplog.records) == 1
    assert "1 spool_full" in caplog.text


def test_the_log_names_all_losses_since_the_last_line_and_is_written_only_every_few_seconds(
    open_spool, event, caplog, clock
):
    writer = open_spool(max_bytes=1)
    for number in range(5):
        writer.record(event(number), 1)
    clock.ahead += 6
    writer.record(event(5), 1)
    assert [record.args[0] for record in caplog.records] == ["1 spool_full", "5 spool_full"]


def test_what_others_keep_in_the_folder_counts_for_the_bound(open_spool, event):
    writer = open_spool(max_bytes=3 * len(event(1)))
    writer.see_others(2 * len(event(1)))
    writer.record(event(1), 1)
    writer.record(event(2), 1)
    assert writer.dropped == {"spool_full": 1}
    writer.see_others(0)
    writer.record(event(3), 1)
    assert writer.recorded == 2


def test_a_disk_that_fills_up_amid_a_record_leaves_no_trace_of_it(open_spool, spool, event):
    disk = FullDisk(10_000)
    writer = open_spool(disk)
    writer.record(event(1), 1)
    disk.free = len(event(2)) + 5
    assert writer.record(event(2) + event(3), 2) is None
    assert writer.dropped == {"disk_full": 2}
    assert on_disk(spool) == event(1)
    disk.free = 10_000
    writer.record(event(4), 1)
    assert on_disk(spool) == event(1) + event(4)
    assert writer.segments[0].committed == len(event(1) + event(4))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EFBIG, "disk_full"),
        (errno.EIO, "io_error"),
    ],
)
def test_what_the_disk_refuses_is_counted_by_reason(open_spool, event, error, reason):
    disk = FullDisk(10_000, error)
    writer = open_spool(disk)
    writer.record(event(1), 1)
    disk.free = 0
    writer.record(event(2), 1)
    assert writer.dropped == {reason: 1}


def test_a_signal_that_shortens_writes_loses_nothing(open_spool, spool, event):
    class Interrupted(Files):
        def write(self, fd, data):
            return os.write(fd, data[: 1 + len(data) // 3])

    writer = open_spool(Interrupted())
    for number in range(50):
        writer.record(event(number), 1)
    assert on_disk(spool) == b"".join(event(number) for number in range(50))
    assert writer.dropped == {}


def test_half_a_line_that_cannot_be_cut_off_ends_its_segment(open_spool, spool, event):
    class Stubborn(FullDisk):
        def truncate(self, fd, size):
            raise OSError(errno.EIO, "no")

    disk = Stubborn(10_000)
    writer = open_spool(disk)
    writer.record(event(1), 1)
    disk.free = 5
    writer.record(event(2), 1)
    disk.free = 10_000
    writer.record(event(3), 1)
    first, second = writer.segments
    assert (first.closed, first.committed) == (True, len(event(1)))
    assert second.path.read_bytes() == event(3)
    assert writer.dropped == {"disk_full": 1}


def test_a_record_interrupted_between_its_write_and_its_count_hides_no_later_one(open_spool, event):
    class Interrupting(Files):
        armed = False

        def write(self, fd, data):
            written = os.write(fd, data)
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return written

    files = Interrupting()
    writer = open_spool(files)
    writer.record(event(1), 1)
    files.armed = True
    with pytest.raises(KeyboardInterrupt):
        writer.record(event(2), 1)
    writer.record(event(3), 1)
    first, second = writer.segments
    assert (first.closed, first.committed) == (True, len(event(1) + event(2)))
    assert (second.start, second.committed) == (first.committed, len(event(3)))
    assert writer.recorded_bytes == writer.own_bytes == len(event(1) + event(2) + event(3))


def test_a_spool_that_cannot_be_made_counts_and_is_tried_again(open_spool, spool, event, clock):
    spool.write_text("a file where the folder should be")
    writer = open_spool()
    writer.record(event(1), 1)
    writer.record(event(2), 1)
    assert writer.dropped == {"io_error": 2}
    spool.unlink()
    writer.record(event(3), 1)
    assert writer.dropped == {"io_error": 3}
    clock.ahead += REOPEN_SECONDS
    writer.record(event(4), 1)
    assert on_disk(spool) == event(4)


def test_a_spool_that_somebody_removed_is_made_anew(open_spool, spool, event):
    writer = open_spool(segment_bytes=1)
    writer.record(event(1), 1)
    shutil.rmtree(spool)
    writer.record(event(2), 1)
    assert on_disk(spool) == event(2)
    assert writer.dropped == {}


def test_whoever_writes_to_a_folder_that_another_process_made_anew_holds_a_lock_in_it(
    open_spool, spool, event
):
    one, other = open_spool(segment_bytes=1), open_spool(segment_bytes=1)
    one.record(event(1), 1)
    other.record(event(2), 1)
    shutil.rmtree(spool)
    folder = other.open()  # makes it anew before the first one looks
    one.record(event(3), 1)
    other.record(event(4), 1)
    assert sorted(on_disk(spool).splitlines(keepends=True)) == [event(3), event(4)]
    assert one.dropped == other.dropped == {}
    for path in folder.segments.glob("*.jsonl"):
        assert claim(folder.segments, writer_of(path.name)) is None


def test_an_event_recorded_amid_the_closing_is_left_for_others_and_a_later_one_opens_anew(
    open_spool, spool, event
):
    class Amid(Files):
        armed = False

        def sync(self, fd):
            if self.armed:  # as a request does while the last sync runs
                self.armed = False
                writer.record(event(2), 1)
            super().sync(fd)

    files = Amid()
    writer = open_spool(files, power=True)
    writer.record(event(1), 1).result(5)
    files.armed = True
    writer.close(5)
    writer.record(event(3), 1).result(5)
    assert on_disk(spool) == event(1) + event(2) + event(3)
    for path in spool.glob("*/segments/*.jsonl"):
        lock = claim(path.parent, writer_of(path.name))
        assert (lock is None) == (path.read_bytes() == event(3)), (
            "what is written to is ours, the rest is not"
        )
        if lock is not None:
            lock.close()


def test_many_threads_record_without_mixing_lines(open_spool, spool, event):
    writer = open_spool(segment_bytes=5000)
    threads = [
        threading.Thread(
            target=lambda start=start: [writer.record(event(n), 1) for n in range(start, start + 200)]
        )
        for start in range(0, 1600, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(on_disk(spool).splitlines(keepends=True)) == sorted(event(number) for number in range(1600))
    assert writer.recorded == 1600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_a_real_full_disk_is_counted_and_what_was_recorded_before_stays_whole(tmp_path, clock, event):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        options = SpoolOptions(tmp_path / "spool", DESTINATION)
        writer = Spool(options, files=Files(), wake=Wake(), clock=clock, wall_clock=clock.wall)
        for number in range(2000):
            writer.record(event(number), 1)
        assert writer.dropped["disk_full"] == 2000 - writer.recorded > 0
        assert on_disk(tmp_path / "spool") == b"".join(event(number) for number in range(writer.recorded))
        writer.close(1)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_real_limit_on_file_size_is_counted_and_leaves_whole_lines(spool, event):
    code = f"""
import pathlib, resource, sys
from metergate.delivery import Delivery
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
delivery = Delivery("http://openmeter.test", "key", directory=pathlib.Path({str(spool)!r}))
for _ in range(200):
    assert delivery.record({event(1)!r}, 1) is None
now = delivery.statistics()
print(now.recorded, now.dropped["disk_full"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    recorded, dropped = map(int, done.stdout.split())
    assert recorded + dropped == 200
    assert dropped > 0
    assert on_disk(spool) == event(1) * recorded
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 10_000
