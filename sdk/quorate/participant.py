"""Taking part in a task: a function that fits goes in, finalized weights come out.

Owns the classes a participant's script uses, one for each kind of client. Never sees data and
never keeps state on disk: after a crash the chain is asked what has happened.
"""

from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
from numpy.typing import DTypeLike

from quorate.async_client import AsyncClient
from quorate.chain.genesis import Genesis
from quorate.chain.keys import PrivateKey
from quorate.chain.validators import ValidatorSet
from quorate.client import Client
from quorate.errors import TaskClosedError
from quorate.participant_session import ParticipantSession
from quorate.progress import OnProgress, ProgressBar
from quorate.rpc_protocol import TaskKey
from quorate.training_session import Fit, RoundResult, SessionOptions


class Participant:
    """A participant of a task.

    Parameters
    ----------
    client : Client
        One's own node.
    key : PrivateKey
        What updates are signed with; see `load_or_create_key`. It stays in this process.
    task : Task, bytes or str
        The task, its id or its name.
    fit : callable
        ``fit(weights, round_info)``: gets the weights as a list of arrays in the task's order
        and returns the trained ones in the same order, or a `FitResult`. The arrays may be
        changed in place.
    trusted : Genesis or ValidatorSet, optional
        Whom downloaded weights are verified against. Without it the genesis document is asked
        of the node itself, which then has to be one's own.
    commit_from : Client, optional
        Another node to ask for the commits that prove the weights.
    dtype : numpy dtype
        Of the arrays that `fit` gets and that come out; float32 unless said otherwise.
    round_timeout_s : float, optional
        How long to wait for a training round to end; for ever by default.
    error_feedback : bool
        Whether what the codec could not say of a counted update is added to the next one. It is
        kept in memory alone: float32, as many as the model has parameters.
    progress : callable, optional
        Called while a large update is uploaded; a bar on the terminal, if there is one, by default.

    Examples
    --------
    >>> from quorate import Client, Participant, load_or_create_key
    >>> def fit(weights, round_info):
    ...     kernel, bias = weights
    ...     return [kernel - 0.1 * kernel, bias]  # Train on your own data here.
    >>> key = load_or_create_key("hospital.key")  # doctest: +SKIP
    >>> with Client("http://127.0.0.1:26657") as node:  # doctest: +SKIP
    ...     participant = Participant(node, key, "digits", fit)
    ...     for result in participant.iterate(rounds=10):
    ...         print(result.training_round, result.is_set_aside, result.saturated)
    """

    def __init__(  # noqa: PLR0913 - options that are said by name.
        self,
        client: Client,
        key: PrivateKey,
        task: TaskKey,
        fit: Fit,
        *,
        trusted: Genesis | ValidatorSet | None = None,
        commit_from: Client | None = None,
        dtype: DTypeLike = np.float32,
        round_timeout_s: float | None = None,
        error_feedback: bool = True,
        progress: OnProgress | None = None,
    ) -> None:
        self._client = client
        self._others = () if commit_from is None else (commit_from,)
        source = None if commit_from is None else commit_from.endpoint
        self._bar = ProgressBar()
        shown = self._bar.show if progress is None else progress
        options = SessionOptions(trusted, source, dtype, round_timeout_s, error_feedback, shown)
        self._session = ParticipantSession(client.endpoint, key, task, fit, options)

    def train_round(self) -> RoundResult:
        """Take part in the open training round and wait for its end.

        An update that is in already, perhaps from a run of the script that crashed, is not
        computed again.

        Raises
        ------
        VerificationError
            If the node serves weights that the chain does not confirm.
        TaskClosedError
            If the task is paused or completed.
        RpcError
            If the chain refuses the update.
        EncodingError
            If `fit` returns something that does not fit the task.
        WaitTimeoutError
            If a round does not end in time.
        """
        with self._bar:
            return self._client.run(self._session.train_round(), others=self._others)

    def iterate(self, rounds: int) -> Iterator[RoundResult]:
        """Take part in up to `rounds` training rounds, one after the other.

        Ends earlier when the task completes.
        """
        try:
            for number in range(rounds):
                try:
                    yield self.train_round()
                except TaskClosedError:
                    if number == 0:
                        raise
                    return
        finally:
            self.close()

    def run(
        self, rounds: int, on_round: Callable[[RoundResult], None] | None = None
    ) -> list[RoundResult]:
        """Take part in up to `rounds` training rounds and return how each ended.

        The finalized weights are ``results[-1].weights``.
        """
        results = []
        for result in self.iterate(rounds):
            results.append(result)
            if on_round is not None:
                on_round(result)
        return results

    def close(self) -> None:
        """Close the subscription to the node's events."""
        self._client.run(self._session.close())


class AsyncParticipant:
    """`Participant` under trio or asyncio; `fit` runs in a thread.

    Examples
    --------
    >>> async def main():
    ...     async with AsyncClient("http://127.0.0.1:26657") as node:
    ...         participant = AsyncParticipant(node, key, "digits", fit)
    ...         async for result in participant.iterate(rounds=10):
    ...             print(result.training_round)
    """

    def __init__(  # noqa: PLR0913 - options that are said by name.
        self,
        client: AsyncClient,
        key: PrivateKey,
        task: TaskKey,
        fit: Fit,
        *,
        trusted: Genesis | ValidatorSet | None = None,
        commit_from: AsyncClient | None = None,
        dtype: DTypeLike = np.float32,
        round_timeout_s: float | None = None,
        error_feedback: bool = True,
        progress: OnProgress | None = None,
    ) -> None:
        self._client = client
        self._others = () if commit_from is None else (commit_from,)
        source = None if commit_from is None else commit_from.endpoint
        self._bar = ProgressBar()
        shown = self._bar.show if progress is None else progress
        options = SessionOptions(trusted, source, dtype, round_timeout_s, error_feedback, shown)
        self._session = ParticipantSession(client.endpoint, key, task, fit, options)

    async def train_round(self) -> RoundResult:
        """As `Participant.train_round`."""
        with self._bar:
            return await self._client.run(self._session.train_round(), others=self._others)

    async def iterate(self, rounds: int) -> AsyncIterator[RoundResult]:
        """As `Participant.iterate`."""
        for number in range(rounds):
            try:
                yield await self.train_round()
            except TaskClosedError:
                if number == 0:
                    raise
                break
        await self.aclose()

    async def run(
        self, rounds: int, on_round: Callable[[RoundResult], None] | None = None
    ) -> list[RoundResult]:
        """As `Participant.run`."""
        results = []
        async for result in self.iterate(rounds):
            results.append(result)
            if on_round is not None:
                on_round(result)
        return results

    async def aclose(self) -> None:
        """Close the subscription to the node's events."""
        await self._client.run(self._session.close())
