"""The stored chain at the start of a node: begun from the genesis, or taken up where it stands.

Owns the check that what is stored belongs to the genesis and agrees with itself. Never repairs it.
"""

from quorate.chain.codec import decode
from quorate.chain.errors import StorageError
from quorate.chain.genesis import Genesis
from quorate.chain.vote import COMMIT_BYTES_MAX, Commit

from ledger.genesis import build_genesis_state, compute_genesis_roots
from ledger.state import State, compute_bucket
from node.errors import GenesisError
from node.execution.chain_position import (
    POSITION_DOCUMENT,
    ChainPosition,
    decode_position,
    make_genesis_position,
)
from store.chain_store import ChainStore

GENESIS_DOCUMENT = "genesis"


def initialize_storage(chain: ChainStore, genesis: Genesis) -> None:
    """Store the genesis state, or check that what is stored began with this genesis.

    Raises
    ------
    GenesisError
        If the store belongs to another genesis.
    """
    if not chain.is_initialized:
        roots = compute_genesis_roots(genesis)
        position = make_genesis_position(genesis, roots.state_root, roots.model_root)
        chain.initialize(
            build_genesis_state(genesis),
            lambda key: compute_bucket(key, genesis.bucket_count),
            {POSITION_DOCUMENT: position.encode(), GENESIS_DOCUMENT: genesis.hash},
            initial_height=genesis.initial_height,
        )
    stored = chain.load_document(GENESIS_DOCUMENT)
    if stored != genesis.hash:
        found = stored.hex() if stored is not None else "none"
        raise GenesisError(
            f"the data folder belongs to genesis {found}, but the genesis file is "
            f"{genesis.hash.hex()}: use the genesis file the node was set up with, or another home"
        )


def load_position(chain: ChainStore, state: State) -> ChainPosition:
    """Return where the stored chain stands.

    Raises
    ------
    StorageError
        If the record is missing, or the state's root is not the one recorded.
    """
    raw = chain.load_document(POSITION_DOCUMENT)
    if raw is None:
        raise StorageError(
            "the database has no record of the chain's position: restore the data folder from a "
            "backup, or remove it and let the node catch up from its peers"
        )
    stored_commit = chain.load_commit(chain.height) if chain.height else None
    commit = decode(Commit, stored_commit, COMMIT_BYTES_MAX) if stored_commit else None
    position = decode_position(raw, commit)
    if state.root != position.state_root:
        raise StorageError(
            f"the stored state has root {state.root.hex()}, but height {position.height} was "
            f"decided with {position.state_root.hex()}: the database is damaged; restore the data "
            "folder from a backup, or remove it and let the node catch up from its peers"
        )
    return position
