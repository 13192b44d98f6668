"""The mempool's door to the ledger, over payloads in files."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.execution.admission import LedgerDoor
from store.database import MemoryDatabase
from store.errors import PayloadDamaged
from store.payload_contract import INLINE_BYTES_MAX
from store.payloads import PayloadStore
from tests.node.execution.chain import ExecutionChain, Training


class LosingPayloads(PayloadStore):
    """Files of which the disk cannot read a byte once they have been opened."""

    folder: Path

    def open_memmap(self, payload_hash: bytes, *, verify: bool = True) -> NDArray[np.uint8] | None:
        opened = super().open_memmap(payload_hash, verify=verify)
        os.truncate(self.folder / payload_hash.hex(), 0)
        return opened


async def test_a_large_update_that_cannot_be_read_is_told_with_a_sentence(tmp_path: Path) -> None:
    """Where a page of a mapped file cannot be read, the process ends without a word."""
    chain = ExecutionChain()
    training = Training(chain, INLINE_BYTES_MAX, 1)
    await training.begin()
    (*_, signed), payload = training.make_update(0, 1)
    payloads = LosingPayloads(MemoryDatabase(), tmp_path)
    payloads.folder = tmp_path
    payloads.put(payload)
    door = LedgerDoor(chain.executor, chain.store, payloads, lambda: chain.next_time_ms)
    with pytest.raises(PayloadDamaged, match="has lost its end"):
        door.check(signed, nonce=signed.transaction.nonce, spendable=0, payload=None)
