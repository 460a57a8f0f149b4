"""Responses read out of a connection: complete means complete, however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metergate.testing.responses import Answer, BadResponse, ResponseReader


def _sized(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nZP-Rid: r-%d\r\nContent-Length: %d\r\n\r\n" % (status, status, len(body)) + body


def _chunked(status: int, pieces: list[bytes], trailer: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d X\r\nzp-rid: r-%d\r\ntransfer-encoding: chunked\r\n\r\n" % (status, status)
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return head + chunks + b"0\r\n" + trailer + b"\r\n"


_bodies = st.binary(max_size=40)
_wires = st.one_of(
    st.builds(lambda body: (_sized(200, body), len(body)), _bodies),
    st.builds(lambda parts: (_chunked(201, parts), sum(map(len, parts))), st.lists(_bodies, max_size=4)),
    st.builds(
        lambda parts: (_chunked(202, parts, b"a: b\r\n"), sum(map(len, parts))), st.lists(_bodies, max_size=4)
    ),
    st.just((b"HTTP/1.1 204 No Content\r\nzp-rid: r-204\r\n\r\n", 0)),
    st.builds(lambda body: (b"HTTP/1.1 100 Continue\r\n\r\n" + _sized(200, body), len(body)), _bodies),
)


def _feed(wire: bytes, cuts: list[int]) -> tuple[list[Answer], ResponseReader]:
    reader = ResponseReader()
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    answers: list[Answer] = []
    for start, end in pairwise(edges):
        answers += reader.feed(wire[start:end])
    return answers, reader


@given(st.lists(_wires, min_size=1, max_size=4), st.lists(st.integers(0, 1000), max_size=12))
def test_any_cut_of_the_bytes_gives_the_same_responses(
    messages: list[tuple[bytes, int]], cuts: list[int]
) -> None:
    answers, reader = _feed(b"".join(wire for wire, _ in messages), cuts)
    assert [answer.size for answer in answers] == [size for _, size in messages]
    assert all(answer.header("zp-rid") == f"r-{answer.status}" for answer in answers)
    assert reader.idle


@given(_wires, st.integers(0, 1000))
def test_a_response_that_lacks_a_byte_is_never_complete(message: tuple[bytes, int], cut: int) -> None:
    wire, _ = message
    answers, reader = _feed(wire[: cut % len(wire)], [])
    assert answers == []
    assert reader.at_end() is None


def test_a_response_without_a_length_is_complete_when_the_connection_ends() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") == []
    assert reader.feed(b"def") == []
    answer = reader.at_end()
    assert answer is not None
    assert answer.size == 6


@pytest.mark.parametrize("wire", [b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 70_000])
def test_what_is_no_response_is_refused(wire: bytes) -> None:
    with pytest.raises(BadResponse, match=r"HTTP/1\.1"):
        ResponseReader().feed(wire)


def test_a_chunk_without_a_size_is_refused() -> None:
    with pytest.raises(BadResponse, match="chunk size"):
        ResponseReader().feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")
