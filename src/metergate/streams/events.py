"""Server-sent events, read along the way: the data of each event as soon as its last byte has passed.

The rules are those of the WHATWG's HTML standard: lines end with LF, CR or CRLF, a byte order mark may come
first, lines that begin with a colon are comments, the data of several lines is joined by LF, a blank line ends
an event. One rule is wider: a stream that ends without the blank line has its last event read all the same,
because the usage that is billed is in it.
"""

from __future__ import annotations

from typing import final

MOST_EVENT = 10 * 1024 * 1024
"""So many bytes of one event are held while it arrives."""

_BOM = b"\xef\xbb\xbf"
_LF = 10
_CR = 13


@final
class Events:
    """Splits a stream of events into their data. Name, id and retry of an event are not kept.

    ``skipped`` counts the events of more than ``most`` bytes: nothing of them is held once that is known, and
    reading goes on with the next.
    """

    __slots__ = ("_after_cr", "_begun", "_data", "_line", "_size", "_skipping", "most", "skipped")

    def __init__(self, most: int = MOST_EVENT) -> None:
        self.most = most
        self.skipped = 0
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False
        self._after_cr = False
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk. However a stream is cut, they are the same."""
        if not chunk:
            return []
        if self._after_cr:
            self._after_cr = False
            if chunk[0] == _LF:  # the second half of a CRLF whose first half has ended the line
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk[-1] == _CR
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        events = self._read(lines)
        if rest:
            self._hold(rest)
        return events

    def finish(self) -> list[bytes]:
        """The data of an event that nothing but the end of the stream has ended."""
        return self.feed(b"\n\n")

    def _read(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                self._size = 0
                self._skipping = False
            elif line.startswith(b"data") and not self._skipping:
                if line.startswith(b"data: "):
                    data.append(line[6:])
                elif line.startswith(b"data:"):
                    data.append(line[5:])
                elif line == b"data":
                    data.append(b"")
                self._size += len(line)
                if self._size > self.most:
                    self._skip()
        return events

    def _hold(self, rest: bytes) -> None:
        """Keep what is there of a line whose end has not come."""
        if not self._skipping:
            self._line += rest
            if self._size + len(self._line) > self.most:
                self._skip()
        if self._skipping:
            self._line[:] = b":"  # a comment: what matters is only that the line is not blank

    def _skip(self) -> None:
        """Let go of the event that has grown too large, up to the blank line that ends it."""
        self.skipped += 1
        self._skipping = True
        self._data.clear()
