"""The promises of a simulated network, checked at every decision, every message, and at the end.

Owns what is remembered of a run to hold a promise against: which block was decided at a height,
who signed what, where a transaction was decided. Never changes anything that a node sees.
"""

from collections.abc import Sequence

from quorate.chain.codec import decode
from quorate.chain.ids import Address, Hash
from quorate.chain.receipt import RECEIPTS_BYTES_MAX, BlockReceipts
from quorate.chain.vote import Commit, Proposal, Vote

from ledger.state import State
from node.composition import Node
from node.exchange.messages import ProposalMessage, VotesMessage, decode_message
from node.execution.executor import ExecutedBlock
from p2p.network import PeerId, Priority
from tests.simulation.fabric import SimNetwork
from tests.simulation.machines import Machine


class Violation(Exception):  # noqa: N818 - it reads as what happened.
    """A promise that was broken."""


class Checks:
    """What was seen of a run, and what must hold of it."""

    def __init__(self, accounts: Sequence[Address], coins: int) -> None:
        self.decided: dict[int, Hash] = {}
        self.signed: dict[tuple[object, ...], object] = {}
        self._receipts: dict[int, bytes] = {}
        self._accounts = accounts
        self._coins = coins

    def check_decision(
        self, machine: Machine, node: Node, executed: ExecutedBlock, commit: Commit
    ) -> None:
        """Check agreement, order, the coins, and that all roots are those of the header."""
        number, header, block_hash = machine.number, executed.block.header, commit.block_id.hash
        height = header.height
        if height != machine.height + 1:
            raise Violation(f"node {number} decided {height} after {machine.height}")
        machine.height = height
        known = self.decided.setdefault(height, block_hash)
        if known != block_hash:
            raise Violation(f"height {height}: {known.hex()} and {block_hash.hex()} were decided")
        services = node.services
        if (stored := services.storage.chain.load_receipts(height)) is None:
            raise Violation(f"node {number} decided {height} and has no receipts of it")
        if self._receipts.setdefault(height, stored) != stored:
            raise Violation(f"node {number} has other receipts of {height} than others")
        if decode(BlockReceipts, stored, RECEIPTS_BYTES_MAX).root != header.receipts_root:
            raise Violation(f"node {number} has other receipts of {height} than its header says")
        state = services.executor.state
        # Blocks that others decided are applied in groups, and told when the group is durable.
        is_last = services.executor.position.height == height
        roots = header.state_root, header.model_root
        if is_last and (state.root, state.model_root) != roots:
            raise Violation(f"node {number} has another state at {height} than its header says")
        self._check_coins(number, height, state)

    def _check_coins(self, number: int, height: int, state: State) -> None:
        total = sum(state.get_account(address).balance for address in self._accounts)
        if total != self._coins:
            raise Violation(f"node {number} at {height}: {self._coins - total} coins are gone")

    def watch_signatures(self, machine: Machine, network: SimNetwork) -> None:
        """Check that an honest validator never signs two things for one step, over restarts."""
        if machine.is_byzantine:
            return
        send = network.send

        def watched(peer: PeerId, priority: Priority, body: bytes) -> bool:
            if priority is Priority.CONSENSUS:
                self._check_signed(machine.key.address, body)
            return send(peer, priority, body)

        network.send = watched  # type: ignore[method-assign]

    def _check_signed(self, address: Address, body: bytes) -> None:
        message = decode_message(body)
        said: list[Vote | Proposal] = []
        if isinstance(message, VotesMessage):
            said.extend(vote for vote in message.votes if vote.validator == address)
        elif isinstance(message, ProposalMessage) and message.proposal.proposer == address:
            said.append(message.proposal)
        for item in said:
            kind = item.type if isinstance(item, Vote) else "proposal"
            key = (address, kind, item.height, item.round)
            known = self.signed.setdefault(key, item.block_id)
            if known != item.block_id:
                raise Violation(f"{address.hex()} signed twice: {kind} {item.height}/{item.round}")

    def check_inboxes(self, machines: list[Machine]) -> None:
        """Check that no inbox overflowed, in a run without an attack."""
        for machine in machines:
            node = machine.node
            if node is not None and node.services.runner.dropped_inputs:
                raise Violation(f"the inbox of node {machine.number} overflowed without an attack")
