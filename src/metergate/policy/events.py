"""Events: what a metered request is worth, as the bytes that travel. Encoded once, here, and never parsed on
the way.

An event is a CloudEvent in compact JSON on one line. Everything of a configured meter's event is constant but
for request id, number, time and subject, so the rest is encoded when the policy is read, and an event is a
few pieces joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from metergate.errors import UsageError
from metergate.policy.data import copied, encoded
from metergate.policy.instant import format_instant
from metergate.policy.meters import merge
from metergate.policy.model import Meter, Policy
from metergate.policy.traffic import NOTHING_SEEN, CountsNowhere, NotFilled, Seen, filled, never

NO_SUBJECT = "no_subject"
INVALID_DATA = "invalid_data"

_START = b'{"specversion":"1.0","id":"'
_TIME = b'","time":"'
_SOURCE = b'","source":'
_SUBJECT = b',"subject":'
_TYPE = b',"type":'
_DATA = b',"data":'

_encode = msgspec.json.Encoder().encode


class Drop(msgspec.Struct, frozen=True):
    """An event that could not be made. ``reason`` is ``no_subject``, ``invalid_data``, ``no_usage`` or
    ``missing_value``, ``message`` is for an operator."""

    reason: str
    type: str
    message: str


class RecordedEvent(msgspec.Struct, frozen=True):
    """What is counted locally of an event. ``data`` is the meter's own: read it, do not change it."""

    type: str
    subject: str
    data: Mapping[str, Any] | None


class Recording(msgspec.Struct, frozen=True):
    """A request's events. ``lines`` holds ``count`` of them, each one line of compact JSON ended by a
    newline."""

    lines: bytes
    count: int
    dropped: tuple[Drop, ...]
    events: tuple[RecordedEvent, ...]


NOTHING = Recording(b"", 0, (), ())


class _Pieces(msgspec.Struct, frozen=True):
    """What is constant of a configured meter's event: between go request id, number, time and subject.

    ``first`` is what stands between request id and time where no number does.
    """

    name: bytes
    first: bytes
    source: bytes
    end: bytes


