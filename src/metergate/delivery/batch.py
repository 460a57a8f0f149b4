"""From the lines of a segment to the body of a request, without looking into them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may hold. A single event larger than ``body_bytes`` goes out alone."""

    events: int = 500
    body_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole lines from the start of a chunk.

    ``body`` is the JSON array to send, ``size`` the bytes that the lines take up in the segment. A batch that is not
    ``sound`` is one line that cannot be an event (a disk lost a page of it): it is set aside, not sent.
    """

    body: bytes
    events: int
    size: int
    sound: bool = True

    @property
    def line(self) -> bytes:
        """The first line's bytes, without its newline; of a batch of one, that event."""
        return self.body[1:-1]


def plan_batch(chunk: bytes, limits: Limits) -> Batch | None:
    """The next batch from ``chunk``, which starts at a line's beginning and may end amid a line.

    None where there is not one whole line. A line is taken for an event if it starts with ``{`` and ends with ``}``;
    whether it is a good one is OpenMeter's to say.
    """
    whole = chunk[: _whole_lines(chunk, limits.body_bytes)]
    lines = whole.split(b"\n", limits.events)
    size = len(whole) - len(lines.pop())
    if not size:
        return None
    sound = _leading_sound(lines, whole[:size])
    if not sound:
        return Batch(b"[%b]" % lines[0], 1, len(lines[0]) + 1, sound=False)
    if sound < len(lines):
        lines = lines[:sound]
        size = sum(map(len, lines)) + sound
    return Batch(b"[%b]" % b",".join(lines), len(lines), size)


def is_sound(line: bytes) -> bool:
    """Whether the line, without its newline, can be an event: a disk may have lost a page of it."""
    return line.startswith(b"{") and line.endswith(b"}")


def split(events: int) -> tuple[int, int]:
    """The halves that a refused batch of two or more events is sent again in, in order."""
    return events - events // 2, events // 2


def _whole_lines(chunk: bytes, most: int) -> int:
    """Bytes of the whole lines among the first ``most`` bytes, but of one line at least, if the chunk has it."""
    if len(chunk) <= most:
        return len(chunk)
    return chunk.rfind(b"\n", 0, most) + 1 or chunk.find(b"\n") + 1


def _leading_sound(lines: list[bytes], span: bytes) -> int:
    """How many lines from the first on look like a JSON object. One search over all of them, in the usual case."""
    if span.startswith(b"{") and span.endswith(b"}\n") and span.count(b"}\n{") == len(lines) - 1:
        return len(lines)
    for number, line in enumerate(lines):
        if not is_sound(line):
            return number
    return len(lines)
