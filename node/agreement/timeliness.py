"""Why a proposal's time was not believed, in words.

Owns the sentence in the log. Never decides: the driver does, when a proposal arrives.
"""

from quorate.chain.parameters import ConsensusParameters
from quorate.chain.vote import Proposal

from consensus.timeouts import TimelinessBounds


def find_untimeliness(
    proposal: Proposal, now_ms: int, parameters: ConsensusParameters
) -> str | None:
    """Return what is wrong with the time of a proposal that has just arrived, or None.

    Parameters
    ----------
    proposal : Proposal
        Of a new value: what is proposed again keeps its time, and nobody asks.
    now_ms : int
        The node's clock.
    parameters : ConsensusParameters
        The bounds.
    """
    bounds = TimelinessBounds(parameters.precision_ms, parameters.message_delay_ms)
    if proposal.valid_round >= 0 or bounds.is_timely(proposal.time_ms, now_ms, proposal.round):
        return None
    if proposal.time_ms > now_ms:
        ahead_ms = proposal.time_ms - now_ms
        return f"block time {proposal.time_ms} is {ahead_ms} ms ahead of this node's clock"
    return f"block time {proposal.time_ms} is {now_ms - proposal.time_ms} ms ago"
