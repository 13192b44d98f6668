"""Whether evidence is genuine, and whether a block may hold it.

Owns the look at past validator sets and block times that this needs. Never keeps evidence and
never punishes.
"""

from quorate.chain.block import Block, Header
from quorate.chain.codec import decode
from quorate.chain.errors import BlockError, DecodeError, SignatureError
from quorate.chain.evidence import EVIDENCE_BYTES_MAX, DuplicateVoteEvidence, verify_evidence
from quorate.chain.validators import ValidatorSet

from node.execution.chain_position import POSITION_DOCUMENT, ChainPosition, decode_position
from store.chain_store import ChainStore


class EvidenceChecker:
    """Checks evidence against the decided chain.

    Parameters
    ----------
    chain_id : str
        The chain whose votes are evidence.
    store : ChainStore
        Past positions and blocks.
    """

    def __init__(self, chain_id: str, store: ChainStore) -> None:
        self._chain_id = chain_id
        self._store = store

    def validate(self, raw: bytes, position: ChainPosition, time_ms: int) -> DuplicateVoteEvidence:
        """Return verified evidence that may enter the block after `position`, made at `time_ms`.

        Raises
        ------
        BlockError
            If it cannot be decoded, proves nothing, is not about a decided height, or is older
            than the parameters allow.
        """
        try:
            evidence = decode(DuplicateVoteEvidence, raw, EVIDENCE_BYTES_MAX)
            height = evidence.first.height
            if height >= position.next_height:
                raise BlockError("evidence of a height that is not decided yet")
            validators = self._find_validators(height, position)
            header = self._load_header(height)
            if validators is None or header is None:
                raise BlockError(f"evidence of height {height}, which is not kept here")
            if _is_too_old(header, position, time_ms):
                raise BlockError(f"evidence of height {height} is too old")
            verify_evidence(self._chain_id, evidence, validators)
        except (DecodeError, SignatureError) as error:
            raise BlockError(f"evidence: {error}") from error
        return evidence

    def assess(
        self, raw: bytes, position: ChainPosition, time_ms: int
    ) -> DuplicateVoteEvidence | None:
        """Return a peer's evidence if it is genuine and a block may hold it now or soon.

        None if nobody is to blame but it is of no use here: of a height that has not begun, that
        is not kept, or that is too long ago. Evidence of the running height is of use: it may
        enter the block after.

        Raises
        ------
        DecodeError, SignatureError
            If it is the sender's fault.
        """
        evidence = decode(DuplicateVoteEvidence, raw, EVIDENCE_BYTES_MAX)
        height = evidence.first.height
        validators = self._find_validators(height, position)
        if validators is None:
            return None
        verify_evidence(self._chain_id, evidence, validators)
        if height == position.next_height:
            return evidence
        header = self._load_header(height)
        return None if header is None or _is_too_old(header, position, time_ms) else evidence

    def _find_validators(self, height: int, position: ChainPosition) -> ValidatorSet | None:
        if height == position.next_height:
            return position.validators
        stored = self._store.load_document(POSITION_DOCUMENT, height)
        return None if stored is None else decode_position(stored, None).last_validators

    def _load_header(self, height: int) -> Header | None:
        raw = self._store.load_block(height)
        return None if raw is None else decode(Block, raw, len(raw)).header


def _is_too_old(header: Header, position: ChainPosition, time_ms: int) -> bool:
    parameters = position.parameters
    return (
        position.next_height - header.height > parameters.evidence_age_heights_max
        and time_ms - header.time_ms > parameters.evidence_age_ms_max
    )
