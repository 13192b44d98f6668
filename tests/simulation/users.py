"""The users of a simulated network: their keys, the node each talks to, and what they were told.

Owns how a transaction gets from a user to a node: the nonce is the one that the user's own node
names, and a user changes to another node when its own is down. Never decides what is submitted.
"""

import random
from collections import Counter
from dataclasses import dataclass, field

import trio
from quorate.chain.errors import ErrorCode, StorageError, TransactionError
from quorate.chain.genesis import GenesisAccount
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import (
    Body,
    Transaction,
    Transfer,
    compute_transaction_hash,
    decode_transaction,
    sign_transaction,
)

from ledger.state import State
from node.mempool.door import SubmitStatus
from tests.simulation.disk import PowerLoss
from tests.simulation.machines import Machine, SimNode, make_key
from tests.simulation.promises import Promise, Promises

BALANCE = 1_000_000
USERS = 6
USER_KEYS = [make_key(1000 + i) for i in range(USERS)]
ANSWER_S = 20.0
"""A user waits no longer for an answer: the node has died meanwhile."""
GAPS_CLOSED_MAX = 64
MOVING = 0.03
"""How often a user changes to another node without need."""


def make_accounts() -> tuple[GenesisAccount, ...]:
    """Return what the users begin with."""
    return tuple(GenesisAccount(key.address, BALANCE) for key in USER_KEYS)


@dataclass(eq=False)
class User:
    """Somebody with an account, and the node that they talk to."""

    number: int
    home: Machine | None = None
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def key(self) -> PrivateKey:
        """The key of the account."""
        return USER_KEYS[self.number]


class Users:
    """All users.

    Parameters
    ----------
    chain_id : str
    machines : list of Machine
        All nodes; users talk to those that run and are honest.
    promises : Promises
        Where what nodes answer is kept.
    source : random.Random
        What they draw from.
    fee : int
        What they pay for a transaction.
    """

    def __init__(
        self,
        chain_id: str,
        machines: list[Machine],
        promises: Promises,
        source: random.Random,
        fee: int,
    ) -> None:
        self._chain_id = chain_id
        self._machines = machines
        self._promises = promises
        self._fee = fee
        self.random = source
        self.all = [User(number) for number in range(USERS)]
        self.refused: Counter[ErrorCode] = Counter()
        self.submitted: Counter[str] = Counter()

    def find_node(self, user: User) -> SimNode | None:
        """Return the node that a user talks to, if any runs."""
        machine = self._find_home(user)
        return None if machine is None else machine.node

    def find_state(self, user: User) -> State | None:
        """Return the committed state that a user's node shows."""
        node = self.find_node(user)
        return None if node is None else node.services.executor.state

    async def submit(
        self, user: User, body: Body, payload: bytes | None = None, *, kind: str
    ) -> Hash | None:
        """Submit a transaction to a user's node; return its hash if the node accepts it."""
        async with user.lock:
            raw = self.sign(user, body)
            return None if raw is None else await self.submit_signed(user, raw, payload, kind=kind)

    def sign(self, user: User, body: Body) -> bytes | None:
        """Return a transaction with the nonce that the user's node names."""
        node = self.find_node(user)
        if node is None:
            return None
        nonce = node.services.mempool.pending_nonce(user.key.address)
        return self._sign(user, nonce, body)

    def _sign(self, user: User, nonce: int, body: Body) -> bytes:
        transaction = Transaction(1, self._chain_id, user.key.public_key, nonce, self._fee, body)
        return sign_transaction(user.key, transaction)

    async def submit_signed(
        self, user: User, raw: bytes, payload: bytes | None, *, kind: str
    ) -> Hash | None:
        """Submit signed bytes to a user's node; return their hash if the node accepts them."""
        machine = self._find_home(user)
        if machine is None or machine.node is None:
            return None
        return await self._submit_to(machine, machine.node, user, raw, payload, kind)

    async def close_gaps(self) -> None:
        """Sign again what nodes have refused: what the same users sent after it waits for it.

        A user sees from the nonce that its node names that there is a gap, below its latest.
        """
        for number, machine_number in self._promises.find_debtors():
            user, machine = self.all[number], self._machines[machine_number]
            user.home = machine
            for _ in range(GAPS_CLOSED_MAX):
                if machine.node is None or not machine.is_serving:
                    break
                if not await self._close_gap(user, machine, machine.node):
                    break

    async def _close_gap(self, user: User, machine: Machine, node: SimNode) -> bool:
        nonce = node.services.mempool.pending_nonce(user.key.address)
        if nonce > self._promises.get_last_nonce(user.number, machine.number):
            return False
        raw = self._sign(user, nonce, Transfer(user.key.address, 0))
        return await self._submit_to(machine, node, user, raw, None, "filler") is not None

    async def _submit_to(
        self,
        machine: Machine,
        node: SimNode,
        user: User,
        raw: bytes,
        payload: bytes | None,
        kind: str,
    ) -> Hash | None:
        nonce = decode_transaction(raw).transaction.nonce
        mempool = node.services.mempool
        self.submitted[kind] += 1
        try:
            with trio.move_on_after(ANSWER_S):
                outcome = await mempool.submit_local(raw, payload)
                if outcome.status is SubmitStatus.PENDING:
                    promise = Promise(machine.number, user.number, nonce, kind)
                    self._promises.acknowledge(outcome.hash, promise)
                return compute_transaction_hash(raw)
        except TransactionError as error:
            self.refused[error.code] += 1
        except PowerLoss:
            pass
        except StorageError:
            # A full disk takes nothing; anything else wrong with it is a fault of the program.
            if not machine.disk.power.has_refused:
                raise
        return None

    def _find_home(self, user: User) -> Machine | None:
        up = [m for m in self._machines if m.is_serving and not m.is_byzantine]
        if user.home not in up or self.random.random() < MOVING:
            user.home = self.random.choice(up) if up else None
        return user.home
