"""Validators and peers that lie: honest nodes say why, go on, and stay within their limits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from quorate.chain.block import Block, split_block
from quorate.chain.codec import decode, encode
from quorate.chain.evidence import DuplicateVoteEvidence, make_duplicate_vote_evidence
from quorate.chain.ids import Address, Hash, Height, Signature
from quorate.chain.transaction import Transfer
from quorate.chain.vote import BlockId, Commit, VoteType
from structlog.testing import capture_logs

from consensus.status import RoundStatus
from ledger.offences import is_offence_recorded
from node.agreement.consensus_runner import EARLY_PARTS_MAX
from node.exchange.catching_up import CatchUp
from node.exchange.messages import (
    BlocksAnswer,
    EvidenceMessage,
    GetBlocks,
    NodeStatus,
    PartMessage,
    PartsStatus,
    PendingHashesMessage,
    StoredBlock,
    TransactionEntry,
    TransactionsMessage,
    VotesMessage,
    decode_message,
    decode_request,
    encode_message,
)
from node.execution.executor import BlockContents, ExecutedBlock
from p2p.network import SCORE_MAX, PeerId, Priority
from tests.node.cluster import (
    USERS,
    Cluster,
    Member,
    make_config,
    make_genesis,
    make_key,
    open_cluster,
    sign,
)
from tests.node.execution.chain import change_header, rebuild, sign_vote
from tests.node.hostile import (
    FAKE,
    FAST,
    LIAR,
    OTHER_FAKE,
    Hostile,
    get_score,
    get_top,
    open_attacked,
    require_progress,
    wait_until,
)

# A validator that makes bad blocks.


def add_overdraft(block: Block) -> Block:
    raw = sign(USERS[5], 0, Transfer(USERS[6].address, 10**12))
    return replace(block, transactions=(raw,))


FAULTS: dict[str, tuple[Callable[[Block], Block], str]] = {
    "state root": (change_header(state_root=Hash(b"\x01" * 32)), "state_root is 0101"),
    "model root": (change_header(model_root=Hash(b"\x01" * 32)), "model_root is 0101"),
    "transaction": (add_overdraft, "insufficient_balance"),
    "time": (change_header(time_ms=1), "block time 1 is not after its parent's"),
}


def corrupt_blocks(
    monkeypatch: pytest.MonkeyPatch, member: Member, change: Callable[[Block], Block]
) -> list[BlockId]:
    """Let a member propose changed blocks; return the list of what it will have proposed."""
    executor, made = member.running.services.executor, []
    build = executor.build

    async def build_badly(*args: object) -> ExecutedBlock:
        executed = await build(*args)  # type: ignore[arg-type]
        block_id, raw = rebuild(executed, change)
        made.append(block_id)
        block = decode(Block, raw, len(raw))
        return ExecutedBlock(block, block_id, raw, executed.result, (), ())

    monkeypatch.setattr(executor, "build", build_badly)
    return made


@pytest.mark.parametrize("name", FAULTS)
async def test_a_bad_proposal_gets_nil_with_the_reason_and_the_chain_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, sentence = FAULTS[name]
    with capture_logs() as logs:
        async with open_cluster(tmp_path, config=FAST) as cluster:
            made = corrupt_blocks(monkeypatch, cluster.members[3], change)
            prevotes = watch_prevotes(cluster)
            await wait_until(lambda: len(made) >= 1)
            await require_progress(cluster, 4)
            stored = {
                member.running.services.storage.chain.load_block_hash(height)
                for member in cluster.members
                for height in range(1, member.height + 1)
            }
    refused = [entry for entry in logs if entry["event"] == "invalid_proposal"]
    about_first = [entry for entry in refused if entry["block"] == made[0].hash.hex()]
    # If the time is the fault, it may also be untimely; three honest nodes say so all the same.
    assert len([entry for entry in about_first if sentence in entry["reason"]]) >= 3
    assert all(entry["vote"] == "nil" for entry in refused)
    assert not any(vote in made for vote in prevotes)
    assert None in prevotes
    assert not stored & {block_id.hash for block_id in made}


def watch_prevotes(cluster: Cluster) -> list[BlockId | None]:
    """Return the list of what the nodes will have prevoted for."""
    seen: list[BlockId | None] = []

    def look(_sender: PeerId, _receiver: PeerId, _priority: Priority, body: bytes) -> bool:
        message = decode_message(body)
        if isinstance(message, VotesMessage):
            seen.extend(v.block_id for v in message.votes if v.type is VoteType.PREVOTE)
        return False

    cluster.hub.drop = look
    return seen


async def test_a_block_from_the_future_gets_nil_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with open_cluster(tmp_path, config=FAST) as cluster:
            executor = cluster.members[3].running.services.executor
            build, made = executor.build, []

            async def build_early(
                proposer: Address, time_ms: int, contents: BlockContents
            ) -> ExecutedBlock:
                executed = await build(proposer, time_ms + 60_000, contents)
                made.append(executed.block_id)
                return executed

            monkeypatch.setattr(executor, "build", build_early)
            prevotes = watch_prevotes(cluster)
            await wait_until(lambda: len(made) >= 1)
            await require_progress(cluster, 4)
    reasons = [
        entry["reason"]
        for entry in logs
        if entry["event"] == "invalid_proposal" and entry["block"] == made[0].hash.hex()
    ]
    assert len([reason for reason in reasons if "ahead of this node's clock" in reason]) >= 3
    assert not any(vote in made for vote in prevotes)


# A validator that votes twice.


def make_double_vote(height: int) -> tuple[DuplicateVoteEvidence, bytes]:
    votes = [sign_vote(LIAR, VoteType.PREVOTE, height, block_id) for block_id in (FAKE, OTHER_FAKE)]
    return make_duplicate_vote_evidence(*votes), encode_message(VotesMessage(tuple(votes)))


def is_recorded(member: Member, evidence: DuplicateVoteEvidence) -> bool:
    return is_offence_recorded(member.running.services.executor.state, evidence)


async def test_a_double_vote_ends_as_evidence_in_a_block_of_all(tmp_path: Path) -> None:
    async with open_attacked(tmp_path) as (cluster, hostile):
        evidence, body = make_double_vote(get_top(cluster) + 2)
        hostile.say(body)
        await wait_until(lambda: all(is_recorded(m, evidence) for m in cluster.members))
        # The same offence, proven by another pair of votes, disturbs nobody.
        third = sign_vote(
            LIAR, VoteType.PREVOTE, evidence.first.height, replace(FAKE, hash=Hash(b"\x08" * 32))
        )
        again = make_duplicate_vote_evidence(evidence.first, third)
        hostile.say(encode_message(EvidenceMessage((encode(again), encode(evidence)))))
        await require_progress(cluster)
        assert all(get_score(m, hostile) == SCORE_MAX for m in cluster.members)
        for member in cluster.members:
            await cluster.stop(member)
        for member in cluster.members:
            await cluster.start(member)
        await wait_until(lambda: len(hostile.heard) == 3)
        hostile.say(encode_message(EvidenceMessage((encode(again), encode(evidence)))))
        await require_progress(cluster)


async def test_evidence_that_only_a_bystander_has_finds_its_way(tmp_path: Path) -> None:
    async with open_attacked(tmp_path) as (cluster, hostile):
        await cluster.wait_for_height(2)
        evidence, _ = make_double_vote(get_top(cluster) + 1)
        hostile.network.send(
            cluster.members[0].running.services.network.peer_id,
            Priority.CONSENSUS,
            encode_message(EvidenceMessage((encode(evidence),))),
        )
        await cluster.wait_for_height(evidence.first.height)
        if not any(is_recorded(m, evidence) for m in cluster.members):
            hostile.say(encode_message(EvidenceMessage((encode(evidence),))))
        await wait_until(lambda: all(is_recorded(m, evidence) for m in cluster.members))
        assert get_score(cluster.members[0], hostile) == SCORE_MAX


# A peer that floods.


def make_forged_votes(top: int) -> bytes:
    votes = tuple(
        replace(sign_vote(LIAR, VoteType.PREVOTE, top + 1, FAKE, r), signature=Signature(bytes(64)))
        for r in range(2)
    )
    return encode_message(VotesMessage(votes))


def make_parts(top: int, number: int) -> bytes:
    root, parts = split_block(number.to_bytes(4, "big") * 16_000)
    return encode_message(PartMessage(Height(top + 1), root, parts[0]))


FLOODS: dict[str, tuple[Callable[[int, int], bytes], bool]] = {
    "garbage": (lambda _top, n: bytes([n % 256]) * 50, True),
    "empty": (lambda _top, _n: b"", True),
    "status as message": (
        lambda _top, _n: encode_message(NodeStatus(Height(1), Height(1), None, (), ())),
        True,
    ),
    "forged votes": (lambda top, _n: make_forged_votes(top), True),
    "forged votes in others' names": (
        lambda top, n: encode_message(
            VotesMessage(
                (
                    replace(
                        sign_vote(LIAR, VoteType.PRECOMMIT, top + 1 + n % 3, FAKE),
                        validator=make_key(1 + n % 3).address,
                    ),
                )
            )
        ),
        True,
    ),
    "votes of strangers": (
        lambda top, n: encode_message(
            VotesMessage((sign_vote(make_key(99), VoteType.PREVOTE, top + 1, FAKE, n),))
        ),
        False,
    ),
    "votes of far heights": (
        lambda top, n: encode_message(
            VotesMessage((sign_vote(LIAR, VoteType.PREVOTE, top + 1000 + n, FAKE),))
        ),
        False,
    ),
    "votes of far rounds": (
        lambda top, n: encode_message(
            VotesMessage((sign_vote(LIAR, VoteType.PREVOTE, top + 1, FAKE, 1000 + n),))
        ),
        False,
    ),
    "parts nobody asked for": (make_parts, False),
    "bad transactions": (
        lambda _top, n: encode_message(
            TransactionsMessage((TransactionEntry(bytes([n % 256]) * 40, None),))
        ),
        True,
    ),
    "hashes of nothing": (
        lambda _top, n: encode_message(PendingHashesMessage((Hash(n.to_bytes(32, "big")),))),
        False,
    ),
    "forged evidence": (
        lambda top, _n: encode_message(
            EvidenceMessage(
                (
                    encode(
                        make_duplicate_vote_evidence(
                            sign_vote(make_key(99), VoteType.PREVOTE, top, FAKE),
                            sign_vote(make_key(99), VoteType.PREVOTE, top, OTHER_FAKE),
                        )
                    ),
                )
            )
        ),
        True,
    ),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_stops_nobody_and_costs_its_sender(tmp_path: Path, name: str) -> None:
    make, is_punished = FLOODS[name]
    async with open_attacked(tmp_path) as (cluster, hostile):
        await cluster.wait_for_height(2)
        logged = [member.log.bytes_total for member in cluster.members]
        for number in range(300):
            hostile.say(make(get_top(cluster), number))
            if number % 50 == 0:
                await trio.sleep(0.01)
        await require_progress(cluster)
        if is_punished:
            await wait_until(lambda: all(get_score(m, hostile) < 60 for m in cluster.members))
        else:
            assert all(get_score(m, hostile) > 0 for m in cluster.members)
        for member, before in zip(cluster.members, logged, strict=True):
            assert len(member.running.services.runner._early_parts) <= EARLY_PARTS_MAX
            # Blocks and votes of a few heights; what was flooded is not in it.
            assert member.log.bytes_total - before < 200_000


async def test_a_waiting_node_does_not_log_what_is_thrown_at_it(tmp_path: Path) -> None:
    config = make_config(create_empty_blocks=False)
    genesis = make_genesis(4)
    async with (
        open_cluster(tmp_path, 3, genesis=genesis, config=config) as cluster,
        trio.open_nursery() as nursery,
    ):
        hostile = Hostile(cluster)
        await nursery.start(hostile.network.run, hostile)
        await cluster.wait_for_height(1)
        await wait_until(lambda: len(hostile.heard) == 3)
        await trio.sleep(0.1)
        before = [member.log.bytes_total for member in cluster.members]
        for number in range(500):
            hostile.say(
                encode_message(
                    VotesMessage((sign_vote(LIAR, VoteType.PREVOTE, 10 + number, FAKE),))
                )
            )
        await trio.sleep(0.2)
        assert [member.log.bytes_total for member in cluster.members] == before
        nursery.cancel_scope.cancel()


# A peer that lies about what it has.


async def test_false_heights_are_not_believed(tmp_path: Path) -> None:
    async with open_attacked(tmp_path) as (cluster, hostile):
        hostile.status = NodeStatus(Height(10**9), Height(0), None, (), ())
        catch_ups: list[CatchUp] = [m.running.services.catch_up for m in cluster.members]
        await wait_until(lambda: hostile.asked >= 3)
        await wait_until(lambda: not any(each.is_behind for each in catch_ups))
        await require_progress(cluster)
        await wait_until(lambda: all(get_score(m, hostile) < SCORE_MAX for m in cluster.members))


async def test_false_rounds_and_bitmaps_cost_nothing_but_messages(tmp_path: Path) -> None:
    async with open_attacked(tmp_path) as (cluster, hostile):
        for step in (1, 4):
            top = get_top(cluster)
            hostile.status = NodeStatus(
                Height(top),
                Height(0),
                RoundStatus(Height(top + 1), 2**31 - 1, step, ()),  # type: ignore[arg-type]
                tuple(PartsStatus(Hash(bytes([n]) * 32), b"\xff" * 32) for n in range(40)),
                tuple(bytes([n]) * 8 for n in range(100)),
            )
            hostile.network.send_status_now()
            await require_progress(cluster)


def alter(answer: StoredBlock) -> StoredBlock:
    return StoredBlock(answer.block[:-1] + bytes([answer.block[-1] ^ 1]), answer.commit)


def strip_commit(answer: StoredBlock) -> StoredBlock:
    commit = decode(Commit, answer.commit, 100_000)
    signatures = (commit.signatures[0], *(Signature(b"") for _ in commit.signatures[1:]))
    return StoredBlock(answer.block, encode(replace(commit, signatures=signatures)))


LIES: dict[str, Callable[[StoredBlock], StoredBlock]] = {
    "altered block": alter,
    "no block": lambda answer: StoredBlock(b"", answer.commit),
    "no commit": lambda answer: StoredBlock(answer.block, b""),
    "weak commit": strip_commit,
}


@pytest.mark.parametrize("name", [*LIES, "silence", "garbage", "huge"])
async def test_block_sync_with_a_liar_among_the_peers_arrives(tmp_path: Path, name: str) -> None:
    async with open_attacked(tmp_path) as (cluster, hostile):
        await cluster.wait_for_height(8)
        chain = cluster.members[0].running.services.storage.chain

        def answer(body: bytes) -> bytes | None:
            request = decode_request(body)
            if not isinstance(request, GetBlocks) or name == "silence":
                return None
            if name == "garbage":
                return b"\xc1garbage"
            if name == "huge":
                return encode_message(BlocksAnswer((), 2**40, b""))
            stored = []
            for height in range(request.start, request.start + request.count):
                block, commit = chain.load_block(height), chain.load_commit(height)
                if block is None or commit is None:
                    break
                stored.append(LIES[name](StoredBlock(block, commit)))
            return encode_message(BlocksAnswer(tuple(stored), 0, b""))

        hostile.answer = answer
        hostile.status = NodeStatus(Height(10**6), Height(0), None, (), ())
        # The liar's number is 3, so the follower gets the next one.
        cluster.add(None)
        follower = cluster.add(None)
        cluster.members.pop(3)
        await cluster.start(follower)
        await wait_until(
            lambda: (
                hostile.network.peer_id
                in {info.peer_id for info in follower.running.services.network.peers()}
                or hostile.asked > 0
            )
        )
        hostile.network.dial(follower.running.services.network.listen_addresses[0])
        await cluster.wait_for_height(8)
        await require_progress(cluster)
        await wait_until(lambda: get_score(follower, hostile) < SCORE_MAX)
