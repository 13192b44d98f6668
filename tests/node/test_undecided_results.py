"""Results that no block brings do not stay on the disk."""

from dataclasses import replace
from pathlib import Path

import trio.testing
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash

from node.execution.aggregates import CACHED_MAX
from node.execution.retention import UNDECIDED_KEPT_MS
from tests.node.cluster import now_ms, open_cluster
from tests.node.execution.test_aggregates import (
    FreshWork,
    make_inputs,
    make_output,
    wait_for,
    wait_until_gone,
)


async def test_a_result_that_is_never_decided_goes_when_no_block_can_bring_it(
    tmp_path: Path,
) -> None:
    data = b"of candidates that differed"
    root = Hash(compute_content_hash(data))
    output = replace(make_output(data), weights_root=root)
    async with open_cluster(tmp_path, validators=1) as cluster:
        node = cluster.members[0].running
        payloads = node.services.storage.payloads
        await wait_for(node._aggregates, make_inputs(1), FreshWork(output=output))
        await trio.testing.wait_all_tasks_blocked()
        del output
        assert payloads.has(root)
        later = now_ms() + UNDECIDED_KEPT_MS + 60_000
        node._retention.drop_due(later)
        # A later proposal of this height may bring it still.
        assert payloads.has(root)
        for number in range(CACHED_MAX):
            node._aggregates.get(make_inputs(2 + number, is_large=False), FreshWork())
        await wait_until_gone(node._aggregates, root)
        node._retention.drop_due(later + UNDECIDED_KEPT_MS + 1)
        assert not payloads.has(root)
