"""Catching up: decided blocks fetched from peers that are ahead, while consensus goes on.

Owns what peers claim to have, the pipeline of block requests, and a window of fetched blocks.
Never believes a claim: whoever takes a block out verifies its commit, and says so when it is bad.
It is not a mode: a node that is level simply has nothing to fetch.
"""

import itertools
from dataclasses import dataclass

import structlog
import trio
from quorate.chain.codec import decode
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Height
from quorate.chain.parameters import BLOCK_BYTES_MAX

from node.exchange.messages import (
    BLOCKS_PER_ANSWER_MAX,
    RANGE_BYTES_MAX,
    BlocksAnswer,
    GetBlockRange,
    GetBlocks,
    RangeAnswer,
    encode_message,
)
from p2p.network import RESPONSE_BYTES_MAX, Network, PeerId, RequestFailed

WINDOW_BLOCKS = 512
"""How many blocks ahead of the chain are fetched."""
WINDOW_BYTES_MAX = 64 << 20
"""Fetched blocks that wait to be applied; fetching pauses above it."""
BATCH_BLOCKS = 64
BATCHES_MAX = 4
PATIENCE_S = 0.4
"""A node one height behind waits this long for consensus before it fetches."""
POLL_S = 0.1
REQUEST_TIMEOUT_S = 5.0
BAD_BLOCK_PENALTY = 40
EMPTY_ANSWER_PENALTY = 5
SILENCE_S = 2.0
"""A peer that failed to answer is not asked again for so long; twice as long each time."""
SILENCE_DOUBLINGS_MAX = 5
STALL_S = 2.0
"""Whoever keeps the chain's next block back for so long is no longer waited for."""
STALL_PENALTY = 5
SHRUNK_CLAIM_PENALTY = 20
"""No honest node's chain gets shorter while a link lasts."""

_log = structlog.get_logger("catching_up")


@dataclass(frozen=True, slots=True)
class FetchedBlock:
    """A decided block as a peer has it, not yet verified."""

    height: Height
    block: bytes
    commit: bytes
    peer: PeerId


@dataclass(slots=True)
class _Claim:
    height: Height
    earliest: Height
    resting_until: float = 0.0
    failures: int = 0
    turn: int = 0


@dataclass(slots=True)
class _Asked:
    """A request on its way."""

    peer: PeerId
    heights: range
    since: float
    is_given_up: bool = False


