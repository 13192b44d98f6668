"""Three whole nodes of four over the network in memory: the fourth's turns soon cost little."""

import time
from pathlib import Path

from tests.node.cluster import make_config, make_genesis, open_cluster

SLOW = make_config(empty_block_interval_ms=0, timeout_propose_ms=3_000, timeout_precommit_ms=2_000)
TURN_S = 5.0
"""What a missed turn costs whoever waits for it in full."""
LEARN, WATCH = 20, 16
"""Heights: five turns to learn from, four to measure."""


async def test_turns_of_a_dead_proposer_are_waited_for_ever_less(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 3, genesis=make_genesis(4), config=SLOW) as cluster:
        await cluster.wait_for_height(LEARN)
        began = time.monotonic()
        await cluster.wait_for_height(LEARN + WATCH)
        assert time.monotonic() - began < 0.5 * TURN_S * WATCH / 4
