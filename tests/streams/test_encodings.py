"""Compressed bodies: read a piece at a time, whatever their chunks, and a bomb does not go off."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import tracemalloc
import zlib

import brotli
import pytest

from metergate.streams import READABLE, Decompression, Unreadable
from metergate.streams.encodings import FREE, PIECE

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY = b"".join(b"line %d of some text\n" % number for number in range(20_000))
NOISE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(10_000))
ZEROS = bytes(40_000_000)
ENCODED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=3),
    "zstd": zstd.compress,
}


def decompressed(encoding: str, compressed: bytes, size: int = 1_000_000) -> bytes:
    stream = Decompression(encoding)
    return b"".join(
        piece for at in range(0, len(compressed), size) for piece in stream.feed(compressed[at : at + size])
    )


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("body", [BODY, NOISE, b"", b"a"], ids=["text", "noise", "nothing", "one byte"])
def test_a_body_is_what_it_was_before_it_was_compressed(encoding, body):
    compressed = ENCODED[encoding](body)
    for size in (1_000_000, 1_000, 1 if len(body) < 2 else 777):
        assert decompressed(encoding, compressed, size) == body


def test_deflate_without_a_header_is_read_byte_by_byte():
    body = BODY[:20_000]
    assert decompressed("deflate", zlib.compress(body, wbits=-15), 1) == body
    assert decompressed("deflate", zlib.compress(body), 1) == body


def test_gzip_of_several_members_is_read_and_padding_is_not():
    compressed = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two") + bytes(600)
    for size in (1, 7, 10_000):
        assert decompressed("gzip", compressed, size) == b"one two"


def test_zstd_of_several_frames_is_read():
    compressed = zstd.compress(b"one ") + zstd.compress(b"two")
    for size in (1, 7, 10_000):
        assert decompressed("zstd", compressed, size) == b"one two"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_what_the_sender_has_flushed_is_there_at_once(encoding):
    flushing = {
        "gzip": lambda: zlib.compressobj(wbits=31),
        "deflate": lambda: zlib.compressobj(),
        "br": brotli.Compressor,
        "zstd": zstd.ZstdCompressor,
    }[encoding]()
    stream = Decompression(encoding)
    for size in (1, 20, PIECE - 1, PIECE, PIECE + 1, PIECE + 100, 3 * PIECE + 7):
        event = b"x" * size
        if encoding == "br":
            chunk = flushing.process(event) + flushing.flush()
        elif encoding == "zstd":
            chunk = flushing.compress(event, zstd.ZstdCompressor.FLUSH_BLOCK)
        else:
            chunk = flushing.compress(event) + flushing.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(stream.feed(chunk)) == event


def test_nothing_is_held_back_that_the_bytes_so_far_give():
    compressed = gzip.compress(b"x" * (3 * PIECE + 7))
    for end in range(len(compressed)):
        unbounded = zlib.decompressobj(wbits=31).decompress(compressed[:end])
        assert decompressed("gzip", compressed[:end]) == unbounded


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_given_up_before_it_takes_memory_or_time(encoding):
    bomb = ENCODED[encoding](ZEROS)
    pieces = Decompression(encoding).feed(bomb)
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable) as refused:
            sizes.extend(map(len, pieces))
        assert tracemalloc.get_traced_memory()[1] < 10 * PIECE
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "expands"
    assert max(sizes) <= 2 * PIECE
    assert sum(sizes) <= FREE + 100 * len(bomb)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_body_that_is_compressed_wrongly_is_said_to_be(encoding):
    compressed = bytearray(ENCODED[encoding](NOISE))
    compressed[:40] = b"\xff" * 40
    with pytest.raises(Unreadable) as refused:
        decompressed(encoding, bytes(compressed))
    assert refused.value.reason == "corrupt"


@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "GZIP", ""])
def test_an_encoding_that_cannot_be_read_is_said_to_be(encoding):
    with pytest.raises(Unreadable) as refused:
        Decompression(encoding)
    assert refused.value.reason == "encoding"


def test_br_and_zstd_cannot_be_read_where_their_packages_are_missing():
    assert {"gzip", "x-gzip", "deflate", "br", "zstd"} <= READABLE
    hidden = (
        "import sys; sys.modules.update({'brotli': None, 'backports.zstd': None, 'compression.zstd': None})"
    )
    shown = f"{hidden}; from metergate.streams import READABLE; print(*sorted(READABLE))"
    asked = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=60
    )
    assert asked.stdout.split() == ["deflate", "gzip", "x-gzip"]
