"""The load of a simulated network: who submits what to which node, and what was promised for it.

Owns the users and what nodes have acknowledged. Never judges a node: it tells which
acknowledged transactions are still owed, and `checks` and `world` draw the consequence.
"""

import random
from collections.abc import Mapping

import trio
from quorate.chain.errors import TransactionError
from quorate.chain.genesis import GenesisAccount
from quorate.chain.ids import Hash
from quorate.chain.transaction import (
    Transaction,
    Transfer,
    compute_transaction_hash,
    sign_transaction,
)

from tests.simulation.checks import Violation
from tests.simulation.disk import PowerLoss
from tests.simulation.machines import Machine, make_key

BALANCE = 1_000_000
USERS = 6
USER_KEYS = [make_key(1000 + i) for i in range(USERS)]


def make_accounts() -> tuple[GenesisAccount, ...]:
    """Return what the users begin with."""
    return tuple(GenesisAccount(key.address, BALANCE) for key in USER_KEYS)


class Load:
    """The users of a network.

    Parameters
    ----------
    chain_id : str
        The chain they use.
    machines : list of Machine
        All nodes; users submit to those that run and are honest.
    decided : mapping of transaction hashes to heights
        Where transactions were decided, as it fills.
    source : random.Random
        What they draw from.
    gap_s : float
        Virtual seconds between submissions, on average.
    """

    def __init__(
        self,
        chain_id: str,
        machines: list[Machine],
        decided: Mapping[Hash, int],
        source: random.Random,
        gap_s: float,
    ) -> None:
        self._chain_id = chain_id
        self._machines = machines
        self._decided = decided
        self._random = source
        self._gap_s = gap_s
        self._nonces = dict.fromkeys(range(USERS), 0)
        self.acknowledged: dict[Hash, tuple[int, int]] = {}

    async def run(self) -> None:
        """Submit until cancelled."""
        while True:
            await trio.sleep(self._random.expovariate(1) * self._gap_s)
            user = self._random.randrange(USERS)
            up = [m for m in self._machines if m.is_up and not m.is_byzantine]
            if up:
                await self._submit(user, self._random.choice(up))

    async def _submit(self, user: int, machine: Machine) -> None:
        node = machine.node
        if node is None:
            return
        key, nonce = USER_KEYS[user], self._nonces[user]
        to = USER_KEYS[(user + 1) % USERS].address
        body = Transfer(to, self._random.randrange(1, 100))
        raw = sign_transaction(key, Transaction(1, self._chain_id, key.public_key, nonce, 0, body))
        try:
            await node.services.mempool.submit_local(raw, None)
        except TransactionError:
            # Another node may not have seen the last one yet; the user tries again elsewhere.
            known, _ = self._read_account(user)
            self._nonces[user] = max(known, min(nonce, self._nonces[user]))
            return
        except PowerLoss:
            return
        self._nonces[user] = nonce + 1
        self.acknowledged[compute_transaction_hash(raw)] = (user, nonce)

    def _read_account(self, user: int) -> tuple[int, int]:
        best = max(
            (m for m in self._machines if m.node is not None),
            key=lambda m: m.height,
            default=None,
        )
        if best is None or best.node is None:
            return 0, 0
        account = best.node.services.executor.state.get_account(USER_KEYS[user].address)
        return account.nonce, account.balance

    def find_owed(self) -> list[Hash]:
        """Return acknowledged transactions that are neither decided nor impossible by now."""
        owed = []
        for transaction_hash, (user, nonce) in self.acknowledged.items():
            if transaction_hash in self._decided:
                continue
            known, _ = self._read_account(user)
            if nonce >= known:
                owed.append(transaction_hash)
        return owed

    def check_end(self) -> None:
        """Check that no coin was made or lost, and nothing acknowledged was."""
        total = sum(self._read_account(user)[1] for user in range(USERS))
        if total != USERS * BALANCE:
            raise Violation(f"{USERS * BALANCE - total} coins are gone")
        lost = self.find_owed()
        if lost:
            raise Violation(f"{len(lost)} accepted transactions were lost")
