"""The mempool beside a dumb model of it, under the same random events."""

from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
import trio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from quorate.chain.errors import ErrorCode, TransactionError

from node.mempool.pool import ENTRY_OVERHEAD_BYTES
from store.database import MemoryDatabase
from tests.node.mempool.world import KEYS, Ledger, World, hash_of, make_transfer, make_world

SENDERS = KEYS[:3]
NONCES = 12
TRANSACTIONS_MAX = 7
PER_SENDER_MAX = 4
BALANCE = 6
RAWS = {
    (sender, nonce, amount): make_transfer(SENDERS[sender], nonce, amount)
    for sender in range(len(SENDERS))
    for nonce in range(NONCES)
    for amount in (1, 3)
}

Choice = tuple[int, int, int]
choices = st.sampled_from(sorted(RAWS))


class Model:
    """Lists and loops: what the mempool should hold, found the slow way."""

    def __init__(self) -> None:
        self.pending: list[Choice] = []
        self.own: set[Choice] = set()
        self.nonces = [0] * len(SENDERS)
        self.balances = [BALANCE] * len(SENDERS)
        self.decided: list[Choice] = []

    def of(self, sender: int) -> dict[int, Choice]:
        return {choice[1]: choice for choice in self.pending if choice[0] == sender}

    def next_nonce(self, sender: int) -> int:
        nonce = self.nonces[sender]
        while nonce in self.of(sender):
            nonce += 1
        return nonce

    def can_admit(self, choice: Choice) -> ErrorCode | None:
        sender, nonce, amount = choice
        mine = self.of(sender)
        if len(self.pending) >= TRANSACTIONS_MAX:
            return ErrorCode.MEMPOOL_FULL
        if nonce != self.next_nonce(sender):
            return ErrorCode.WRONG_NONCE
        if amount + sum(each[2] for each in mine.values()) > self.balances[sender]:
            return ErrorCode.INSUFFICIENT_BALANCE
        return ErrorCode.QUOTA_EXCEEDED if len(mine) >= PER_SENDER_MAX else None

    def remove(self, choice: Choice) -> None:
        self.pending.remove(choice)
        self.own.discard(choice)

    def settle(self) -> None:
        for sender in range(len(SENDERS)):
            mine = self.of(sender)
            for nonce, choice in mine.items():
                if nonce < self.nonces[sender]:
                    self.remove(choice)
            while sum(each[2] for each in self.of(sender).values()) > self.balances[sender]:
                mine = self.of(sender)
                self.remove(mine[max(mine)])

    def decide(self, choice: Choice) -> None:
        sender, nonce, amount = choice
        if choice in self.pending:
            self.remove(choice)
        self.nonces[sender] = nonce + 1
        self.balances[sender] -= amount
        self.decided.append(choice)

    def reap(self, count_max: int) -> list[Choice]:
        """Take again and again the earliest arrival that is due, but never go back in arrival.

        One that arrived before a lower nonce comes right after it.
        """
        due = list(self.nonces)
        reaped: list[Choice] = []
        while len(reaped) < count_max:
            ready = [each for each in self.pending if each[1] == due[each[0]]]
            ready = [each for each in ready if each not in reaped]
            if not ready:
                break
            reaped.append(ready[0])
            due[ready[0][0]] += 1
        return reaped


