"""Compressed bodies, decompressed along the way, a piece at a time, so that a bomb never goes off in memory.

gzip and deflate (with zlib's header, as the standard has it, or without, as some servers send it) are always read; br
and zstd where their packages are installed: ``brotli`` 1.2 or later, Python 3.14 or ``backports.zstd``.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, final

PIECE = 64 * 1024
"""So many bytes are decompressed at a time."""

FREE = 1024 * 1024
"""Up to so many bytes a body may become, however small it was."""

MOST_TIMES = 100
"""So many times its compressed size a body may become beyond that. Text compresses 3 to 20 times."""


class Unreadable(Exception):
    """A body that cannot be decompressed. ``reason`` is one word for a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Engine(Protocol):
    """One stream being decompressed, in pieces of at most `PIECE` bytes."""

    def pieces(self, chunk: bytes) -> Iterator[bytes]: ...


@final
class Decompression:
    """Decompresses a body while its chunks pass. ``feed`` raises `Unreadable`, and nothing else."""

    __slots__ = ("_came", "_engine", "_faults", "_went")

    def __init__(self, encoding: str) -> None:
        """Raises `Unreadable` for an encoding that is not known, or whose package is not installed."""
        if encoding not in _ENGINES:
            raise Unreadable("encoding")
        make, self._faults = _ENGINES[encoding]
        self._engine = make()
        self._came = 0
        self._went = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What this chunk adds, in pieces."""
        self._came += len(chunk)
        most = FREE + MOST_TIMES * self._came
        pieces = self._engine.pieces(chunk)
        while True:
            try:
                piece = next(pieces, b"")
            except self._faults:
                raise Unreadable("corrupt") from None
            if not piece:
                return
            self._went += len(piece)
            if self._went > most:
                raise Unreadable("expands")
            yield piece


class _Zlib:
    """gzip, several members of it too, or zlib, or bare deflate; ``wbits`` as zlib has them."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._stream = zlib.decompressobj(wbits)

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        while True:
            if self._stream.eof:
                if self._wbits != _GZIP or not chunk.lstrip(b"\0"):
                    return  # padding, or what nobody should have sent: the body itself is complete
                self._stream = zlib.decompressobj(self._wbits)
            piece = self._stream.decompress(chunk, PIECE)
            if piece:
                yield piece
            if self._stream.eof:
                chunk = self._stream.unused_data
                continue
            chunk = self._stream.unconsumed_tail
            if not chunk and len(piece) < PIECE:
                return


class _Deflate:
    """deflate of either kind: which one it is, its first two bytes tell."""

    def __init__(self) -> None:
        self._first = b""
        self._stream: _Zlib | None = None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._first += chunk
            if len(self._first) < 2:
                return iter(())
            first, second = self._first[:2]
            wrapped = first & 0x0F == zlib.DEFLATED and (first * 256 + second) % 31 == 0
            self._stream = _Zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            chunk, self._first = self._first, b""
        return self._stream.pieces(chunk)


class _Brotli:
    def __init__(self, module: Any) -> None:
        self._stream = module.Decompressor()

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        stream = self._stream
        if stream.is_finished():
            return
        piece = stream.process(chunk, output_buffer_limit=PIECE)
        while piece or not stream.can_accept_more_data():
            if piece:
                yield piece
            if stream.is_finished():
                return
            piece = stream.process(b"", output_buffer_limit=PIECE)


class _Zstd:
    """Frames one after the other. A window of more than 8 MB is refused, as HTTP's rules for zstd have it."""

    def __init__(self, module: Any) -> None:
        self._make: Callable[[], Any] = lambda: module.ZstdDecompressor(
            options={module.DecompressionParameter.window_log_max: 23}
        )
        self._stream = self._make()

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        while True:
            if self._stream.eof:
                if not chunk:
                    return
                self._stream = self._make()
            piece = self._stream.decompress(chunk, PIECE)
            if piece:
                yield piece
            if self._stream.eof:
                chunk = self._stream.unused_data
            elif self._stream.needs_input:
                return
            else:
                chunk = b""


_GZIP: Final = zlib.MAX_WBITS + 16
_Known = tuple[Callable[[], _Engine], type[Exception]]


def _installed() -> dict[str, _Known]:
    """What can be read here."""
    engines: dict[str, _Known] = {
        "gzip": (lambda: _Zlib(_GZIP), zlib.error),
        "x-gzip": (lambda: _Zlib(_GZIP), zlib.error),
        "deflate": (_Deflate, zlib.error),
    }
    brotli, zstd = _module("brotli"), _module("compression.zstd") or _module("backports.zstd")
    if brotli is not None and hasattr(brotli.Decompressor, "can_accept_more_data"):  # else nothing bounds it
        engines["br"] = (lambda: _Brotli(brotli), brotli.error)
    if zstd is not None:
        engines["zstd"] = (lambda: _Zstd(zstd), zstd.ZstdError)
    return engines


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_ENGINES = _installed()
READABLE = frozenset(_ENGINES)
"""The content codings that can be read here."""
