"""Bodies that stream, as iterators of a framework (Django's): each settles its request as it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from metergate.engine import Metering
from metergate.middleware.current import current


class Settled(Protocol):
    """What is settled when a body has ended: `metergate.middleware.exchange.Exchange`."""

    metering: Metering

    def settle(self, status: int) -> None: ...

    async def settle_async(self, status: int) -> None: ...


class Body:
    """A body that streams, and settles its request as it ends: by itself, by a fault, or because its client has left."""

    def __init__(self, chunks: Iterator[bytes], exchange: Settled, status: int) -> None:
        self._chunks = chunks
        self._exchange = exchange
        self._status = status

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        remembered = current.set(self._exchange.metering)
        try:
            return next(self._chunks)
        except BaseException:  # also its end
            self.close()
            raise
        finally:
            current.reset(remembered)

    def close(self) -> None:
        """The server is done with it."""
        self._exchange.settle(self._status)


class AsyncBody:
    """As `Body`, on the event loop."""

    def __init__(self, chunks: AsyncIterator[bytes], exchange: Settled, status: int) -> None:
        self._chunks = chunks
        self._exchange = exchange
        self._status = status

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        remembered = current.set(self._exchange.metering)
        try:
            return await anext(self._chunks)
        except BaseException:  # also its end
            await self._exchange.settle_async(self._status)
            raise
        finally:
            current.reset(remembered)

    def close(self) -> None:
        """The server is done with it; this comes on a thread."""
        self._exchange.settle(self._status)
