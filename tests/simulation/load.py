"""The load of a simulated network: transfers, changes of parameters, and training.

Owns which of its actors run. What a participant of a task does is in `participants`, how anything
gets to a node in `users`.
"""

import random

import trio
from quorate.chain.ids import Hash
from quorate.chain.keys import Domain
from quorate.chain.transaction import (
    Approval,
    ChangeParameters,
    Transfer,
    compute_approval_bytes,
)

from tests.simulation.load_plan import LoadPlan
from tests.simulation.machines import VALIDATOR_KEYS
from tests.simulation.participants import Training
from tests.simulation.stranger import Stranger
from tests.simulation.users import USER_KEYS, USERS, Users

AMOUNT_MAX = 100
SETTLE_S = 0.5
"""Virtual seconds in which what is pending may be decided, before users look for gaps."""


class Load:
    """All that users do.

    Parameters
    ----------
    plan : LoadPlan
    users : Users
    stranger : Stranger or None
        Passes on what nobody can complete.
    chain_id : str
    gap_s : float
        Virtual seconds between transfers, on average.
    validators : int
        How many there are; all approve a change of parameters.
    """

    def __init__(
        self,
        plan: LoadPlan,
        users: Users,
        stranger: Stranger | None,
        chain_id: str,
        gap_s: float,
        validators: int,
    ) -> None:
        self._plan = plan
        self._users = users
        self._stranger = stranger
        self._chain_id = chain_id
        self._gap_s = gap_s
        self._validators = validators
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Submit until stopped."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._transfer)
                if self._plan.other_parameters is not None:
                    nursery.start_soon(self._change_parameters)
                for task in self._plan.tasks:
                    training = Training(task, self._users, self._stranger)
                    nursery.start_soon(training.run)

    def stop(self) -> None:
        """Submit nothing more."""
        self._scope.cancel()

    async def settle(self) -> None:
        """Submit nothing more but what those need who still wait for an answer."""
        self.stop()
        while True:
            await trio.sleep(SETTLE_S)
            await self._users.close_gaps()

    @property
    def _random(self) -> random.Random:
        return self._users.random

    async def _transfer(self) -> None:
        while True:
            await trio.sleep(self._random.expovariate(1) * self._gap_s)
            user = self._random.choice(self._users.all)
            to = USER_KEYS[(user.number + 1) % USERS].address
            body = Transfer(to, self._random.randrange(1, AMOUNT_MAX))
            await self._users.submit(user, body, kind="transfer")

    async def _change_parameters(self) -> None:
        parameters = self._plan.other_parameters
        if parameters is None:
            return
        await trio.sleep(self._plan.changes_s)
        replaces = self._plan.parameters.root
        change = ChangeParameters(parameters, replaces, 0, ())
        message = compute_approval_bytes(self._chain_id, change)
        approvals = tuple(
            Approval(key.address, key.sign(Domain.PARAMETERS, message))
            for key in VALIDATOR_KEYS[: self._validators]
        )
        body = ChangeParameters(parameters, replaces, 0, approvals)
        accepted: Hash | None = None
        while accepted is None:
            user = self._random.choice(self._users.all)
            accepted = await self._users.submit(user, body, kind="parameters")
            await trio.sleep(0.1)
