"""The signer: never two votes that contradict each other, whatever happens in between."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorate.chain.errors import InvariantError
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import (
    BlockId,
    VoteType,
    is_proposal_signature_valid,
    is_vote_signature_valid,
)

from consensus.effects import UnsignedProposal, UnsignedVote
from node.agreement import signer as signer_module
from node.agreement.sign_record import SIGN_BYTES_MAX, SignRecord, SignStep, read_sign_record
from node.agreement.signer import Signer
from node.errors import DoubleSignError, SignRecordError
from store.errors import DiskFull
from store.slotted_file import CELL_BYTES, FILE_BYTES, RECORD_BYTES_MAX, create_slotted

CHAIN_ID = "signer-test"
KEY = PrivateKey(b"v" * 32)
VALIDATORS = ValidatorSet.from_powers([(KEY.public_key, 1)])
ROOT = Path(__file__).parents[2]


def make_block_id(number: int) -> BlockId:
    return BlockId(Hash(bytes([number]) * 32), 1, Hash(bytes([number]) * 32))


A, B = make_block_id(1), make_block_id(2)


def vote(type_: VoteType, height: int, round_: int, block_id: BlockId | None) -> UnsignedVote:
    return UnsignedVote(type_, height, round_, block_id)


def prevote(height: int, round_: int = 0, block_id: BlockId | None = A) -> UnsignedVote:
    return vote(VoteType.PREVOTE, height, round_, block_id)


def precommit(height: int, round_: int = 0, block_id: BlockId | None = A) -> UnsignedVote:
    return vote(VoteType.PRECOMMIT, height, round_, block_id)


def propose(
    height: int, round_: int = 0, block_id: BlockId = A, time_ms: int = 5
) -> UnsignedProposal:
    return UnsignedProposal(height, round_, -1, block_id, time_ms)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "validator_state.json"


@pytest.fixture
def signer(path: Path) -> Signer:
    return Signer(KEY, path, CHAIN_ID, is_record_optional=True)


def reopen(path: Path) -> Signer:
    return Signer(KEY, path, CHAIN_ID)


def test_signatures_are_valid(signer: Signer) -> None:
    proposal = signer.sign_proposal(propose(1))
    assert is_proposal_signature_valid(CHAIN_ID, proposal, VALIDATORS)
    for unsigned in (prevote(1), precommit(1), prevote(1, 1, None), precommit(1, 1, None)):
        signed = signer.sign_vote(unsigned)
        assert is_vote_signature_valid(CHAIN_ID, signed, VALIDATORS)
        assert (signed.type, signed.height, signed.round, signed.block_id) == (
            unsigned.type,
            unsigned.height,
            unsigned.round,
            unsigned.block_id,
        )


def test_the_same_again_is_the_same_signature(signer: Signer, path: Path) -> None:
    signed = signer.sign_vote(prevote(3))
    before = path.stat().st_mtime_ns
    assert signer.sign_vote(prevote(3)) == signed
    assert reopen(path).sign_vote(prevote(3)) == signed
    assert path.stat().st_mtime_ns == before, "nothing new was written"
    proposal = reopen(path).sign_proposal(propose(4))
    assert reopen(path).sign_proposal(propose(4)) == proposal


@pytest.mark.parametrize(
    "conflicting",
    [prevote(3, 1, B), prevote(3, 1, None)],
)
def test_a_conflict_is_refused(signer: Signer, path: Path, conflicting: UnsignedVote) -> None:
    signer.sign_vote(prevote(3, 1, A))
    for each in (signer, reopen(path)):
        with pytest.raises(DoubleSignError, match="already signed another prevote at height 3"):
            each.sign_vote(conflicting)


@pytest.mark.parametrize(
    "conflicting",
    [propose(3, block_id=B), propose(3, time_ms=6), UnsignedProposal(3, 0, 0, A, 5)],
)
def test_a_conflicting_proposal_is_refused(
    signer: Signer, path: Path, conflicting: UnsignedProposal
) -> None:
    signer.sign_proposal(propose(3))
    for each in (signer, reopen(path)):
        with pytest.raises(DoubleSignError, match="another proposal"):
            each.sign_proposal(conflicting)


def test_regressions_are_refused(signer: Signer, path: Path) -> None:
    signer.sign_vote(precommit(3, 2))
    for each in (signer, reopen(path)):
        for earlier in (prevote(3, 2), precommit(3, 1), prevote(2, 9), precommit(2, 2)):
            with pytest.raises(DoubleSignError, match="height 3, round 2, after the"):
                each.sign_vote(earlier)
        with pytest.raises(DoubleSignError):
            each.sign_proposal(propose(3, 2))
        assert each.last_signed.position == (3, 2, SignStep.PRECOMMIT)


def test_steps_follow_in_their_order(signer: Signer) -> None:
    signer.sign_proposal(propose(1, 0))
    signer.sign_vote(prevote(1, 0))
    signer.sign_vote(precommit(1, 0))
    # Higher rounds and heights may leave steps out.
    signer.sign_vote(prevote(1, 4))
    signer.sign_vote(precommit(7, 0))


def test_a_missing_record_refuses_unless_vouched_for(path: Path) -> None:
    with pytest.raises(SignRecordError, match=r"is missing.*--accept-missing-sign-record"):
        Signer(KEY, path, CHAIN_ID)
    assert not path.exists()
    Signer(KEY, path, CHAIN_ID, is_record_optional=True)
    # From now on there is one.
    assert reopen(path).last_signed.position == (0, 0, SignStep.NOTHING)


def test_a_record_of_another_key_or_chain_is_refused(signer: Signer, path: Path) -> None:
    signer.sign_vote(prevote(1))
    for key, chain_id in ((PrivateKey(b"w" * 32), CHAIN_ID), (KEY, "another")):
        with pytest.raises(SignRecordError, match="belongs to validator"):
            Signer(key, path, chain_id, is_record_optional=True)


def encode_record(signer: Signer) -> bytes:
    return msgspec.json.encode(signer.last_signed)


def test_damage_is_refused(signer: Signer, path: Path) -> None:
    signer.sign_vote(prevote(5))
    good = path.read_bytes()
    for damaged in (b"", good[:-20], good + b"\x00", b"\xff" + good, bytes(FILE_BYTES)):
        path.write_bytes(damaged)
        with pytest.raises(SignRecordError, match="is damaged"):
            Signer(KEY, path, CHAIN_ID, is_record_optional=True)
    path.write_bytes(good)
    assert reopen(path).last_signed.height == 5


def test_a_changed_record_is_refused_though_its_cells_are_whole(signer: Signer, path: Path) -> None:
    """Somebody has edited it, in the form of today or in that of before."""
    signer.sign_vote(prevote(5))
    good = encode_record(signer)
    lowered = json.dumps(json.loads(good) | {"height": 4}).encode()
    for changed in (lowered, good.replace(b'"step":2', b'"step":1'), good[:-20], b"{}"):
        assert changed != good
        for write in (create_slotted, Path.write_bytes):
            write(path, changed)
            with pytest.raises(SignRecordError, match="is damaged"):
                Signer(KEY, path, CHAIN_ID, is_record_optional=True)
    path.write_bytes(good + b" " * RECORD_BYTES_MAX)
    with pytest.raises(SignRecordError, match="is damaged"):
        reopen(path)


def test_a_record_of_the_old_form_is_taken_over(signer: Signer, path: Path) -> None:
    signed = signer.sign_vote(prevote(5))
    path.write_bytes(encode_record(signer) + b"\n")
    assert read_sign_record(path) == signer.last_signed
    again = reopen(path)
    assert path.stat().st_size == FILE_BYTES
    assert again.sign_vote(prevote(5)) == signed
    with pytest.raises(DoubleSignError):
        again.sign_vote(prevote(5, 0, B))
    again.sign_vote(precommit(5))
    assert reopen(path).last_signed.step is SignStep.PRECOMMIT


def test_damage_to_any_byte_never_brings_back_an_older_record(signer: Signer, path: Path) -> None:
    signer.sign_vote(prevote(5))
    signer.sign_vote(precommit(5))
    good, record = path.read_bytes(), signer.last_signed
    for position in [i for i in range(FILE_BYTES) if good[i]]:
        damaged = bytearray(good)
        damaged[position] ^= 0x5A
        path.write_bytes(damaged)
        assert read_sign_record(path) == record
    for start in range(0, FILE_BYTES, CELL_BYTES):
        path.write_bytes(good[:start] + bytes(CELL_BYTES) + good[start + CELL_BYTES :])
        with pytest.raises(DoubleSignError):
            reopen(path).sign_vote(precommit(5, 0, B))


def test_a_write_torn_at_every_byte_leaves_the_last_record_or_the_new_one(
    signer: Signer, path: Path
) -> None:
    signer.sign_vote(prevote(5))
    before, last = path.read_bytes(), signer.last_signed
    signer.sign_vote(precommit(5))
    after, newer = path.read_bytes(), signer.last_signed
    changed = [i for i in range(FILE_BYTES) if before[i] != after[i]]
    seen: set[SignRecord] = set()
    for cut in (*changed, FILE_BYTES):
        for torn in (after[:cut] + before[cut:], before[:cut] + after[cut:]):
            path.write_bytes(torn)
            record = read_sign_record(path)
            assert record in (last, newer)
            seen.add(record)
    assert seen == {last, newer}


def test_an_unreadable_record_is_told(path: Path) -> None:
    path.mkdir()
    with pytest.raises(SignRecordError, match="cannot be read"):
        reopen(path)


def test_the_record_is_durable_before_the_signature_leaves(
    signer: Signer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    for name in ("fdatasync", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda fd, name=name, real=real: (steps.append(name), real(fd))
        )
    signed = signer.sign_vote(prevote(9))
    steps.append("signature")
    assert steps == ["fdatasync", "signature"]
    assert path.read_bytes().count(signed.signature.hex().encode()) == 2


def test_no_signature_leaves_when_the_record_cannot_be_written(
    signer: Signer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise DiskFull("The disk has no room.")

    with monkeypatch.context() as patch:
        patch.setattr(signer_module, "write_slotted", fail)
        with pytest.raises(DiskFull):
            signer.sign_vote(prevote(2, 0, A))
    assert signer.last_signed.height == 0
    # No signature of A left, so B is no contradiction.
    signer.sign_vote(prevote(2, 0, B))
    assert reopen(path).last_signed.height == 2


_TORN = """
    import os, signal, sys
    from pathlib import Path
    from consensus.effects import UnsignedVote
    from node.agreement.signer import Signer
    from quorate.chain.keys import PrivateKey
    from quorate.chain.vote import VoteType

    key = PrivateKey(b"v" * 32)
    signer = Signer(key, Path(sys.argv[1]), "signer-test", is_record_optional=True)
    print(signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 1, 0, None)).signature.hex(), flush=True)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.argv[2] == "before":
        os.lseek = die
    else:
        os.fdatasync = die
    print(signer.sign_vote(UnsignedVote(VoteType.PREVOTE, 2, 0, None)).signature.hex(), flush=True)
