"""The state before the first block.

Owns how the genesis document becomes records, and the roots that follow. Never reads the document
from anywhere.
"""

from dataclasses import dataclass

from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash, compute_address
from quorate.chain.merkle import EMPTY_ROOT

from ledger.keys import CHAIN_KEY, PARAMETERS_KEY, get_account_key, get_member_key
from ledger.records import (
    NO_TIME,
    AccountRecord,
    ChainRecord,
    MemberRecord,
    ParametersRecord,
    Record,
    encode_record,
)
from ledger.state import DictReader, State


@dataclass(frozen=True, slots=True)
class GenesisRoots:
    """The roots before the first block."""

    state_root: Hash
    receipts_root: Hash
    model_root: Hash


def build_genesis_state(genesis: Genesis) -> dict[bytes, bytes]:
    """Return the entries that the first block builds on, sorted by key."""
    last_height = genesis.initial_height - 1
    records: dict[bytes, Record] = {
        CHAIN_KEY: ChainRecord(last_height, genesis.genesis_time_ms, NO_TIME),
        PARAMETERS_KEY: ParametersRecord(genesis.parameters, 0),
    }
    for account in genesis.accounts:
        records[get_account_key(account.address)] = AccountRecord(0, account.balance)
    for member in genesis.members:
        records[get_member_key(compute_address(member.public_key))] = MemberRecord(
            member.public_key, member.organization, member.roles, last_height
        )
    return {key: encode_record(record) for key, record in sorted(records.items())}


def compute_genesis_roots(genesis: Genesis) -> GenesisRoots:
    """Return the roots of the state before the first block."""
    reader = DictReader(build_genesis_state(genesis), genesis.bucket_count)
    state = State(reader, genesis)
    return GenesisRoots(state.root, EMPTY_ROOT, state.model_root)
