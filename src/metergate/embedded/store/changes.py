"""Who may change the catalog at a time: whoever changes all of it alone, others beside each other as long as they
change different things. So many customers are made with one commit, and what was checked stays true until written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import TypeAlias

_Names: TypeAlias = frozenset[str] | None


class Changes:
    """Nobody overtakes: who comes later waits behind who waits already. For one event loop."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._holders = 0
        self._alone = False
        self._waiting: deque[tuple[_Names, asyncio.Future[None]]] = deque()

    async def __aenter__(self) -> None:
        """Nobody else changes anything meanwhile."""
        await self._take(None)

    async def __aexit__(self, *_: object) -> None:
        self._give_back(None)

    @contextlib.asynccontextmanager
    async def of(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Nobody else changes what has one of these names (keys, subjects, ids), nor all of it."""
        held = frozenset(names)
        await self._take(held)
        try:
            yield
        finally:
            self._give_back(held)

    async def _take(self, names: _Names) -> None:
        if not self._waiting and self._is_free(names):
            self._hold(names)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((names, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was our turn already
                self._give_back(names)
            else:
                self._let_in()
            raise

    def _is_free(self, names: _Names) -> bool:
        if names is None:
            return not self._holders
        return not self._alone and self._held.isdisjoint(names)

    def _hold(self, names: _Names) -> None:
        self._holders += 1
        self._alone = names is None
        self._held.update(names or ())

    def _give_back(self, names: _Names) -> None:
        self._holders -= 1
        self._alone = False
        self._held.difference_update(names or ())
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._is_free(self._waiting[0][0])):
            names, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._hold(names)
                turn.set_result(None)
