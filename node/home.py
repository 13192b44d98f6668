"""The home folder of a node: where each file lies, and that only one process works on it.

Owns the layout, the creation of the folders, the lock and the genesis file. Never reads settings,
keys or data: each has a module of its own.

::

    config/config.toml           the settings
    config/genesis.json          what the chain's parties agreed on
    config/node_key.json         who this node is on the network
    config/validator_key.json    what it votes with, if it is a validator
    data/LOCK                    held by the process that runs
    data/blocks/                 the database of blocks and state
    data/mempool/                the database of what own users submitted and is pending
    data/payloads/               large payloads and weights
    data/consensus.wal/          the write-ahead log
    data/reports/                what the node saw when the network decided something else
    data/validator_state.json    what the validator key signed last; never copied, never reset
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from quorate.chain.errors import DecodeError, StorageError
from quorate.chain.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis, encode_genesis

from node.errors import GenesisError, HomeError, HomeInUse
from store.disk import make_folder, replace_file

HOME_VARIABLE: Final = "QUORATE_HOME"
_PID_BYTES_MAX: Final = 20


class Home:
    """A home folder, which need not exist yet.

    Parameters
    ----------
    folder : Path
        The folder; ``~`` at its start is the user's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()

    @classmethod
    def find(cls) -> "Home":
        """Return the home folder that the environment names, or ``~/.quorate``."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or "~/.quorate"))

    @property
    def config_folder(self) -> Path:
        """Settings, genesis and keys."""
        return self.folder / "config"

    @property
    def data_folder(self) -> Path:
        """Everything that the node writes while it runs."""
        return self.folder / "data"

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.config_folder / "config.toml"

    @property
    def genesis_file(self) -> Path:
        """The genesis document."""
        return self.config_folder / "genesis.json"

    @property
    def node_key_file(self) -> Path:
        """The key of the node on the network."""
        return self.config_folder / "node_key.json"

    @property
    def validator_key_file(self) -> Path:
        """The key that votes; absent on a node that is no validator."""
        return self.config_folder / "validator_key.json"

    @property
    def blocks_folder(self) -> Path:
        """The database of blocks and state."""
        return self.data_folder / "blocks"

    @property
    def mempool_folder(self) -> Path:
        """The database of what own users submitted and is pending."""
        return self.data_folder / "mempool"

    @property
    def payloads_folder(self) -> Path:
        """Large payloads and weights."""
        return self.data_folder / "payloads"

    @property
    def log_folder(self) -> Path:
        """The write-ahead log."""
        return self.data_folder / "consensus.wal"

    @property
    def reports_folder(self) -> Path:
        """What the node saw when the network decided something else."""
        return self.data_folder / "reports"

    @property
    def validator_state_file(self) -> Path:
        """The last-signed record."""
        return self.data_folder / "validator_state.json"

    def create(self) -> None:
        """Create the folders, readable by their owner alone; they may exist already.

        Raises
        ------
        HomeError
            If they cannot be created.
        """
        try:
            for folder in (self.folder, self.config_folder, self.data_folder):
                make_folder(folder)
        except StorageError as error:
            raise HomeError(str(error)) from error

    def require(self) -> None:
        """Raise unless this is a home folder.

        Raises
        ------
        HomeError
            If its folders are not there.
        """
        for folder in (self.config_folder, self.data_folder):
            if not folder.is_dir():
                raise HomeError(
                    f"{self.folder} is no home folder of a node ({folder.name}/ is missing): run "
                    f"`quorate init --home {self.folder}`, or name the right one with --home."
                )

    def read_genesis(self) -> Genesis:
        """Return the genesis document.

        Raises
        ------
        GenesisError
            If the file is missing, cannot be read or is not valid.
        """
        path = self.genesis_file
        try:
            with path.open("rb") as file:
                raw = file.read(GENESIS_BYTES_MAX + 1)
        except FileNotFoundError:
            raise GenesisError(
                f"There is no genesis file {path}: copy there the one that the chain's parties "
                "agreed on."
            ) from None
        except OSError as error:
            raise GenesisError(
                f"The genesis file {path} cannot be read ({error.strerror}): give the node's user "
                "the right to."
            ) from error
        try:
            return decode_genesis(raw)
        except DecodeError as error:
            raise GenesisError(
                f"The genesis file {path} cannot be used ({error}): copy there the one that the "
                "chain's parties agreed on."
            ) from error

    def write_genesis(self, genesis: Genesis) -> None:
        """Write the genesis document, in place of the one that is there.

        Raises
        ------
        HomeError
            If the file cannot be written; the old one is still there.
        """
        try:
            replace_file(self.genesis_file, encode_genesis(genesis))
        except StorageError as error:
            raise HomeError(str(error)) from error

    def lock(self) -> "HomeLock":
        """Take the home folder for this process.

        Raises
        ------
        HomeInUse
            If another process has it.
        HomeError
            If this is no home folder or the lock file cannot be used.
        """
        self.require()
        return HomeLock(self)


class HomeLock:
    """The right to work on a home folder, until it is released or the process ends.

    The kernel holds it (flock), so that a crash leaves none behind. Works as a context manager.

    Parameters
    ----------
    home : Home
        An existing home folder.

    Raises
    ------
    HomeInUse, HomeError
        As `Home.lock`.
    """

    def __init__(self, home: Home) -> None:
        path = home.data_folder / "LOCK"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(
                f"The lock file {path} cannot be opened ({error.strerror}): give the node's user "
                "the right to."
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = _read_holder(self._descriptor)
            self.release()
            raise HomeInUse(
                f"The home folder {home.folder} is in use by another process{holder}: stop that "
                "one first, or name another folder with --home."
            ) from None
        except OSError as error:
            self.release()
            raise HomeError(
                f"The home folder {home.folder} cannot be locked ({error.strerror}): keep it on a "
                "local disk with free space."
            ) from error

    def release(self) -> None:
        """Let other processes have the home folder; releasing again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _read_holder(descriptor: int) -> str:
    """Return " (pid N)", or nothing while the other process has not written it yet."""
    with suppress(OSError):
        written = os.pread(descriptor, _PID_BYTES_MAX, 0)
        if written.isdigit():
            return f" (pid {int(written)})"
    return ""
