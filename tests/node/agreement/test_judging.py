"""The judge: it waits for what is missing, and for nothing that cannot be right."""

# The fixture `autojump_clock` works by being asked for.
# ruff: noqa: ARG001

import os
from collections.abc import Mapping
from typing import Any

import trio
from quorate.chain.block import PART_BYTES, split_block
from quorate.chain.ids import Hash, Height
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.vote import BlockId
from structlog.testing import capture_logs

from node.agreement.judging import Judge
from node.exchange.block_assembly import ASSEMBLIES_MAX, BlockAssembly
from node.execution.aggregates import BackgroundAggregates
from node.execution.executor import ExecutedBlock
from tests.node.cluster import make_genesis
from tests.node.execution.chain import ExecutionChain, Training


class Exchange:
    """Brings what it has when it is waited for."""

    def __init__(self, chain: ExecutionChain, *payloads: bytes) -> None:
        self.chain = chain
        self.coming = list(payloads)
        self.asked: list[tuple[Hash, ...]] = []

    async def wait_for(self, names: tuple[Hash, ...], sizes: Mapping[bytes, int]) -> None:
        assert set(sizes) <= set(names)
        self.asked.append(names)
        await trio.lowlevel.checkpoint()
        for payload in self.coming:
            self.chain.payloads.put(payload)


def make_judge(chain: ExecutionChain, *payloads: bytes) -> tuple[Judge, BlockAssembly, Exchange]:
    exchange: Any = Exchange(chain, *payloads)
    assembly = BlockAssembly()
    assembly.start_height(chain.executor.position.next_height)
    judge = Judge(chain.executor, assembly, exchange, BackgroundAggregates(), None)
    return judge, assembly, exchange


async def test_a_block_of_too_many_parts_is_not_waited_for() -> None:
    chain = ExecutionChain(make_genesis(parameters=ConsensusParameters(block_bytes_max=100_000)))
    judge, _, _ = make_judge(chain)
    with capture_logs() as logs, trio.fail_after(1):
        assert await judge.judge(BlockId(Hash(bytes(32)), 3, Hash(bytes(32)))) is None
    assert logs[0]["event"] == "invalid_proposal"
    assert "3 parts exceeds the limit of 100000 bytes" in logs[0]["reason"]


async def test_the_parts_are_waited_for_and_then_judged() -> None:
    chain = ExecutionChain(make_genesis())
    executed = await ExecutionChain(chain.genesis).build()
    judge, assembly, _ = make_judge(chain)
    found: list[ExecutedBlock | None] = []

    async def run() -> None:
        found.append(await judge.judge(executed.block_id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(0.01)
        assert found == []
        judge.notice(assembly.add_whole(executed.block_id, executed.raw))
    assert found[0] is not None
    assert found[0].block == executed.block


async def test_a_block_that_made_room_is_taken_up_again(autojump_clock: object) -> None:
    chain = ExecutionChain(make_genesis())
    executed = await ExecutionChain(chain.genesis).build()
    judge, assembly, _ = make_judge(chain)
    found: list[ExecutedBlock | None] = []

    async def run() -> None:
        found.append(await judge.judge(executed.block_id))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(0.01)
            for number in range(ASSEMBLIES_MAX):
                raw = os.urandom(PART_BYTES + number)
                root, parts = split_block(raw)
                assembly.expect(BlockId(Hash(bytes(32)), len(parts), root))
            assert assembly.get(executed.block_id.parts_root) is None
            judge.notice(assembly.add_whole(executed.block_id, executed.raw))
    assert found[0] is not None


async def test_missing_payloads_are_no_verdict_until_they_are_here() -> None:
    genesis = make_genesis()
    chain, other = ExecutionChain(genesis), ExecutionChain(genesis)
    training = Training(chain, 50, 2)
    await training.begin()
    for height in (1, 2):
        initial = chain.payloads.get(next(chain.payloads.iterate_hashes()))
        other.payloads.put(initial or b"")
        commit = chain.executor.position.commit
        assert commit is not None
        raw = chain.store.load_block(height)
        assert raw is not None
        await _adopt(chain, other, Height(height), raw)
    updates = [training.make_update(user, user) for user in range(2)]
    executed = await chain.build(*(entry for entry, _ in updates))
    judge, assembly, exchange = make_judge(other, *(payload for _, payload in updates))
    assembly.add_whole(executed.block_id, executed.raw)
    judged = await judge.judge(executed.block_id)
    assert judged is not None
    assert judged.result.model_root == executed.result.model_root
    assert [len(names) for names in exchange.asked] == [2]


async def _adopt(chain: ExecutionChain, other: ExecutionChain, height: Height, raw: bytes) -> None:
    position = other.executor.position
    assert position.next_height == height
    root, parts = split_block(raw)
    block_hash = chain.store.load_block_hash(height)
    assert block_hash is not None
    block_id = BlockId(Hash(block_hash), len(parts), root)
    await other.executor.judge(block_id, raw)
    other.executor.commit(other.sign_commit(block_id))
