"""A look along at a response's body while it passes: for its tokens, for its named members, for both.

The host sends every chunk on as it is and shows it here. Nothing here waits, changes a chunk, raises, or holds more
than its bounds; what could not be read is counted by reason in the `Reading`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, final

import msgspec

from metergate.streams.documents import MOST_DOCUMENT, Body, mended
from metergate.streams.encodings import Decompression, Unreadable
from metergate.streams.events import MOST_EVENT, Events
from metergate.streams.members import Members, Path
from metergate.streams.tokens import Tokens
from metergate.streams.usage import Usage

_log = logging.getLogger("metergate.streams")
_DONE = b"[DONE]"

NOT_READ = ("content_type", "encoding", "corrupt", "expands", "too_large", "not_understood", "failed")
"""Why a body, or a part of it, was not read: its type is neither JSON nor events; it is compressed in a way that cannot
be read here, or wrongly, or suspiciously well; an event or document is over its bound, or not the JSON that it should
be; or reading it failed by a fault of ours."""


class Reading(msgspec.Struct, frozen=True):
    """What a body had. ``not_read`` counts what could not be read, by the reasons of `NOT_READ`."""

    usage: Usage | None = None
    members: Mapping[Path, Any] = {}
    not_read: Mapping[str, int] = {}


class _Splitter(Protocol):
    @property
    def skipped(self) -> int: ...

    def feed(self, chunk: bytes) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


@final
class Watch:
    """Looks along at one body. ``content_type`` and ``content_encoding`` are the response's headers, empty where there
    is none; without a type a body is taken for JSON.

    Of a stream of events, or of an array, a member is what the last document says that has it. ``most_event`` and
    ``most_document`` bound, in bytes, what is held of one event, and of one JSON body or element.
    """

    __slots__ = (
        "_decompression",
        "_members",
        "_not_read",
        "_reading",
        "_splitter",
        "_stopped",
        "_tokens",
        "_values",
    )

    def __init__(
        self,
        content_type: str,
        content_encoding: str = "",
        *,
        tokens: Tokens | None = None,
        members: Members | None = None,
        most_event: int = MOST_EVENT,
        most_document: int = MOST_DOCUMENT,
    ) -> None:
        self._tokens = tokens
        self._members = members
        self._values: dict[Path, Any] = {}
        self._not_read: Counter[str] = Counter()
        self._reading: Reading | None = None
        self._stopped = False
        self._decompression: Decompression | None = None
        self._splitter: _Splitter = Events(most_event) if _is_events(content_type) else Body(most_document)
        encoding = content_encoding.strip().lower()
        try:
            if encoding not in ("", "identity"):
                self._decompression = Decompression(encoding)
        except Unreadable as unreadable:
            self._stop(unreadable.reason)
        if not _is_events(content_type) and not _is_json(content_type):
            self._stop("content_type")

    def feed(self, chunk: bytes) -> None:
        """Look at the next chunk of the body, as it travels. Never raises."""
        if self._stopped:
            return
        try:
            if self._decompression is None:
                documents = self._splitter.feed(chunk)
                if documents:
                    self._read(documents)
            else:
                for piece in self._decompression.feed(chunk):
                    self._read(self._splitter.feed(piece))
        except Unreadable as unreadable:
            self._stop(unreadable.reason)
        except Exception as failure:  # noqa: BLE001  # the host's response goes on, whatever this is
            self._fail(failure)

    def finish(self, *, whole: bool = True) -> Reading:
        """What the body had, once it has ended. ``whole``: it came to its own end; False where client or upstream broke
        off. Never raises; a later call answers the same."""
        if self._reading is None:
            try:
                whole = self._read_rest(whole=whole and not self._stopped)
            except Exception as failure:  # noqa: BLE001  # as above
                self._fail(failure)
            if self._splitter.skipped:
                self._not_read["too_large"] += self._splitter.skipped
            usage = self._tokens.finish(whole=whole) if self._tokens is not None else None
            self._reading = Reading(usage, self._values, dict(self._not_read))
        return self._reading

    def _read(self, documents: Iterable[bytes]) -> None:
        for document in documents:
            if not self._look(document):
                self._not_read["not_understood"] += 1

    def _look(self, document: bytes, *, cut: bool = False) -> bool:
        """Read one document; whether it was understood. ``cut`` as in `Tokens.read`."""
        understood = True
        if self._tokens is not None and document:
            try:
                self._tokens.read(document, cut=cut)
            except (ValueError, RecursionError):
                understood = False
        if self._members is not None and document and document != _DONE:
            try:
                self._values.update(self._members.read(document))
            except (ValueError, RecursionError):
                understood = False
        return understood

    def _read_rest(self, *, whole: bool) -> bool:
        """Read what nothing but the end of the body has ended. Answers whether the body was whole."""
        for document in self._splitter.finish():
            if self._look(document):
                continue
            if whole:
                self._not_read["not_understood"] += 1
                whole = False
            as_seen = mended(document)
            if as_seen is not None:
                self._look(as_seen, cut=True)
        return whole

    def _stop(self, reason: str) -> None:
        """Look no further; what was seen stands."""
        self._stopped = True
        self._not_read[reason] += 1

    def _fail(self, failure: Exception) -> None:
        """Without the failure's text, which may be the response's."""
        _log.error("looking along at a response failed with %s; the response goes on", type(failure).__name__)
        self._stop("failed")


def _is_events(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("", "application/json") or kind.endswith("+json")
