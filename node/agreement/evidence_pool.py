"""Evidence of misbehaviour, until it stands in a block.

Owns the pending evidence, each piece verified, one for each offence: whoever votes three times
gives three pairs of votes, and a block may record the offence once. Never judges what follows from
it: the ledger does.
"""

from quorate.chain.codec import encode
from quorate.chain.evidence import DuplicateVoteEvidence

from ledger.offences import compute_offence_key

PENDING_EVIDENCE_MAX = 256
"""Pieces of evidence that wait for a block; more are dropped, others hold them too."""


class EvidencePool:
    """Verified evidence in order of arrival; each offence is taken once."""

    def __init__(self) -> None:
        self._pending: dict[bytes, DuplicateVoteEvidence] = {}
        self._decided: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, evidence: DuplicateVoteEvidence) -> bool:
        """Keep verified evidence; tell whether its offence was new."""
        key = compute_offence_key(evidence)
        known = key in self._pending or key in self._decided
        if known or len(self._pending) >= PENDING_EVIDENCE_MAX:
            return False
        self._pending[key] = evidence
        return True

    def reap(self, count_max: int, bytes_max: int) -> tuple[DuplicateVoteEvidence, ...]:
        """Return evidence for a block, oldest first."""
        taken: list[DuplicateVoteEvidence] = []
        for evidence in self._pending.values():
            bytes_max -= len(encode(evidence))
            if len(taken) >= count_max or bytes_max < 0:
                break
            taken.append(evidence)
        return tuple(taken)

    def remove(self, evidence: tuple[DuplicateVoteEvidence, ...]) -> None:
        """Forget evidence that was decided, and don't take it again."""
        for item in evidence:
            key = compute_offence_key(item)
            self._pending.pop(key, None)
            self._decided[key] = None
        while len(self._decided) > PENDING_EVIDENCE_MAX:
            del self._decided[next(iter(self._decided))]

    def drop(self, evidence: DuplicateVoteEvidence) -> None:
        """Forget evidence that can enter no block any more."""
        self._pending.pop(compute_offence_key(evidence), None)
