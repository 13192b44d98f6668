"""A validator dies under load and comes back: what was decided or accepted stays.

Real processes, killed with signal 9, seen through their RPC alone.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.task import AggregationRule, RoundPolicy, Stage
from quorate.chain.transaction import SubmitUpdate, compute_transaction_hash
from quorate.client import Client
from quorate.errors import ConnectionFailedError
from quorate.rpc_types import Task
from quorate.task_draft import draft_task

from node.config import Config
from tests.e2e.network import (
    Load,
    Network,
    make_key,
    open_network,
    sign,
    wait_until,
)

pytestmark = pytest.mark.e2e

VICTIM = 3
SENDERS = [make_key(100 + i) for i in range(4)]
AUTHOR = make_key(200)
PARTICIPANTS = [make_key(300 + i) for i in range(2)]
DIMENSION = 650
STOP_S = 5.0


def keep_to_itself(number: int, config: Config) -> Config:
    """Let the victim tell late what it has accepted and propose little, so that it can lose it."""
    if number != VICTIM:
        return config
    mempool = replace(config.mempool, gossip_interval_ms=10_000, announce_after_ms=60_000)
    consensus = replace(config.consensus, block_transactions_max=1)
    return replace(config, mempool=mempool, consensus=consensus)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    accounts = [*SENDERS, AUTHOR, *PARTICIPANTS]
    with open_network(tmp_path, accounts=accounts, change=keep_to_itself) as running:
        yield running


def create_task(client: Client) -> Task:
    """Create a task whose training round closes with the update of its second participant."""
    draft = draft_task(
        "crash",
        {"kernel": np.zeros((64, 10)), "bias": np.zeros(10)},
        RoundPolicy(deadline_ms=600_000, updates_min=2, updates_max=2),
        rule=AggregationRule((Stage.MEAN,), 0),
    )
    assert draft.spec.dimension == DIMENSION
    created = client.create_task(AUTHOR, draft.spec, draft.weights)
    client.wait_for_transaction(created.hash)
    for key in PARTICIPANTS:
        client.wait_for_transaction(client.register(key, created.hash).hash)
    return client.task(created.hash)


def make_update(task: Task, key: PrivateKey, value: int) -> tuple[bytes, bytes]:
    payload = np.full(DIMENSION, value, "<i2").tobytes()
    body = SubmitUpdate(
        task.task_id,
        0,
        task.weights_root,
        task.spec.codec,
        compute_content_hash(payload),
        len(payload),
        1,
    )
    return sign(key, 1, body), payload


def start_loads(network: Network) -> list[Load]:
    n_nodes = len(network.nodes)
    loads = [
        Load(node.address.rpc_url, key)
        for node, key in zip(network.nodes, SENDERS[:n_nodes], strict=True)
    ]
    for load in loads:
        load.start()
    return loads


class Decided:
    """How often each transaction is in the blocks of node 0, read as the chain grows."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.height = 0
        self.counts: Counter[Hash] = Counter()

    def read(self, last: int) -> None:
        for block in self._network.read_blocks(0, last, self.height + 1):
            self.counts.update(map(compute_transaction_hash, block.transactions))
        self.height = max(self.height, last)

    def has_all(self, hashes: list[Hash]) -> bool:
        self.read(self._network.get_height(0))
        return all(self.counts[each] for each in hashes)


def has_signature_of_victim(network: Network, height: int) -> bool:
    _, commit = network.clients[0].commit(height)
    validators = network.clients[0].validators(height)
    address = network.nodes[VICTIM].validator_address
    (place,) = (i for i, each in enumerate(validators.validators) if each.address.hex() == address)
    return bool(commit.signatures[place])


def test_a_killed_validator_loses_nothing(network: Network) -> None:
    task = create_task(network.clients[0])
    loads = start_loads(network)
    wait_until(
        lambda: all(len(load.acknowledged) > 200 for load in loads), "every node takes transfers"
    )

    first, second = (make_update(task, key, 10 + i) for i, key in enumerate(PARTICIPANTS))
    network.clients[1].submit(*first)
    assert network.clients[VICTIM].submit(*second).status == "pending"
    network.processes[VICTIM].kill()
    loads[VICTIM].stop()
    killed_at = network.get_height(0)

    # The other three go on, and some of what the victim has accepted is known to nobody else.
    network.wait_for_height(killed_at + 5, [0, 1, 2])
    decided = Decided(network)
    decided.read(killed_at + 5)
    known_to_victim = [compute_transaction_hash(second[0]), *loads[VICTIM].acknowledged]
    assert not all(decided.counts[each] for each in known_to_victim)

    network.restart(VICTIM)
    restarted_at = network.get_height(0)
    network.wait_for_height(restarted_at, [VICTIM])
    caught_up_at = network.get_height(VICTIM)
    wait_until(
        lambda: any(
            has_signature_of_victim(network, height)
            for height in range(caught_up_at + 1, network.get_height(0) + 1)
        ),
        "a commit has the restarted validator's signature",
    )

    for load in loads:
        load.stop()
    assert [load.refused for load in loads] == [[], [], [], []]
    accepted = [each for load in loads for each in load.acknowledged]
    accepted += [compute_transaction_hash(raw) for raw, _ in (first, second)]
    wait_until(lambda: decided.has_all(accepted), "everything accepted is decided", 20)

    last = decided.height + 1
    network.wait_for_height(last)
    decided.read(last)
    assert [each for each in accepted if decided.counts[each] != 1] == []
    assert set(decided.counts.values()) == {1}
    blocks = [network.read_blocks(number, last) for number in range(4)]
    assert blocks[0] == blocks[1] == blocks[2] == blocks[3]
    assert [block.evidence for block in blocks[0] if block.evidence] == []

    receipts = [client.training_round(task.task_id, 0).receipt for client in network.clients]
    assert receipts[0] is not None
    assert receipts == [receipts[0]] * 4
    counted_in = {update.participant for update in receipts[0].updates}
    assert counted_in == {key.address for key in PARTICIPANTS}


def listen(client: Client, heard: list[str]) -> None:
    try:
        heard.extend(event.type for event in client.events())
    except ConnectionFailedError:
        heard.append("end")


def test_sigterm_under_load_is_orderly(tmp_path: Path) -> None:
    """With a stream of events open, an idle connection, and batches coming in."""
    with open_network(tmp_path, 2, accounts=SENDERS) as network:
        heard: list[str] = []
        with Client(network.nodes[0].address.rpc_url, retries=0) as listener:
            thread = threading.Thread(target=listen, args=(listener, heard), daemon=True)
            thread.start()
            loads = start_loads(network)
            wait_until(
                lambda: bool(heard) and all(len(load.acknowledged) > 100 for load in loads),
                "both nodes take transfers and tell of blocks",
            )
            for process in network.processes:
                exit_code, seconds = process.terminate(2 * STOP_S)
                log = process.read_log()
                assert (exit_code, "Traceback" in log) == (0, False), log[-4000:]
                assert seconds < STOP_S
            for load in loads:
                load.stop()
            thread.join(20)
            assert heard[-1] == "end"

        # What was accepted before is decided after the restart.
        for number in range(2):
            network.restart(number)
        network.wait_for_height(1)
        decided = Decided(network)
        accepted = [each for load in loads for each in load.acknowledged]
        wait_until(lambda: decided.has_all(accepted), "everything accepted is decided", 20)
        assert set(decided.counts.values()) == {1}
