"""The keys of the state: one prefix byte for each kind of record, then what names the record.

Owns the layout of keys and the places reserved for what follows. Never reads or writes a record.
"""

from enum import IntEnum

from quorate.chain.ids import Address, Hash

SLOT_BYTES = 4
HEIGHT_BYTES = 8
ROUND_BYTES = 8


class Prefix(IntEnum):
    """The first byte of a key.

    `STAKING`, `CONTRACT` and `GOVERNANCE` keep the place of what follows; nothing is stored there.
    """

    CHAIN = 0x01
    PARAMETERS = 0x02
    ACCOUNT = 0x10
    MEMBER = 0x11
    USAGE = 0x12
    TASK = 0x20
    TASK_SPEC = 0x21
    TASK_NAME = 0x22
    REGISTRATION = 0x23
    PARTICIPANT = 0x24
    UPDATE = 0x30
    EVALUATION = 0x31
    EVALUATOR = 0x32
    SEAL = 0x33
    PROPOSER = 0x40
    OFFENCE = 0x41
    STAKING = 0x50
    CONTRACT = 0x60
    GOVERNANCE = 0x70


_ACCOUNT = bytes([Prefix.ACCOUNT])

CHAIN_KEY = bytes([Prefix.CHAIN])
PARAMETERS_KEY = bytes([Prefix.PARAMETERS])


def get_account_key(address: Address) -> bytes:
    """Return the key of an account."""
    return _ACCOUNT + address


def get_member_key(address: Address) -> bytes:
    """Return the key of a member of a permissioned chain."""
    return bytes([Prefix.MEMBER]) + address


def get_usage_key(address: Address) -> bytes:
    """Return the key of what an account takes of the chain's room."""
    return bytes([Prefix.USAGE]) + address


def get_task_key(task_id: Hash) -> bytes:
    """Return the key of a task's changing part."""
    return bytes([Prefix.TASK]) + task_id


def get_task_spec_key(task_id: Hash) -> bytes:
    """Return the key of a task's specification, which never changes."""
    return bytes([Prefix.TASK_SPEC]) + task_id


def get_task_name_key(name: str) -> bytes:
    """Return the key that a task's name is reserved under."""
    return bytes([Prefix.TASK_NAME]) + name.encode()


def get_registration_key(task_id: Hash, participant: Address) -> bytes:
    """Return the key of a participant's registration for a task."""
    return bytes([Prefix.REGISTRATION]) + task_id + participant


def get_participant_key(task_id: Hash, slot: int) -> bytes:
    """Return the key of the `slot`-th registered participant of a task."""
    return bytes([Prefix.PARTICIPANT]) + task_id + slot.to_bytes(SLOT_BYTES, "big")


def get_update_key(task_id: Hash, training_round: int, slot: int) -> bytes:
    """Return the key of the `slot`-th update of a training round that has not ended."""
    place = training_round.to_bytes(ROUND_BYTES, "big") + slot.to_bytes(SLOT_BYTES, "big")
    return bytes([Prefix.UPDATE]) + task_id + place


def get_seal_key(task_id: Hash) -> bytes:
    """Return the key of how a task's frozen training round was sealed."""
    return bytes([Prefix.SEAL]) + task_id


def get_evaluation_key(task_id: Hash, slot: int) -> bytes:
    """Return the key of the `slot`-th evaluation in a task's current training round."""
    return bytes([Prefix.EVALUATION]) + task_id + slot.to_bytes(SLOT_BYTES, "big")


def get_evaluator_key(task_id: Hash, evaluator: Address) -> bytes:
    """Return the key of what is remembered of an evaluator of a task."""
    return bytes([Prefix.EVALUATOR]) + task_id + evaluator


def get_proposer_key(address: Address) -> bytes:
    """Return the key of a validator's last block."""
    return bytes([Prefix.PROPOSER]) + address


def get_offence_key(validator: Address, height: int, round_: int, vote_type: int) -> bytes:
    """Return the key of an offence: one for each slot in which a validator voted twice."""
    return (
        bytes([Prefix.OFFENCE])
        + validator
        + height.to_bytes(HEIGHT_BYTES, "big")
        + round_.to_bytes(SLOT_BYTES, "big")
        + bytes([vote_type])
    )
