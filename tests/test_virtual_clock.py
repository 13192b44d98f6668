"""The virtual clock of the tests: it jumps to what is due next, and never past a thread."""

import time

import trio


async def test_virtual_time_stands_still_while_a_thread_works(autojump_clock: object) -> None:
    del autojump_clock
    began, ticks = trio.current_time(), [0]

    async def tick() -> None:
        while True:
            await trio.sleep(1)
            ticks[0] += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        with trio.fail_after(0.5):
            await trio.to_thread.run_sync(time.sleep, 0.05)
        assert (trio.current_time(), ticks) == (began, [0])
        await trio.sleep(10.5)
        assert (trio.current_time(), ticks) == (began + 10.5, [10])
        nursery.cancel_scope.cancel()
