"""Members of a permissioned chain: keys, organizations and roles.

Owns who is admitted and what a role allows. On an open chain everybody is admitted and this file
refuses nobody; a revoked member's registrations stay, but it cannot submit under them.
"""

from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.genesis import Admission
from quorate.chain.ids import Address, compute_address
from quorate.chain.transaction import AdmitMember, RevokeMember, Role

from ledger.environment import Environment
from ledger.indexes import MEMBERS_MAX
from ledger.keys import get_member_key
from ledger.records import MemberRecord


def is_permissioned(env: Environment) -> bool:
    """Tell whether only members may act on this chain."""
    return env.view.state.genesis.admission is Admission.PERMISSIONED


def get_member(env: Environment, address: Address) -> MemberRecord | None:
    """Return a member, or None."""
    return env.view.get(get_member_key(address), MemberRecord)


def validate_member(env: Environment, sender: Address) -> None:
    """Check that the sender may act on this chain at all.

    Raises
    ------
    TransactionError
        `not_admitted`.
    """
    if is_permissioned(env) and get_member(env, sender) is None:
        raise TransactionError(
            ErrorCode.NOT_ADMITTED,
            f"The sender {sender.hex()} is no member of this permissioned chain: ask an"
            " administrator of your organization to admit its key.",
        )


def validate_role(env: Environment, sender: Address, role: Role) -> None:
    """Check that the sender has a role, where roles matter.

    Raises
    ------
    TransactionError
        `not_admitted` or `not_authorized`.
    """
    validate_member(env, sender)
    if not has_role(env, sender, role):
        name = str(role.name).lower().replace("_", " ")
        raise TransactionError(
            ErrorCode.NOT_AUTHORIZED,
            f"This takes the role {name}, which the sender {sender.hex()} does not have: ask an"
            " administrator of your organization for it.",
        )


def has_role(env: Environment, sender: Address, role: Role) -> bool:
    """Tell whether a sender has a role; on an open chain everybody has every one."""
    if not is_permissioned(env):
        return True
    member = get_member(env, sender)
    return member is not None and bool(member.roles & role)


def validate_admit_member(env: Environment, sender: Address, body: AdmitMember) -> None:
    """Check that an administrator admits a new key to its own organization.

    Raises
    ------
    TransactionError
        `not_admitted`, `not_authorized`, `already_exists` or `quota_exceeded`.
    """
    _validate_administrator(env, sender, body.organization)
    if get_member(env, compute_address(body.public_key)) is not None:
        raise TransactionError(
            ErrorCode.ALREADY_EXISTS,
            "The key is a member already: revoke it first to admit it with other roles.",
        )
    if env.view.state.indexes.member_count + env.view.created_member_count >= MEMBERS_MAX:
        raise TransactionError(
            ErrorCode.QUOTA_EXCEEDED,
            f"The chain has {MEMBERS_MAX} members, its limit: revoke those who have left.",
        )


def apply_admit_member(env: Environment, body: AdmitMember) -> None:
    """Write the member down."""
    member = MemberRecord(body.public_key, body.organization, body.roles, env.context.height)
    env.view.put(get_member_key(compute_address(body.public_key)), member)
    env.view.created_member_count += 1


def validate_revoke_member(env: Environment, sender: Address, body: RevokeMember) -> None:
    """Check that an administrator revokes a member of its own organization.

    Raises
    ------
    TransactionError
        `not_admitted`, `not_authorized` or `not_found`.
    """
    _validate_permissioned(env)
    validate_role(env, sender, Role.ADMINISTRATOR)
    member = get_member(env, body.member)
    if member is None:
        raise TransactionError(
            ErrorCode.NOT_FOUND,
            f"The address {body.member.hex()} is no member's on this chain: check it.",
        )
    _validate_administrator(env, sender, member.organization)


def apply_revoke_member(env: Environment, body: RevokeMember) -> None:
    """Take the member out."""
    env.view.delete(get_member_key(body.member))
    env.view.created_member_count -= 1


def _validate_permissioned(env: Environment) -> None:
    if not is_permissioned(env):
        raise TransactionError(
            ErrorCode.NOT_AUTHORIZED,
            "This chain is open, it has no members to admit or revoke: just take part.",
        )


def _validate_administrator(env: Environment, sender: Address, organization: str) -> None:
    _validate_permissioned(env)
    validate_role(env, sender, Role.ADMINISTRATOR)
    administrator = get_member(env, sender)
    if administrator is not None and administrator.organization != organization:
        raise TransactionError(
            ErrorCode.NOT_AUTHORIZED,
            f"The sender administers {administrator.organization!r}, not {organization!r}: ask an"
            " administrator of that organization.",
        )