class EventEncoder:
    """Makes the events of one policy. Nothing of a request is kept in it; threads may share it."""

    __slots__ = ("_configured", "_only", "_pieces", "_source", "_varies")

    def __init__(self, policy: Policy) -> None:
        """Raises UsageError where a meter of a policy made by hand has data that is not JSON."""
        self._source = _encode(policy.event_source)
        self._configured = policy.meters
        constant = [meter for meter in policy.meters if meter.traffic is None]
        self._pieces = {id(meter): self._prepare(meter) for meter in constant}
        self._varies = len(constant) < len(policy.meters)
        alone = len(policy.meters) == 1 and not policy.meters[0].subject and not self._varies
        self._only = policy.meters[0] if alone else None

    def record(
        self,
        request_id: str,
        subject: str | None,
        time_ms: int,
        runtime: tuple[Meter, ...] | None,
        sequence: dict[str, int],
        seen: Seen = NOTHING_SEEN,
        counts_nowhere: CountsNowhere = never,
    ) -> Recording:
        """The events of one request that is metered ``time_ms`` milliseconds after 1970.

        ``runtime`` is what `runtime_meters` made of the meters that the request set. ``sequence`` is empty
        for a new request and shared by all policies that meter it: it counts meters by type, for the ``-2``,
        ``-3`` of further ones. ``seen`` and ``counts_nowhere`` are for meters that take something from the
        traffic; see `metergate.policy.traffic`. Never raises: an event that cannot be made is in ``dropped``,
        for its caller to log and count.
        """
        if self._only is not None and not runtime and not sequence and (who := _subject_json(subject)):
            return self._usual(self._only, request_id, subject or "", who, time_ms, sequence)
        meters: Iterable[Meter] = merge(self._configured, runtime)
        if not meters:
            return NOTHING
        start = _START + _encode(request_id)[1:-1] + b"-"
        time = format_instant(time_ms)
        subject_json = _subject_json(subject)
        lines: list[bytes] = []
        events: list[RecordedEvent] = []
        dropped: list[Drop] = []
        if self._varies:
            meters = _filled(meters, seen, counts_nowhere, dropped)
        for meter in meters:
            own = meter.subject
            number = _number(meter.type, sequence)
            who = _subject_json(own) if own else subject_json
            if who is None:
                dropped.append(_drop(NO_SUBJECT, meter, "there is no subject to count it for"))
                continue
            try:
                lines.append(self._line(meter, start, number, time, who))
            except ValueError as reason:
                dropped.append(_drop(INVALID_DATA, meter, str(reason)))
                continue
            events.append(RecordedEvent(meter.type, own or subject or "", meter.data))
        return Recording(b"".join(lines), len(lines), tuple(dropped), tuple(events))

    def _usual(
        self, meter: Meter, request_id: str, subject: str, who: bytes, time_ms: int, sequence: dict[str, int]
    ) -> Recording:
        """One configured meter, and nothing of the request's own: on the way of nearly every request."""
        sequence[meter.type] = 1
        pieces = self._pieces[id(meter)]
        lines = b"".join(
            (
                _START,
                _encode(request_id)[1:-1],
                pieces.first,
                format_instant(time_ms),
                pieces.source,
                who,
                pieces.end,
            )
        )
        return Recording(lines, 1, (), (RecordedEvent(meter.type, subject, meter.data),))

    def _line(self, meter: Meter, start: bytes, number: bytes, time: bytes, who: bytes) -> bytes:
        """One event. Raises ValueError where JSON cannot hold a run-time meter's data."""
        pieces = self._pieces.get(id(meter))
        if pieces is not None:
            return b"".join((start, pieces.name, number, _TIME, time, pieces.source, who, pieces.end))
        name = _encode(meter.type)
        return b"".join(
            (
                _START + _encode(meter.id)[1:-1] if meter.id else start + name[1:-1] + number,
                _TIME,
                meter.time.encode() if meter.time else time,
                _SOURCE,
                _encode(meter.source) if meter.source else self._source,
                _SUBJECT,
                who,
                _TYPE,
                name,
                b"}\n" if meter.data is None else _DATA + encoded(meter.data) + b"}\n",
            )
        )

    def _prepare(self, meter: Meter) -> _Pieces:
        """A configured meter's pieces. Its id and time are not read: a constant one would spoil every later
        event."""
        name = _encode(meter.type)
        source = _encode(meter.source) if meter.source else self._source
        try:
            data = b"" if meter.data is None else _DATA + encoded(copied(meter.data))
        except ValueError as reason:
            raise UsageError(f'The meter "{meter.type}": {reason}.') from None
        first = b"-" + name[1:-1] + _TIME
        return _Pieces(name[1:-1], first, _SOURCE + source + _SUBJECT, _TYPE + name + data + b"}\n")


def _filled(
    meters: Iterable[Meter], seen: Seen, counts_nowhere: CountsNowhere, dropped: list[Drop]
) -> list[Meter]:
    """The meters with the data of this request; what cannot be filled is added to ``dropped``."""
    ready: list[Meter] = []
    for meter in meters:
        if meter.traffic is None:
            ready.append(meter)
            continue
        try:
            ready += filled(meter, meter.traffic, seen, counts_nowhere)
        except NotFilled as lack:
            dropped.append(_drop(lack.reason, meter, str(lack)))
    return ready


def _subject_json(subject: str | None) -> bytes | None:
    """A subject in JSON; None where there is none, or none that UTF-8 can carry."""
    try:
        return _encode(subject) if subject else None
    except UnicodeEncodeError:
        return None


def _number(name: str, sequence: dict[str, int]) -> bytes:
    """The end of the id of a meter of type ``name``: nothing for the request's first, then ``-2``, ``-3``.

    A number that would make the id that of another type (``call`` for the second time beside a type
    ``call-2``) is skipped, because OpenMeter would take one of the two for a duplicate.
    """
    count = sequence.get(name)
    if count is None:
        sequence[name] = 1
        return b""
    count += 1
    while f"{name}-{count}" in sequence:
        count += 1
    sequence[name] = count
    sequence[f"{name}-{count}"] = 1
    return b"-%d" % count


def _drop(reason: str, meter: Meter, why: str) -> Drop:
    return Drop(reason, meter.type, f'The event of the meter "{meter.type}" was dropped: {why}.')