"""


@pytest.mark.parametrize(("when", "height"), [("before", 1), ("after", 2)])
def test_a_kill_around_the_write_leaves_one_whole_record(
    path: Path, when: str, height: int
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_TORN), str(path), when],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        check=False,
    )
    assert process.returncode == -9
    printed = process.stdout.split()
    assert len(printed) == 1, "the second signature never left"
    signer = reopen(path)
    assert signer.last_signed.height == height
    if when == "before":
        again = signer.sign_vote(prevote(1, 0, None))
        assert again.signature.hex().encode() == printed[0]
    else:
        with pytest.raises(DoubleSignError):
            signer.sign_vote(prevote(2, 0, A))
    signer.sign_vote(prevote(3, 0, A))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_is_signed_is_bounded(signer: Signer) -> None:
    huge = Signer.__dict__["_sign"]
    with pytest.raises(InvariantError, match="exceed"):
        huge(signer, "vote", 1, 0, SignStep.PREVOTE, bytes(SIGN_BYTES_MAX + 1))
    assert signer.last_signed.height == 0


requests = st.lists(
    st.tuples(
        st.sampled_from([SignStep.PROPOSAL, SignStep.PREVOTE, SignStep.PRECOMMIT]),
        st.integers(1, 3),
        st.integers(0, 2),
        st.sampled_from([A, B]),
        st.booleans(),
    ),
    max_size=25,
)


@given(requests)
@settings(max_examples=25, deadline=None)
def test_no_two_signatures_for_one_step(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[SignStep, int, int, BlockId, bool]],
) -> None:
    path = tmp_path_factory.mktemp("signer") / "state.json"
    signer = Signer(KEY, path, CHAIN_ID, is_record_optional=True)
    given_out: dict[tuple[int, int, SignStep], BlockId] = {}
    highest = (0, 0, SignStep.NOTHING)
    for step, height, round_, block_id, is_restarted in asked:
        if is_restarted:
            signer = reopen(path)
        position = (height, round_, step)
        is_allowed = position > highest or (position == highest and given_out[position] == block_id)
        try:
            if step is SignStep.PROPOSAL:
                signer.sign_proposal(propose(height, round_, block_id))
            else:
                signer.sign_vote(vote(VoteType(step - 1), height, round_, block_id))
        except DoubleSignError:
            assert not is_allowed
            continue
        assert is_allowed
        assert given_out.setdefault(position, block_id) == block_id
        highest = position
