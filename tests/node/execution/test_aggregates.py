"""Aggregates: small ones at once, large ones in the background, each once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event, get_ident

import pytest
import trio
from quorate.chain.errors import PendingError
from quorate.chain.ids import Address, Hash
from quorate.chain.task import (
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
    UpdateCodec,
    UpdateLayout,
)

from ledger.aggregates import (
    RESULT_BYTES_PER_BLOCK_MAX,
    RESULTS_PER_BLOCK_MAX,
    AggregateInputs,
    AggregateOutput,
    AggregateUpdate,
)
from node.execution.aggregates import (
    CACHED_BYTES_MAX,
    CACHED_MAX,
    INLINE_COST_MAX,
    JOBS_MAX,
    QUICK_COST_MAX,
    BackgroundAggregates,
)
from node.failures import describe_failure, find_failure
from store.errors import DiskFull
from store.memory_payloads import MemoryPayloadStore

HASH = Hash(b"\x01" * 32)


def make_inputs(number: int, *, is_large: bool = True) -> AggregateInputs:
    dimension = INLINE_COST_MAX + 1 if is_large else 10
    return AggregateInputs(
        task_id=Hash(number.to_bytes(32, "big")),
        training_round=0,
        rule=AggregationRule((Stage.MEAN,), 0),
        optimizer=ServerOptimizer(OptimizerName.SGD),
        tensors=(TensorSpec("w", (dimension,), 16, 12),),
        layout=UpdateLayout(UpdateCodec.DENSE_INT16, dimension),
        base_weights_root=HASH,
        optimizer_root=HASH,
        updates=(AggregateUpdate(Address(b"\x02" * 20), HASH, 1),),
        is_weighted=False,
        seed=b"",
    )


def make_output(weights: bytes = b"w") -> AggregateOutput:
    return AggregateOutput(weights, HASH, b"", HASH, (0,), (False,), (False,), 0, 0)


@dataclass
class Work:
    """A computation that counts its runs."""

    runs: int = 0
    missing: tuple[bytes, ...] = ()
    output: AggregateOutput = field(default_factory=make_output)

    def __call__(self) -> AggregateOutput:
        self.runs += 1
        if self.missing:
            raise PendingError("payloads are missing", self.missing)
        return self.output


class FreshWork(Work):
    """A computation whose results nobody holds."""

    def __call__(self) -> AggregateOutput:
        return replace(super().__call__())


async def wait_for(
    aggregates: BackgroundAggregates,
    inputs: AggregateInputs,
    compute: Callable[[], AggregateOutput],
) -> AggregateOutput:
    with trio.fail_after(5):
        while True:
            done = aggregates.done
            result = aggregates.get(inputs, compute)
            if result is not None:
                return result
            await done.wait()


async def wait_until_gone(aggregates: BackgroundAggregates, root: Hash) -> None:
    """Wait until nobody holds a result; the thread that computed it may do so for a moment."""
    with trio.fail_after(5):
        while root in aggregates.get_roots():  # noqa: ASYNC110 - nothing tells of it.
            await trio.sleep(0.005)


async def test_a_small_one_is_computed_at_once_and_remembered() -> None:
    aggregates, work = BackgroundAggregates(), Work()
    inputs = make_inputs(1, is_large=False)
    assert aggregates.get(inputs, work) is work.output
    assert aggregates.get(inputs, work) is work.output
    assert work.runs == 1


async def test_a_large_one_is_no_result_yet_and_then_one() -> None:
    aggregates, work = BackgroundAggregates(), Work()
    inputs = make_inputs(1)
    for _ in range(3):
        assert aggregates.get(inputs, work) is None
    assert work.runs == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        assert await wait_for(aggregates, inputs, work) is work.output
        nursery.cancel_scope.cancel()
    assert work.runs == 1


async def test_what_is_missing_is_told_and_tried_again() -> None:
    aggregates, work = BackgroundAggregates(), Work(missing=(HASH,))
    inputs = make_inputs(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        with pytest.raises(PendingError) as caught:
            await wait_for(aggregates, inputs, work)
        assert caught.value.missing_payloads == (HASH,)
        work.missing = ()
        assert await wait_for(aggregates, inputs, work) is work.output
        nursery.cancel_scope.cancel()
    assert work.runs == 2


async def test_a_small_one_that_lacks_something_is_not_remembered() -> None:
    aggregates, work = BackgroundAggregates(), Work(missing=(HASH,))
    inputs = make_inputs(1, is_large=False)
    with pytest.raises(PendingError):
        aggregates.get(inputs, work)
    work.missing = ()
    assert aggregates.get(inputs, work) is work.output


async def test_results_that_are_remembered_are_bounded_in_number() -> None:
    aggregates = BackgroundAggregates()
    works = [FreshWork() for _ in range(CACHED_MAX + 1)]
    for number, work in enumerate(works):
        aggregates.get(make_inputs(number, is_large=False), work)
    for number in (CACHED_MAX, 1, 0):
        aggregates.get(make_inputs(number, is_large=False), works[number])
    assert [works[number].runs for number in (CACHED_MAX, 1, 0)] == [1, 1, 2]


async def test_all_results_of_a_block_are_held_at_the_same_time() -> None:
    assert CACHED_MAX >= 3 * RESULTS_PER_BLOCK_MAX
    assert CACHED_BYTES_MAX >= 3 * RESULT_BYTES_PER_BLOCK_MAX
    aggregates = BackgroundAggregates()
    works = [Work() for _ in range(RESULTS_PER_BLOCK_MAX)]

    def judge() -> bool:
        # As the execution of a block does: in order, up to the first that is not there.
        return all(
            aggregates.get(make_inputs(number, is_large=True), work) is not None
            for number, work in enumerate(works)
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        with trio.fail_after(5):
            while not judge():
                await aggregates.done.wait()
        nursery.cancel_scope.cancel()
    assert [work.runs for work in works] == [1] * RESULTS_PER_BLOCK_MAX


async def test_results_that_are_remembered_are_bounded_in_bytes() -> None:
    aggregates = BackgroundAggregates()
    half = make_output(bytes(CACHED_BYTES_MAX // 2 + 1))
    works = [FreshWork(output=half), FreshWork(output=half)]
    for _ in range(2):
        for number, work in enumerate(works):
            aggregates.get(make_inputs(number, is_large=False), work)
            aggregates.get(make_inputs(number, is_large=False), work)
    assert [work.runs for work in works] == [2, 2]


async def test_one_task_s_long_computation_is_nobody_else_s() -> None:
    aggregates, work, is_over = BackgroundAggregates(), Work(), Event()
    layout = UpdateLayout(UpdateCodec.DENSE_INT16, QUICK_COST_MAX + 1)
    tensors = (TensorSpec("w", (QUICK_COST_MAX + 1,), 16, 12),)
    huge = replace(make_inputs(1), layout=layout, tensors=tensors)

    def compute_for_long() -> AggregateOutput:
        is_over.wait(10)
        return make_output()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        assert aggregates.get(huge, compute_for_long) is None
        await trio.sleep(0.05)
        assert await wait_for(aggregates, make_inputs(2), work) is work.output
        assert aggregates.get(huge, compute_for_long) is None
        is_over.set()
        assert (await wait_for(aggregates, huge, compute_for_long)).scores == (0,)
        nursery.cancel_scope.cancel()


async def test_jobs_that_wait_are_bounded_and_asked_for_again() -> None:
    aggregates = BackgroundAggregates()
    works = [Work() for _ in range(JOBS_MAX + 1)]
    for number, work in enumerate(works):
        assert aggregates.get(make_inputs(number), work) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        # The last one found no place; whoever needs it asks again and gets it.
        assert await wait_for(aggregates, make_inputs(JOBS_MAX), works[-1]) is works[-1].output
        nursery.cancel_scope.cancel()
    assert [work.runs for work in works] == [1] * (JOBS_MAX + 1)


async def test_a_result_is_stored_in_the_worker_before_anybody_sees_it() -> None:
    stored: list[bytes] = []
    threads: set[int] = set()

    def store(data: bytes) -> None:
        stored.append(data)
        threads.add(get_ident())

    aggregates = BackgroundAggregates(store)
    output = replace(make_output(b"weights"), optimizer_state=b"state")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        result = await wait_for(aggregates, make_inputs(1), lambda: output)
        assert result is output
        assert stored == [b"weights", b"state"]
        assert get_ident() not in threads
        await wait_for(aggregates, make_inputs(2), make_output)
        nursery.cancel_scope.cancel()
    # An empty state is no payload.
    assert stored == [b"weights", b"state", b"w"]


async def test_what_was_stored_is_told_and_known_for_as_long_as_a_block_may_bring_it() -> None:
    told: list[Hash] = []
    aggregates = BackgroundAggregates(lambda _: None, told.append)
    state = Hash(b"\x03" * 32)
    output = replace(make_output(), optimizer_state=b"state", optimizer_root=state)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        await wait_for(aggregates, make_inputs(1), FreshWork(output=output))
        assert told == [HASH, state]
        assert aggregates.get_roots() == {HASH, state}
        del output
        for number in range(CACHED_MAX):
            aggregates.get(make_inputs(2 + number, is_large=False), FreshWork())
        await wait_until_gone(aggregates, state)
        assert aggregates.get_roots() == {HASH}
        nursery.cancel_scope.cancel()
    # What was computed on the spot was not stored either.
    assert told == [HASH, state]


async def test_a_result_without_room_in_the_store_is_a_result_and_stops_no_node() -> None:
    told: list[Hash] = []
    state = Hash(b"\x03" * 32)
    payloads = MemoryPayloadStore(total_bytes_max=6)
    aggregates = BackgroundAggregates(payloads.put, told.append)
    output = replace(make_output(b"weights"), optimizer_state=b"state", optimizer_root=state)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregates.run)
        assert await wait_for(aggregates, make_inputs(1), lambda: output) is output
        nursery.cancel_scope.cancel()
    assert told == [state]


async def test_a_disk_that_fails_under_a_result_stops_the_node_with_its_sentence() -> None:
    def store(_: bytes | memoryview) -> None:
        raise DiskFull("The disk is full.")

    aggregates = BackgroundAggregates(store)
    assert aggregates.get(make_inputs(1), make_output) is None
    with pytest.raises(BaseExceptionGroup) as caught:
        with trio.fail_after(5):
            await aggregates.run()
    failure = find_failure(caught.value)
    assert isinstance(failure, DiskFull)
    assert describe_failure(failure) == "The disk is full."