class CatchUp:
    """Keeps a window of fetched blocks ahead of the chain.

    Parameters
    ----------
    network : Network
        Where peers answer `GetBlocks`.
    on_fetched : callable
        Called without arguments when new blocks are there to `take`.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._claims: dict[PeerId, _Claim] = {}
        self._fetched: dict[Height, FetchedBlock] = {}
        self._fetched_bytes = 0
        self._in_flight: set[int] = set()
        self._asked: list[_Asked] = []
        self._turns = 0
        self._level_at = trio.current_time()
        self.height = Height(0)
        self.arrived = trio.Event()

    @property
    def highest_claim(self) -> Height:
        """The highest height that a linked peer claims who has not failed to show its blocks.

        Whoever says that it lacks the next block leads nowhere, however high it claims to be.
        """
        credible = (
            claim.height
            for claim in self._claims.values()
            if not claim.failures and self._is_of_use(claim)
        )
        return max(credible, default=Height(0))

    @property
    def is_behind(self) -> bool:
        """Whether a peer claims to be at least two blocks ahead."""
        return self.highest_claim > self.height + 1

    def on_status(self, peer: PeerId, height: Height, earliest: Height) -> None:
        """Note what a peer claims to have."""
        claim = self._claims.setdefault(peer, _Claim(height, earliest))
        if height < claim.height:
            self._let_rest(peer)
            self._network.report(
                peer, SHRUNK_CLAIM_PENALTY, f"claims height {height} after {claim.height}"
            )
        claim.height, claim.earliest = height, earliest

    def on_peer_disconnected(self, peer: PeerId) -> None:
        """Forget a peer's claim."""
        self._claims.pop(peer, None)

    def advance(self, height: Height) -> None:
        """Note the chain's height; blocks up to it are dropped from the window."""
        before, self.height = self.height, height
        self._level_at = trio.current_time()
        used = self._fetched.get(height)
        if used is not None and used.peer in self._claims:
            self._claims[used.peer].failures = 0
        if self._fetched:
            # Nothing is fetched of heights that are over: there is no need to look at all.
            for old in range(before + 1, height + 1):
                if old in self._fetched:
                    self._drop(Height(old))

    def get(self, height: Height) -> FetchedBlock | None:
        """Return the fetched block of a height, if it is here."""
        return self._fetched.get(height)

    def refuse(self, fetched: FetchedBlock, reason: str) -> None:
        """Drop a block that proved bad, with all others of the same peer, and report the peer."""
        self._network.report(fetched.peer, BAD_BLOCK_PENALTY, reason)
        self._let_rest(fetched.peer)
        for height in [h for h, block in self._fetched.items() if block.peer == fetched.peer]:
            self._drop(height)

    async def run(self) -> None:
        """Fetch until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                if self._is_fetching_due():
                    self._start_batches(nursery)
                    self._replace_stalled(nursery)
                await trio.sleep(POLL_S if not self._in_flight else POLL_S / 10)

    def _is_fetching_due(self) -> bool:
        lag = self._get_target() - self.height
        if lag <= 0:
            self._level_at = trio.current_time()
        is_late = trio.current_time() - self._level_at > PATIENCE_S
        return lag > 1 or (lag == 1 and is_late)

    def _get_target(self) -> Height:
        """Return the highest height that a peer claims who may be asked."""
        now = trio.current_time()
        heights = (
            claim.height
            for claim in self._claims.values()
            if claim.resting_until <= now and self._is_of_use(claim)
        )
        return max(heights, default=Height(0))

    def _is_of_use(self, claim: _Claim) -> bool:
        return claim.earliest <= self.height + 1

    def _let_rest(self, peer: PeerId) -> None:
        """Ask others for a while, and longer each time, until the peer sends a good block."""
        claim = self._claims.get(peer)
        if claim is not None:
            rest_s = SILENCE_S * 2 ** min(claim.failures, SILENCE_DOUBLINGS_MAX)
            claim.failures += 1
            claim.resting_until = trio.current_time() + rest_s

    def _start_batches(self, nursery: trio.Nursery) -> None:
        batches = len({height // BATCH_BLOCKS for height in self._in_flight})
        while batches < BATCHES_MAX and self._fetched_bytes < WINDOW_BYTES_MAX:
            heights = self._next_missing()
            peer = self._choose_peer(heights)
            if not heights or peer is None:
                return
            self._ask_for(nursery, peer, heights)
            batches += 1

    def _ask_for(self, nursery: trio.Nursery, peer: PeerId, heights: range) -> None:
        asked = _Asked(peer, heights, trio.current_time())
        self._in_flight.update(heights)
        self._asked.append(asked)
        nursery.start_soon(self._fetch, asked)

    def _replace_stalled(self, nursery: trio.Nursery) -> None:
        """Ask somebody else for the next block, if one peer keeps everybody waiting for it.

        Blocks after it may come as fast as they like: without it the chain stands still.
        """
        wanted, deadline = self.height + 1, trio.current_time() - STALL_S
        asked = [each for each in self._asked if wanted in each.heights and not each.is_given_up]
        if not asked or wanted in self._fetched or any(each.since > deadline for each in asked):
            return
        heights = range(wanted, asked[0].heights.stop)
        others = frozenset(each.peer for each in self._asked if wanted in each.heights)
        peer = self._choose_peer(heights, others)
        if peer is None:
            return
        for each in asked:
            each.is_given_up = True
            self._let_rest(each.peer)
            self._network.report(each.peer, STALL_PENALTY, "keeps the next block back")
        self._ask_for(nursery, peer, heights)

    def _next_missing(self) -> range:
        """Return the first run of heights in the window that nobody was asked for."""
        top = min(self._get_target(), self.height + WINDOW_BLOCKS)
        wanted = (
            height
            for height in range(self.height + 1, top + 1)
            if height not in self._in_flight and height not in self._fetched
        )
        first = next(wanted, None)
        if first is None:
            return range(0)
        last = first
        for height in itertools.islice(wanted, BATCH_BLOCKS - 1):
            if height != last + 1:
                break
            last = height
        return range(first, last + 1)

    def _choose_peer(
        self, heights: range, others: frozenset[PeerId] = frozenset()
    ) -> PeerId | None:
        """Return who claims these heights and was not asked for longest, but none of `others`."""
        if not heights:
            return None
        now = trio.current_time()
        able = [
            (claim.turn, peer)
            for peer, claim in self._claims.items()
            if claim.earliest <= heights[0] <= claim.height
            and claim.resting_until <= now
            and peer not in others
        ]
        if not able:
            return None
        peer = min(able)[1]
        self._turns += 1
        self._claims[peer].turn = self._turns
        return peer

    async def _fetch(self, asked: _Asked) -> None:
        peer, heights = asked.peer, asked.heights
        try:
            blocks = await self._request_blocks(peer, heights)
        except (RequestFailed, DecodeError) as error:
            blocks = []
            if isinstance(error, DecodeError):
                self._network.report(peer, BAD_BLOCK_PENALTY, str(error))
        finally:
            self._asked.remove(asked)
            self._in_flight.difference_update(heights)
        if not blocks:
            self._let_rest(peer)
            self._network.report(peer, EMPTY_ANSWER_PENALTY, "claimed blocks it did not send")
            return
        for block in blocks:
            if block.height > self.height and block.height not in self._fetched:
                self._fetched[block.height] = block
                self._fetched_bytes += len(block.block) + len(block.commit)
        self.arrived.set()
        self.arrived = trio.Event()

    async def _request_blocks(self, peer: PeerId, heights: range) -> list[FetchedBlock]:
        count = min(len(heights), BLOCKS_PER_ANSWER_MAX)
        raw = await self._ask(peer, GetBlocks(Height(heights[0]), count))
        answer = decode(BlocksAnswer, raw, RESPONSE_BYTES_MAX)
        if answer.large_block_bytes:
            block = await self._request_large_block(
                peer, Height(heights[0]), answer.large_block_bytes
            )
            return [FetchedBlock(Height(heights[0]), block, answer.large_block_commit, peer)]
        return [
            FetchedBlock(Height(height), stored.block, stored.commit, peer)
            for height, stored in zip(heights, answer.blocks, strict=False)
        ]

    async def _request_large_block(self, peer: PeerId, height: Height, total: int) -> bytes:
        if total > BLOCK_BYTES_MAX:
            raise DecodeError(f"block of {total} bytes exceeds its limit")
        slices: list[bytes] = []
        received = 0
        while received < total:
            raw = await self._ask(peer, GetBlockRange(height, received, RANGE_BYTES_MAX))
            answer = decode(RangeAnswer, raw, RESPONSE_BYTES_MAX)
            # Whole slices alone: a byte at a time would hold up all blocks after this one.
            if answer.total != total or len(answer.data) != min(RANGE_BYTES_MAX, total - received):
                raise DecodeError("a block came in slices that were not asked for")
            slices.append(answer.data)
            received += len(answer.data)
        return b"".join(slices)

    async def _ask(self, peer: PeerId, request: GetBlocks | GetBlockRange) -> bytes:
        return await self._network.request(
            peer,
            encode_message(request),
            response_bytes_max=RESPONSE_BYTES_MAX,
            timeout_s=REQUEST_TIMEOUT_S,
        )

    def _drop(self, height: Height) -> None:
        block = self._fetched.pop(height)
        self._fetched_bytes -= len(block.block) + len(block.commit)
