"""What a block that was voted for needs is still there after a restart."""

from quorate.chain.ids import Height
from quorate.chain.transaction import Transfer

from consensus.inputs import StartHeight
from node.agreement.height_log import HeightLog
from node.agreement.logged_payloads import find_logged_payloads
from store.write_ahead_log import MemoryWriteAheadLog
from tests.node.cluster import USERS, make_genesis
from tests.node.execution.chain import ExecutionChain, Training


async def test_the_payloads_of_logged_blocks_are_named() -> None:
    chain = ExecutionChain(make_genesis())
    training = Training(chain, 50, 3)
    await training.begin()
    height = chain.executor.position.height
    log = HeightLog(MemoryWriteAheadLog())
    log.read(height)
    assert find_logged_payloads(log, height) == frozenset()
    validators = chain.executor.position.validators.validators
    log.append_input(StartHeight(Height(height + 1), validators, 0, 500, 15_000))
    updates = [training.make_update(user, user)[0] for user in (1, 2)]
    executed = await chain.build(chain.make_entry(5, Transfer(USERS[6].address, 1)), *updates)
    log.append_block(executed.block_id, executed.raw)
    named = find_logged_payloads(log, height)
    assert named == {
        entry[2].transaction.body.payload_hash  # type: ignore[union-attr]
        for entry in updates
    }
    assert len(named) == 2
