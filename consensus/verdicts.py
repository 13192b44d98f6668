"""What is known of valid(v) for the blocks of one height.

Owns the verdicts and the open questions, within a bound. Never judges.
"""

from quorate.chain.errors import InvariantError
from quorate.chain.vote import BlockId

from consensus.effects import JudgeProposal
from consensus.inputs import ProposalJudged

VERDICTS_MAX = 64
"""Blocks of one height with a verdict or an open question; the oldest unprotected one goes first.
A round brings two at most: the block of its proposal, and another with a polka."""


class Verdicts:
    """The verdicts of one height, by block id.

    By block id and not by hash alone: an id with the wrong parts names a block that nobody can
    fetch, and must not borrow the verdict of the right one.
    """

    __slots__ = ("_by_block",)

    def __init__(self) -> None:
        self._by_block: dict[BlockId, ProposalJudged | JudgeProposal] = {}

    def __len__(self) -> int:
        return len(self._by_block)

    def get(self, block_id: BlockId) -> ProposalJudged | None:
        """Return the verdict on a block, if there is one yet."""
        known = self._by_block.get(block_id)
        return known if isinstance(known, ProposalJudged) else None

    def is_valid(self, block_id: BlockId) -> bool:
        """Tell whether a block has been judged valid."""
        verdict = self.get(block_id)
        return verdict is not None and verdict.is_valid

    def get_open(self) -> list[JudgeProposal]:
        """Return the questions without an answer, oldest first."""
        return [known for known in self._by_block.values() if isinstance(known, JudgeProposal)]

    def ask(self, question: JudgeProposal, protected: tuple[BlockId | None, ...]) -> bool:
        """Note a question; False if it was asked before."""
        if question.block_id in self._by_block:
            return False
        self._make_room(protected)
        self._by_block[question.block_id] = question
        return True

    def answer(self, verdict: ProposalJudged, protected: tuple[BlockId | None, ...]) -> bool:
        """Note a verdict; False if there is one already, which stays."""
        if self.get(verdict.block_id) is not None:
            return False
        if verdict.block_id not in self._by_block:
            self._make_room(protected)
        self._by_block[verdict.block_id] = verdict
        return True

    def _make_room(self, protected: tuple[BlockId | None, ...]) -> None:
        if len(self._by_block) < VERDICTS_MAX:
            return
        for block_id in self._by_block:
            if block_id not in protected:
                del self._by_block[block_id]
                return
        raise InvariantError("more blocks are protected than verdicts are kept")
