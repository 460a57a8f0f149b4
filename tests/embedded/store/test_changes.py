"""Who may change the catalog at a time."""

import asyncio
import contextlib

from metergate.embedded.store.changes import Changes


class Visit:
    """Somebody who holds ``changes`` until told to ``leave``."""

    def __init__(self, holding):
        self.inside = asyncio.Event()
        self.leave = asyncio.Event()
        self._holding = holding
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        async with self._holding:
            self.inside.set()
            await self.leave.wait()

    async def end(self):
        self.leave.set()
        await self.task


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def inside(*visits):
    await settle()
    return [visit.inside.is_set() for visit in visits]


def test_those_who_change_different_things_do_so_beside_each_other():
    async def run():
        changes = Changes()
        one, other, same = Visit(changes.of("ab")), Visit(changes.of("c")), Visit(changes.of("bd"))
        assert await inside(one, other, same) == [True, True, False]
        await one.end()
        assert await inside(same) == [True]
        await other.end()
        await same.end()

    asyncio.run(run())


def test_who_changes_everything_is_alone():
    async def run():
        changes = Changes()
        first, everything, last = Visit(changes.of("a")), Visit(changes), Visit(changes.of("b"))
        assert await inside(first, everything, last) == [True, False, False], "nobody overtakes"
        await first.end()
        assert await inside(everything, last) == [True, False]
        await everything.end()
        assert await inside(last) == [True]
        await last.end()

    asyncio.run(run())


def test_who_leaves_while_waiting_or_when_it_is_just_his_turn_holds_up_nobody():
    async def run():
        changes = Changes()
        first, impatient, next_one = Visit(changes.of("a")), Visit(changes), Visit(changes.of("b"))
        await settle()
        impatient.task.cancel()
        assert await inside(next_one) == [True]
        waiting, behind = Visit(changes.of("a")), Visit(changes.of("a"))
        await settle()
        first.leave.set()
        await first.inside.wait()
        await asyncio.sleep(0)  # the first has gone by now and has let the next one in, who does not know yet
        waiting.task.cancel()
        assert await inside(behind) == [True]
        await behind.end()
        await next_one.end()
        for task in (impatient.task, waiting.task):
            with contextlib.suppress(asyncio.CancelledError):
                await task
        async with asyncio.timeout(5), changes:
            pass

    asyncio.run(run())
