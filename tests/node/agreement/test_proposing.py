"""The proposer: what goes into a block, in which order, and what never does."""

from typing import Any

from quorate.chain.codec import encode
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.transaction import FinalizeTrainingRound, Transfer, decode_transaction

from node.agreement.evidence_pool import EvidencePool
from node.agreement.judging import Judge
from node.agreement.proposing import Proposer
from node.config import MempoolSection
from node.exchange.block_assembly import BlockAssembly
from node.execution.admission import LedgerDoor
from node.execution.aggregates import BackgroundAggregates
from node.execution.frozen_rounds import FrozenRounds
from node.mempool.mempool import Mempool
from tests.node.cluster import USERS, make_genesis
from tests.node.execution.chain import VALIDATORS, ExecutionChain, Training
from tests.node.execution.test_evidence import make_evidence


class World:
    """A proposer over an execution chain, with a mempool of its own."""

    def __init__(self, chain: ExecutionChain, transactions_max: int = 1000) -> None:
        self.chain = chain
        self.now_ms = chain.next_time_ms
        self.evidence = EvidencePool()
        self.mempool = Mempool(
            MempoolSection(),
            chain.genesis.chain_id,
            LedgerDoor(chain.executor, chain.store, chain.payloads, lambda: self.now_ms),
            None,
            lambda: 0.0,
        )
        seam: Any = None  # Nothing is pending here that would have to be pulled.
        judge = Judge(chain.executor, BlockAssembly(), seam, BackgroundAggregates(), None)
        self.clock_s = 0.0
        self.frozen_rounds = FrozenRounds(
            chain.executor, chain.aggregates, chain.payloads, lambda: self.clock_s
        )
        address = chain.executor.position.validators.proposer.address
        self.key: PrivateKey = next(key for key in VALIDATORS if key.address == address)
        self.proposer = Proposer(
            self.key,
            chain.executor,
            self.mempool,
            self.evidence,
            judge,
            self.frozen_rounds,
            transactions_max,
            lambda: self.now_ms,
        )

    async def submit(self, user: int, count: int) -> None:
        for _ in range(count):
            entry = self.chain.make_entry(user, Transfer(USERS[7].address, 1))
            await self.mempool.submit_local(entry[1], None)


async def test_pending_transactions_enter_in_order_up_to_the_limit() -> None:
    chain = ExecutionChain(make_genesis())
    world = World(chain, transactions_max=5)
    await world.submit(0, 4)
    await world.submit(1, 4)
    executed = await world.proposer.make_block()
    assert executed.transaction_hashes == tuple(
        entry.hash for entry in world.mempool.reap(10**6, 5)
    )
    assert len(executed.transaction_hashes) == 5
    other = ExecutionChain(chain.genesis)
    await other.executor.judge(executed.block_id, executed.raw)


async def test_results_of_frozen_rounds_come_first_and_count_towards_the_limit() -> None:
    chain = ExecutionChain(
        make_genesis(parameters=ConsensusParameters(aggregation_cost_block_max=0))
    )
    training = Training(chain, 50, 2)
    await training.begin()
    await chain.decide(*(training.make_update(user, user)[0] for user in range(2)))
    world = World(chain, transactions_max=3)
    await world.submit(4, 5)
    executed = await world.proposer.make_block()
    assert len(executed.transaction_hashes) == 3
    assert [receipt.outcome for receipt in executed.result.receipts.rounds] == [
        RoundOutcome.FINALIZED
    ]
    bodies = [decode_transaction(raw).transaction.body for raw in executed.block.transactions]
    assert [isinstance(body, FinalizeTrainingRound) for body in bodies] == [True, False, False]


async def test_evidence_enters_once_its_height_is_decided() -> None:
    chain = ExecutionChain(make_genesis())
    await chain.decide()
    world = World(chain)
    now, later = make_evidence(1), make_evidence(2)
    for evidence in (now, later):
        assert world.evidence.add(evidence)
    executed = await world.proposer.make_block()
    assert executed.evidence == (now,)
    assert len(world.evidence) == 2  # What is not decided yet waits.
    chain.commit(executed)
    world.evidence.remove(executed.evidence)
    world.now_ms = chain.next_time_ms
    assert (await world.proposer.make_block()).evidence == (later,)


async def test_evidence_that_no_block_may_hold_is_dropped_and_stops_no_proposer() -> None:
    chain = ExecutionChain(make_genesis())
    await chain.decide()
    await chain.decide()
    recorded = make_evidence(1)
    await chain.decide(evidence=(recorded,))
    world = World(chain)
    # After a restart the pool has forgotten what was decided, and a peer says it again.
    world.evidence.add(make_evidence(1, numbers=(2, 3)))
    world.evidence.add(make_evidence(2))
    executed = await world.proposer.make_block()
    assert executed.evidence == (make_evidence(2),)
    assert len(world.evidence) == 1


async def test_evidence_takes_no_more_than_its_share_of_a_block() -> None:
    chain = ExecutionChain(make_genesis(parameters=ConsensusParameters(block_bytes_max=16_384)))
    await chain.decide()
    world = World(chain)
    pieces = [make_evidence(1, round_=round_) for round_ in range(20)]
    for piece in pieces:
        world.evidence.add(piece)
    executed = await world.proposer.make_block()
    share = 16_384 // 8
    assert 0 < len(executed.evidence) == share // len(encode(pieces[0]))
