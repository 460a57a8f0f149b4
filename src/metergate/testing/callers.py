"""Callers of an API that remember what they saw: which answers arrived whole, and which are in doubt.

The client's side of the promise that a complete answer has been metered: put callers on a gateway, let bad things
happen to it, and compare `Ledger.complete` with what OpenMeter holds.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from metergate.testing.load import encode_request
from metergate.testing.responses import Answer, BadResponse, ResponseReader

_RECONNECT_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request. ``weight`` is how often it comes relative to others; ``status`` what it should answer."""

    path: str
    method: str = "GET"
    body: bytes = b""
    weight: float = 1.0
    status: int = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer that arrived whole, to the last byte of its body."""

    request_id: str
    call: Call
    status: int


@dataclass(slots=True)
class Ledger:
    """What the callers did and saw, by the number of the request, which went along as query parameter ``tag``."""

    sent: int = 0
    complete: dict[int, Seen] = field(default_factory=dict)
    in_doubt: set[int] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)

    def unexpected(self) -> Counter[tuple[str, int]]:
        """Complete answers with another status than their call should have, by path and status."""
        wrong = (seen for seen in self.complete.values() if seen.status != seen.call.status)
        return Counter((seen.call.path, seen.status) for seen in wrong)


class Callers:
    """``concurrency`` callers on ``url``, each with one connection and one request at a time.

    Args:
        calls: what they ask for, drawn by weight.
        headers: go with every request.
        pause: seconds a caller waits after an answer, at most (drawn evenly); 0 for none.
        patience: seconds until an answer that is not whole is given up, in doubt.
        seed: makes the drawing repeatable.
    """

    def __init__(
        self,
        url: str,
        calls: Sequence[Call],
        *,
        headers: Mapping[str, str] | None = None,
        concurrency: int = 32,
        pause: float = 0.0,
        patience: float = 20.0,
        seed: int | None = None,
    ) -> None:
        self.ledger = Ledger()
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._url = url
        self._calls = calls
        self._weights = [call.weight for call in calls]
        self._headers = headers or {}
        self._concurrency = concurrency
        self._pause = pause
        self._patience = patience
        self._random = random.Random(seed)  # noqa: S311  # chance, not secrecy

    async def run(self, until: asyncio.Event) -> Ledger:
        """Call until ``until`` is set; what is under way then is waited for."""
        await asyncio.gather(*(self._call_on(until) for _ in range(self._concurrency)))
        return self.ledger

    async def _call_on(self, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                reader, writer = await asyncio.open_connection(*self._address)
            except OSError:
                self.ledger.failures["refused"] += 1
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            try:
                await self._use(reader, writer, until)
            finally:
                writer.transport.abort()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _use(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: asyncio.Event
    ) -> None:
        """Call over one connection until it fails."""
        responses = ResponseReader()
        while not until.is_set():
            tag = self.ledger.sent
            self.ledger.sent += 1
            self.ledger.in_doubt.add(tag)
            call = self._random.choices(self._calls, self._weights)[0]
            try:
                writer.write(self._encode(call, tag))
                async with asyncio.timeout(self._patience):
                    answer = await _whole_answer(reader, responses)
            except (OSError, BadResponse, TimeoutError) as failure:
                self.ledger.failures[type(failure).__name__] += 1
                return
            if answer is None:
                self.ledger.failures["cut"] += 1
                return
            self._saw(tag, call, answer)
            if self._pause:
                await asyncio.sleep(self._random.uniform(0, self._pause))

    def _encode(self, call: Call, tag: int) -> bytes:
        mark = "&" if "?" in call.path else "?"
        return encode_request(f"{self._url}{call.path}{mark}tag={tag}", call.method, self._headers, call.body)

    def _saw(self, tag: int, call: Call, answer: Answer) -> None:
        self.ledger.in_doubt.discard(tag)
        self.ledger.complete[tag] = Seen(answer.header("zp-rid") or "", call, answer.status)


async def _whole_answer(reader: asyncio.StreamReader, responses: ResponseReader) -> Answer | None:
    """The next answer, when its last byte is here; None when the connection ended before."""
    while data := await reader.read(65_536):
        if answers := responses.feed(data):
            return answers[0]
    return responses.at_end()