class MempoolMachine(RuleBasedStateMachine):
    """Drives the mempool and the model side by side. Early ones of peers are held by neither."""

    @initialize()
    def start(self) -> None:
        self.database = MemoryDatabase()
        self.model = Model()
        self.ledger = Ledger(balance=BALANCE)
        self.world = self.make_world()

    def make_world(self) -> World:
        return make_world(
            self.database,
            self.ledger,
            transactions_max=TRANSACTIONS_MAX,
            per_sender_max=PER_SENDER_MAX,
        )

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        return trio.run(function, *arguments)

    @rule(sender=st.integers(0, len(SENDERS) - 1), amount=st.sampled_from([1, 3]))
    def submit_next(self, sender: int, amount: int) -> None:
        nonce = self.model.next_nonce(sender)
        if nonce < NONCES:
            self.submit((sender, nonce, amount))

    @rule(sender=st.integers(0, len(SENDERS) - 1), amount=st.sampled_from([1, 3]))
    def receive_next(self, sender: int, amount: int) -> None:
        nonce = self.model.next_nonce(sender)
        if nonce < NONCES:
            self.receive((sender, nonce, amount))

    @rule(sender=st.integers(0, len(SENDERS) - 1))
    def decide_a_rival(self, sender: int) -> None:
        """A block holds another transaction than the pending one with that nonce."""
        nonce = self.model.nonces[sender]
        pending = self.model.of(sender).get(nonce)
        if pending is not None and self.model.balances[sender] >= 3:
            rival = (sender, nonce, 4 - pending[2])
            self.decide(0, [rival])

    @rule(choice=choices)
    def submit(self, choice: Choice) -> None:
        is_known = choice in self.model.pending
        is_decided = choice in self.model.decided
        refusal = self.try_submit(choice)
        if is_decided:
            # A full mempool looks no further than at what it remembers.
            assert refusal in (None, ErrorCode.MEMPOOL_FULL)
            return
        assert refusal == (None if is_known else self.model.can_admit(choice))
        if refusal is None:
            if not is_known:
                self.model.pending.append(choice)
            self.model.own.add(choice)

    def try_submit(self, choice: Choice) -> ErrorCode | None:
        try:
            self.run(self.world.mempool.submit_local, RAWS[choice], None)
        except TransactionError as error:
            return error.code
        return None

    @rule(choice=choices)
    def receive(self, choice: Choice) -> None:
        if choice in self.model.pending or choice in self.model.decided:
            return
        if self.model.can_admit(choice) is not None:
            # What is early would be held, and come in later: a story of its own tests.
            return
        batch = [(RAWS[choice], None)]
        assert self.run(self.world.mempool.receive_batch, "peer", batch) == 1
        self.model.pending.append(choice)

    @rule(count=st.integers(0, 4), strangers=st.lists(choices, max_size=2))
    def decide(self, count: int, strangers: list[Choice]) -> None:
        block = self.model.reap(count)
        for choice in strangers:
            due = self.model.nonces[choice[0]] + sum(each[0] == choice[0] for each in block)
            spent = sum(each[2] for each in block if each[0] == choice[0])
            if choice[1] == due and choice[2] + spent <= self.model.balances[choice[0]]:
                block.append(choice)
        for choice in block:
            self.model.decide(choice)
        self.model.settle()
        self.world.decide([RAWS[choice] for choice in block])

    @rule(choice=choices)
    def drop(self, choice: Choice) -> None:
        error = TransactionError(ErrorCode.INTERNAL, "dropped")
        is_pending = choice in self.model.pending
        assert self.world.take_out(RAWS[choice], error) == is_pending
        if is_pending:
            self.model.remove(choice)

    @rule()
    def restart(self) -> None:
        self.database = self.database.reopen()
        self.world = self.make_world()
        self.run(self.world.mempool.restore)
        own = [choice for choice in self.model.pending if choice in self.model.own]
        arrived = {entry.raw: entry.arrival for entry in self.world.mempool.reap(1 << 20, 1 << 20)}
        assert set(arrived) <= {RAWS[choice] for choice in own}
        order = [hash_of(record) for record in self.journaled()]
        self.model.pending = sorted(own, key=lambda choice: order.index(hash_of(RAWS[choice])))

    def journaled(self) -> list[bytes]:
        return [entry.raw for entry in self.world.mempool.iterate_older_than(0.0)]

    @invariant()
    def agrees(self) -> None:
        mempool, model = self.world.mempool, self.model
        raws = [RAWS[choice] for choice in model.pending]
        assert [entry.raw for entry in mempool.iterate_older_than(0.0)] == raws
        assert (mempool.count, mempool.bytes_total) == (len(raws), sum(map(len, raws)))
        assert self.world.reap() == [RAWS[choice] for choice in model.reap(100)]
        assert mempool.ready_count == len(model.reap(100))
        size = sum(len(raw) + ENTRY_OVERHEAD_BYTES for raw in self.world.reap(count_max=2))
        assert self.world.reap(bytes_max=size) == self.world.reap(count_max=2)
        for sender, key in enumerate(SENDERS):
            assert mempool.pending_nonce(key.address) == model.next_nonce(sender)


TestMempoolAgainstModel = MempoolMachine.TestCase
TestMempoolAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
