"""Streams of each provider's format, by hand from its public documentation: the same tokens however they are cut."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import pytest

from metergate.streams import Usage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDED = Path(__file__).parent / "recorded"
LARGE, SMALL = "gpt-large-2026-05-01", "gpt-small"

RESPONSES = {
    "openai.sse": Usage(LARGE, 1211, 148, cached=1024, cache_write=0, reasoning=128, total=1359),
    "openai-two-steps.sse": Usage("open-weights-8b", 40, 9, cached=32, total=49),
    "openai.json": Usage(LARGE, 19, 10, cached=0, reasoning=0, total=29),
    "openai-responses.sse": Usage(LARGE, 37, 11, cached=0, reasoning=0, total=48),
    "openai-responses-incomplete.sse": Usage(
        SMALL, 5000, 64, cached=4096, cache_write=512, reasoning=64, total=5064
    ),
    "openai-responses.json": Usage(SMALL, 8, 6, cached=0, reasoning=2, total=14),
    "anthropic.sse": Usage(
        "claude-large-5", 2312, 34, cached=2000, cache_write=300, reasoning=20, total=2346
    ),
    "anthropic.json": Usage("claude-small-5", 410, 57, cached=0, cache_write=0, total=467),
    "anthropic-compacted.sse": Usage(
        "claude-large-5", 215_500, 4_520, cached=12_000, cache_write=500, total=220_020
    ),
    "gemini.sse": Usage("gemini-large", 97, 90, cached=64, reasoning=85, total=187),
    "gemini-array.json": Usage("gemini-small", 11, 8, reasoning=0, total=19),
    "gemini.json": Usage("gemini-small", 4, 2, total=6),
}

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without a header": lambda body: zlib.compress(body, wbits=-zlib.MAX_WBITS),
    "br": brotli.compress,
    "zstd": zstd.compress,
}


@pytest.fixture(params=RESPONSES)
def recorded(request) -> tuple[str, str, bytes, Usage]:
    """One recorded response: its provider, kind and body, and what it used."""
    name = request.param
    provider = name.partition(".")[0]
    for suffix in ("-two-steps", "-incomplete", "-array", "-compacted"):
        provider = provider.removesuffix(suffix)
    return provider, name.rpartition(".")[2], (RECORDED / name).read_bytes(), RESPONSES[name]


def cuts(body: bytes, step: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """The body in two chunks, cut at every byte, or every so many."""
    return ((body[:end], body[end:]) for end in range(0, len(body) + 1, step))


def test_the_tokens_are_the_same_wherever_a_response_is_cut_in_two(recorded, read):
    provider, kind, body, used = recorded
    for chunks in cuts(body):
        reading = read(provider, chunks, kind=kind)
        assert reading.usage == used, chunks[0][-60:]
        assert not reading.not_read


def test_the_tokens_are_the_same_where_a_response_comes_byte_by_byte(recorded, read):
    provider, kind, body, used = recorded
    reading = read(provider, (body[at : at + 1] for at in range(len(body))), kind=kind)
    assert (reading.usage, reading.not_read) == (used, {})


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_the_tokens_are_the_same_where_a_response_is_compressed(recorded, read, how):
    provider, kind, body, used = recorded
    compressed, encoding = COMPRESSIONS[how](body), how.partition(" ")[0]
    for chunks in (*cuts(compressed, 7), [compressed[at : at + 1] for at in range(len(compressed))]):
        reading = read(provider, chunks, kind=kind, encoding=encoding)
        assert (reading.usage, reading.not_read) == (used, {}), len(chunks)


@pytest.mark.parametrize(("whole", "step"), [(False, 1), (True, 5)])
def test_of_a_response_that_breaks_off_counts_what_was_seen_and_it_is_partial(recorded, read, whole, step):
    provider, kind, body, used = recorded
    seen: Usage | None = None
    for end in range(0, len(body), step):
        usage = read(provider, [body[:end]], kind=kind, whole=whole).usage
        if usage is None:
            assert seen is None, "what was seen once is not forgotten"
            continue
        assert usage.partial or (usage.input, usage.output) == (used.input, used.output)
        for figure in ("input", "output", "cached", "cache_write", "reasoning"):
            said, last = getattr(usage, figure), getattr(used, figure)
            assert said is None or (last is not None and said <= last), (figure, body[:end][-40:])
        seen = usage
    assert seen is not None


@pytest.mark.parametrize("name", ["openai.sse", "openai-responses.sse", "anthropic.sse", "gemini.sse"])
def test_lines_may_end_in_any_of_the_three_ways_and_the_last_may_not_end_at_all(name, read):
    body = (RECORDED / name).read_bytes().replace(b"\r\n", b"\n")
    for end in (b"\n", b"\r\n", b"\r"):
        stream = b"\xef\xbb\xbf" + body.strip().replace(b"\n", end)
        for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))], *cuts(stream, 11)):
            assert read(name.partition(".")[0], chunks).usage == RESPONSES[name]


def test_an_upstream_that_ends_a_stream_in_good_order_without_its_end_mark_has_said_all(read):
    body = (RECORDED / "openai-two-steps.sse").read_bytes()
    events = body.split(b"\n\n")
    without_end = b"\n\n".join(events[:-3]) + b"\n\n"
    assert read("openai", [without_end]).usage == Usage("open-weights-8b", 40, 9, total=49)
    assert read("openai", [without_end], whole=False).usage == Usage(
        "open-weights-8b", 40, 9, total=49, partial=True
    )


def test_a_stream_cut_before_the_first_figures_has_no_usage(read):
    body = (RECORDED / "openai.sse").read_bytes()
    assert read("openai", [body[: body.index(b'"usage":{')]], whole=False).usage is None


def test_an_anthropic_stream_cut_before_its_end_has_the_input_that_was_said_at_its_start(read):
    body = (RECORDED / "anthropic.sse").read_bytes()
    usage = read("anthropic", [body[: body.index(b"event: content_block_delta")]], whole=False).usage
    assert usage == Usage("claude-large-5", 2312, 3, 2000, 300, None, 2315, partial=True)
