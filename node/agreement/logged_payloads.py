"""Payloads that the unfinished height depends on: those of blocks that were voted for.

Owns the look into the log's blocks. Never keeps or drops a payload.

Most of a block's payloads came from peers, whose transactions are in no journal of this node. If
a quorum has voted for the block and all come back at once, it must not be that each has swept away
what the block needs.
"""

from quorate.chain.block import Block
from quorate.chain.codec import decode
from quorate.chain.ids import Hash, Height
from quorate.chain.transaction import CreateTask, SubmitUpdate, decode_transaction

from node.agreement.height_log import HeightLog


def find_logged_payloads(log: HeightLog, height: Height) -> frozenset[Hash]:
    """Return the payloads named by the blocks found valid at the height after `height`.

    Raises
    ------
    StorageError
        As `HeightLog.read`.
    """
    found: set[Hash] = set()
    for logged in log.read(height).blocks:
        for raw in decode(Block, logged.raw, len(logged.raw)).transactions:
            body = decode_transaction(raw).transaction.body
            if isinstance(body, SubmitUpdate | CreateTask):
                found.add(body.payload_hash)
    return frozenset(found)
