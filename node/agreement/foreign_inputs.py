"""Consensus messages of peers: into the driver, and into the log if they change anything.

Owns the decision which message of a peer is logged, the report of forged ones, and showing the
signer those in its own name. Never performs an effect.
"""

from collections.abc import Callable
from typing import Final

from consensus.driver import Driver
from consensus.effects import Effect
from consensus.inputs import Input, ProposalReceived, VoteReceived
from node.agreement.height_log import EarlyInput, HeightLog, get_height
from node.agreement.noting_verifier import NotingVerifier
from node.agreement.patience import Patience
from node.agreement.signer import Signer
from p2p.network import PeerId

FORGED_PENALTY: Final = 50
"""No honest node passes on a message whose signature it has not checked."""


class ForeignInputs:
    """The door for consensus messages that others signed.

    Parameters
    ----------
    driver : Driver
        Judges them.
    verifier : NotingVerifier
        The driver's own; tells what the driver thought of a message.
    log : HeightLog
        Keeps what counts.
    report : callable
        Told of each offence of a peer: peer, penalty, reason.
    patience : Patience
        Shown every message; learns who is not silent.
    signer : Signer or None
        Shown every message; it stops the node if it has not signed one in its name.
    """

    def __init__(
        self,
        driver: Driver,
        verifier: NotingVerifier,
        log: HeightLog,
        report: Callable[[PeerId, int, str], None],
        patience: Patience,
        signer: Signer | None,
    ) -> None:
        self._patience = patience
        self._signer = signer
        self._driver = driver
        self._verifier = verifier
        self._log = log
        self._report = report

    def receive(self, input_: Input, peer: PeerId) -> list[Effect]:
        """Take a peer's message; return its effects, which may leave: it is logged if it counts.

        What changes nothing is not logged: no peer can fill the log of a node that waits.

        Raises
        ------
        SignerError
            If it is this validator's and newer than the last-signed record, or contradicts it.
        """
        if self._signer is not None:
            match input_:
                case VoteReceived(vote=message) | ProposalReceived(proposal=message):
                    self._signer.notice(message)
        is_early = get_height(input_) > self._driver.height
        if is_early and not self._log.has_room:
            return []
        self._verifier.forget()
        effects = self._driver.receive(input_)
        self._patience.notice(input_, self._verifier.outcome)
        if self._verifier.outcome is False:
            self._report(peer, FORGED_PENALTY, "a message that its validator did not sign")
        elif self._verifier.outcome and is_early and isinstance(input_, EarlyInput):
            self._log.keep_early(input_)
        elif self._verifier.outcome or effects:
            self._log.append_input(input_)
        return effects
