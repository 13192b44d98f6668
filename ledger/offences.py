"""Offences: evidence against validators, recorded once.

Owns the record of offences. Never verifies evidence (the caller has) and never punishes yet:
punishment comes with staking.
"""

from quorate.chain.errors import BlockError
from quorate.chain.evidence import DuplicateVoteEvidence

from ledger.environment import Environment
from ledger.keys import get_offence_key
from ledger.records import OffenceRecord
from ledger.state import State


def compute_offence_key(evidence: DuplicateVoteEvidence) -> bytes:
    """Return the key of an offence, the same for every pair of its conflicting votes."""
    vote = evidence.first
    return get_offence_key(vote.validator, vote.height, vote.round, vote.type)


def is_offence_recorded(state: State, evidence: DuplicateVoteEvidence) -> bool:
    """Tell whether a block has recorded this offence, so that no other block may."""
    return state.get(compute_offence_key(evidence), OffenceRecord) is not None


def process_evidence(env: Environment) -> None:
    """Record the offences that the block's evidence proves.

    Raises
    ------
    BlockError
        If one is recorded already, in an earlier block or in this one.
    """
    for evidence in env.context.evidence:
        key = compute_offence_key(evidence)
        if env.view.get(key, OffenceRecord) is not None:
            raise BlockError(
                f"the block has evidence of an offence of {evidence.first.validator.hex()} that"
                " is recorded already"
            )
        env.view.put(key, OffenceRecord(evidence.hash, env.context.height))
