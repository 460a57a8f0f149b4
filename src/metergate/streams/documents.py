"""JSON bodies, read along the way: one document, or the elements of an array that grows.

A document is held, as the chunks that pass, and decoded once at its end. Measured against a scanner that skips what
nobody asked for and holds nothing (Python 3.11, one core; bodies of 2 KB to 5 MB): holding and decoding into a partial
struct reads 400 to 2,000 MB/s, the scanner 10 to 120. So a document costs memory up to a bound, and CPU that nobody
notices; the scanner is for arrays alone, whose elements have to be told apart while they come.
"""

from __future__ import annotations

import re
from typing import Final, final

MOST_DOCUMENT = 4 * 1024 * 1024
"""So many bytes of one document are held. Decoding that many takes about 7 ms in one piece."""

MOST_MENDED = 256 * 1024
"""A document that was cut off is mended up to this size; that goes at a scanner's pace."""

_BOM = b"\xef\xbb\xbf"
_OPENING: Final = b"{["
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[{}\[\]]', re.DOTALL)
_TOKEN_OR_COMMA = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[{}\[\],]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
_CLOSER = {ord("{"): b"}", ord("["): b"]"}
_QUOTE = ord('"')
_COMMA = ord(",")


@final
class Document:
    """Holds a body that is one JSON document.

    ``skipped`` is 1 where it has more than ``most`` bytes; from then on nothing of it is held.
    """

    __slots__ = ("_held", "most", "skipped")

    def __init__(self, most: int = MOST_DOCUMENT) -> None:
        self.most = most
        self.skipped = 0
        self._held = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Nothing yet: a document is one only when it is whole."""
        if self.skipped:
            return []
        if len(self._held) + len(chunk) > self.most:
            self.skipped = 1
            self._held = bytearray()
        else:
            self._held += chunk
        return []

    def finish(self) -> list[bytes]:
        """The document, or as much of it as came."""
        held, self._held = bytes(self._held), bytearray()
        return [held] if held else []


@final
class Elements:
    """Splits a body that is one JSON array into its elements, as far as they are objects or arrays themselves.

    ``skipped`` counts the elements of more than ``most`` bytes: nothing of them is held once that is known.
    """

    __slots__ = ("_depth", "_escaped", "_held", "_in_string", "_skipping", "most", "skipped")

    def __init__(self, most: int = MOST_DOCUMENT) -> None:
        self.most = most
        self.skipped = 0
        self._held = bytearray()
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The elements that end in this chunk. However an array is cut, they are the same."""
        elements: list[bytes] = []
        position = self._leave_string(chunk) if self._in_string else 0
        start = 0
        for match in _TOKEN.finditer(chunk, position) if not self._in_string else ():
            token = chunk[match.start()]
            if token == _QUOTE:
                self._in_string = not match[1]
                self._escaped = self._in_string and match.end() < len(chunk)
            elif token in _OPENING:
                if self._depth == 1:
                    start = match.start()
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 1:
                    self._end(chunk[start : match.end()], elements)
        if self._depth > 1:
            self._hold(chunk[start:] if start else chunk)
        return elements

    def finish(self) -> list[bytes]:
        """As much as came of an element that was cut off."""
        held, self._held = bytes(self._held), bytearray()
        return [held] if held else []

    def _leave_string(self, chunk: bytes) -> int:
        """Where in this chunk a string ends that has begun in an earlier one."""
        match = _REST_OF_STRING.match(chunk, 1 if self._escaped else 0)
        if (
            match is None or not chunk
        ):  # nothing can be said of an empty chunk; of any other it matches something
            return 0
        self._in_string = not match[1]
        self._escaped = self._in_string and match.end() < len(chunk)
        return match.end()

    def _end(self, tail: bytes, elements: list[bytes]) -> None:
        """An element is complete, unless it was too large."""
        self._hold(tail)
        if not self._skipping:
            elements.append(bytes(self._held))
        self._held.clear()
        self._skipping = False

    def _hold(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._held) + len(part) > self.most:
            self.skipped += 1
            self._skipping = True
            self._held = bytearray()
        else:
            self._held += part


@final
class Body:
    """Splits a JSON body whose first byte tells what it is: an array into its elements, anything else is one document."""

    __slots__ = ("_inner", "most")

    def __init__(self, most: int = MOST_DOCUMENT) -> None:
        self.most = most
        self._inner: Document | Elements | None = None

    @property
    def skipped(self) -> int:
        """How many documents were too large to be read."""
        return self._inner.skipped if self._inner is not None else 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The documents that end in this chunk."""
        if self._inner is None:
            chunk = chunk.removeprefix(_BOM).lstrip()
            if not chunk:
                return []
            self._inner = Elements(self.most) if chunk[0] == _OPENING[1] else Document(self.most)
        return self._inner.feed(chunk)

    def finish(self) -> list[bytes]:
        """What is left: the document, or an element that was cut off."""
        return self._inner.finish() if self._inner is not None else []


def mended(document: bytes) -> bytes | None:
    """A document that was cut off, with what is incomplete left out and what is open closed; None where nothing can be
    made of it. A number is never half of one: what stands after the last comma or bracket is left out."""
    if len(document) > MOST_MENDED:
        return None
    closers: list[bytes] = []
    cut = 0
    for match in _TOKEN_OR_COMMA.finditer(document):
        token = document[match.start()]
        if token == _QUOTE:
            if not match[1]:
                break
            continue
        if token == _COMMA:
            cut = match.start()
            continue
        cut = match.end()
        if token in _OPENING:
            closers.append(_CLOSER[token])
        elif closers:
            closers.pop()
        if not closers:
            break
    return document[:cut] + b"".join(reversed(closers)) if cut else None
