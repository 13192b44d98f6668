"""Who is admitted to a permissioned chain, and what each role allows."""

import pytest
from quorate.chain.errors import ErrorCode
from quorate.chain.genesis import Admission, GenesisMember
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import (
    AdmitMember,
    Body,
    RegisterParticipant,
    RevokeMember,
    RevokeParticipant,
    Role,
    SubmitEvaluation,
    Transfer,
)

from ledger.queries import get_members
from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    PARTICIPANTS,
    STRANGER,
    Chain,
    make_key,
    make_spec,
)

ADMIN, OTHER_ADMIN, AUDITOR = make_key(50), make_key(51), make_key(52)
PROVIDER = PARTICIPANTS[0]
MEMBERS = (
    GenesisMember(ADMIN.public_key, "clinic", Role.ADMINISTRATOR),
    GenesisMember(OTHER_ADMIN.public_key, "lab", Role.ADMINISTRATOR),
    GenesisMember(AUDITOR.public_key, "lab", Role.AUDITOR),
    GenesisMember(AUTHORITY.public_key, "lab", Role.MODEL_USER),
    GenesisMember(PARTICIPANTS[0].public_key, "clinic", Role.DATA_PROVIDER),
    GenesisMember(PARTICIPANTS[1].public_key, "clinic", Role.DATA_PROVIDER),
)


def make_chain() -> Chain:
    return Chain(admission=Admission.PERMISSIONED, members=MEMBERS)


def admit(
    key: PrivateKey, roles: int = Role.DATA_PROVIDER, organization: str = "clinic"
) -> AdmitMember:
    return AdmitMember(key.public_key, organization, roles)


def test_an_administrator_admits_and_revokes() -> None:
    chain = make_chain()
    transfer = chain.sign(STRANGER, Transfer(ADMIN.address, 0))
    chain.assert_refused(transfer, ErrorCode.NOT_ADMITTED, "no member of this permissioned chain")
    chain.run_block(chain.sign(ADMIN, admit(STRANGER)))
    assert STRANGER.address in chain.state.member_addresses
    chain.run_block(chain.sign(STRANGER, Transfer(ADMIN.address, 0)))
    chain.run_block(chain.sign(ADMIN, RevokeMember(STRANGER.address)))
    assert STRANGER.address not in chain.state.member_addresses
    again = chain.sign(STRANGER, Transfer(ADMIN.address, 0))
    chain.assert_refused(again, ErrorCode.NOT_ADMITTED, "ask an administrator")
    chain.run_block(chain.sign(ADMIN, admit(STRANGER, Role.AUDITOR)))
    (member,) = [m for m in get_members(chain.state) if m.address == STRANGER.address]
    assert (member.record.roles, member.record.organization) == (Role.AUDITOR, "clinic")


def test_who_is_admitted_in_a_block_may_act_in_it() -> None:
    chain = make_chain()
    chain.run_block(
        chain.sign(ADMIN, admit(STRANGER)),
        chain.sign(STRANGER, Transfer(ADMIN.address, 0)),
        chain.sign(ADMIN, RevokeMember(STRANGER.address), ahead=1),
    )
    late = chain.sign(STRANGER, Transfer(ADMIN.address, 0))
    chain.assert_refused(late, ErrorCode.NOT_ADMITTED, "no member")


@pytest.mark.parametrize(
    ("sender", "body", "code", "words"),
    [
        (STRANGER, admit(make_key(60)), ErrorCode.NOT_ADMITTED, "no member"),
        (PROVIDER, admit(STRANGER), ErrorCode.NOT_AUTHORIZED, "role administrator"),
        (OTHER_ADMIN, admit(STRANGER), ErrorCode.NOT_AUTHORIZED, "administers 'lab', not 'clinic'"),
        (ADMIN, admit(PROVIDER), ErrorCode.ALREADY_EXISTS, "revoke it first"),
        (PROVIDER, RevokeMember(PROVIDER.address), ErrorCode.NOT_AUTHORIZED, "role administrator"),
        (ADMIN, RevokeMember(STRANGER.address), ErrorCode.NOT_FOUND, "no member's on this chain"),
        (OTHER_ADMIN, RevokeMember(PROVIDER.address), ErrorCode.NOT_AUTHORIZED, "not 'clinic'"),
    ],
)
def test_administration_is_refused(
    sender: PrivateKey, body: Body, code: ErrorCode, words: str
) -> None:
    chain = make_chain()
    chain.assert_refused(chain.sign(sender, body), code, words)


def test_each_role_allows_its_own() -> None:
    chain = make_chain()
    creation = chain.make_creation(make_spec())
    chain.assert_refused(
        chain.sign(PROVIDER, creation), ErrorCode.NOT_AUTHORIZED, "role model user"
    )
    task_id = chain.create_task(participants=2)
    for sender in (AUTHORITY, AUDITOR, ADMIN):
        chain.assert_refused(
            chain.sign(sender, RegisterParticipant(task_id)),
            ErrorCode.NOT_AUTHORIZED,
            "role data provider",
        )
    evaluation = make_evaluation(chain, task_id)
    for sender in (AUTHORITY, PROVIDER, ADMIN):
        chain.assert_refused(
            chain.sign(sender, evaluation), ErrorCode.NOT_AUTHORIZED, "role auditor"
        )
    chain.run_block(chain.sign(AUDITOR, evaluation))
    chain.submit(task_id, 1, 2)
    assert chain.get_task(task_id).rounds_finalized == 1


def make_evaluation(chain: Chain, task_id: Hash) -> SubmitEvaluation:
    task = chain.get_task(task_id)
    return SubmitEvaluation(task_id, task.training_round, task.weights_root, 5, 100)


def test_a_revoked_member_submits_no_more_though_registered() -> None:
    chain = make_chain()
    task_id = chain.create_task(participants=2)
    chain.run_block(chain.sign(ADMIN, RevokeMember(PROVIDER.address)))
    update = chain.sign(PROVIDER, chain.make_update(task_id, [1] * DIMENSION))
    chain.assert_refused(update, ErrorCode.NOT_ADMITTED, "no member")
    chain.assert_refused(
        chain.sign(PROVIDER, RevokeParticipant(task_id, PROVIDER.address)),
        ErrorCode.NOT_ADMITTED,
        "no member",
    )
    chain.run_block(chain.sign(AUTHORITY, RevokeParticipant(task_id, PROVIDER.address)))
    assert chain.get_task(task_id).registered_count == 1


def test_an_open_chain_has_no_members() -> None:
    chain = Chain()
    for body in (admit(STRANGER), RevokeMember(STRANGER.address)):
        chain.assert_refused(chain.sign(ADMIN, body), ErrorCode.NOT_AUTHORIZED, "chain is open")
    assert get_members(chain.state) == []


def test_members_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.membership.MEMBERS_MAX", len(MEMBERS) + 1)
    chain = make_chain()
    last = chain.sign(ADMIN, admit(STRANGER))
    more = chain.sign(ADMIN, admit(make_key(61)), ahead=1)
    chain.assert_refused(more, ErrorCode.QUOTA_EXCEEDED, "members, its limit", last)
    chain.run_block(last)
    chain.run_block(
        chain.sign(ADMIN, RevokeMember(PROVIDER.address)),
        chain.sign(ADMIN, admit(make_key(61)), ahead=1),
    )
