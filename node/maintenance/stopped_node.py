"""Hold of a home folder whose node does not run.

Owns the lock and what every work on the data needs. Never changes anything itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from quorate.chain.genesis import Genesis

from node.config import Config, load_config
from node.errors import GenesisError, HomeInUse, MaintenanceError
from node.home import Home
from node.storage import NodeStorage, open_storage

GENESIS_DOCUMENT_ERROR = (
    "The data folder {folder} belongs to genesis {found}, but the genesis file is {expected}: use "
    "the genesis file the node was set up with."
)


@dataclass(frozen=True, slots=True)
class StoppedNode:
    """A locked home folder and what its files say."""

    home: Home
    config: Config
    genesis: Genesis


@contextmanager
def hold(home: Home) -> Iterator[StoppedNode]:
    """Lock a home folder against its node.

    Raises
    ------
    HomeInUse
        If the node runs.
    HomeError, ConfigError
        If the folder, the settings or the genesis file cannot be used.
    """
    with lock_stopped(home):
        yield StoppedNode(home, load_config(home), home.read_genesis())


@contextmanager
def lock_stopped(home: Home) -> Iterator[None]:
    """Lock a home folder, whatever state its files are in.

    Raises
    ------
    HomeInUse
        If the node runs.
    HomeError
        If it is no home folder.
    """
    try:
        lock = home.lock()
    except HomeInUse as error:
        raise HomeInUse(f"This works on a stopped node only. {error}") from error
    with lock:
        yield


@contextmanager
def open_stopped(node: StoppedNode) -> Iterator[NodeStorage]:
    """Open the stores of a held home folder that has decided something.

    Raises
    ------
    StorageError
        If a store cannot be opened.
    GenesisError
        If the stores began with another genesis.
    MaintenanceError
        If there is no chain in them yet.
    """
    with open_storage(node.home, node.config) as storage:
        if not storage.chain.height:
            raise MaintenanceError(
                f"The node of {node.home.folder} has not decided anything yet: there is nothing "
                "to work on."
            )
        require_genesis(node, storage)
        yield storage


def require_genesis(node: StoppedNode, storage: NodeStorage) -> None:
    """Raise unless the stores began with the genesis file beside them.

    Raises
    ------
    GenesisError
    """
    stored = storage.chain.load_document("genesis")
    if stored is not None and stored != node.genesis.hash:
        raise GenesisError(
            GENESIS_DOCUMENT_ERROR.format(
                folder=node.home.data_folder,
                found=stored.hex(),
                expected=node.genesis.hash.hex(),
            )
        )
