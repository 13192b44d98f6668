"""The keyring: a folder of accounts' keys, a file each.

Owns the names of keys and where their files lie. The files are the SDK's. Never puts a key into a
node's home folder, where it has no business, and never prints one.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from quorate.chain.errors import QuorateError
from quorate.chain.keys import PrivateKey
from quorate.errors import KeyFileError
from quorate.key_file import load_key, save_key

from node.home import Home
from store.disk import make_folder

SUFFIX: Final = ".key"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class KeyringError(QuorateError):
    """A name that can be no key's, or a folder that can be no keyring."""


class Keyring:
    """The keys of a folder, which need not exist yet.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    KeyringError
        If the folder lies in a node's home: accounts' keys never enter a node.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        for parent in (self.folder, *self.folder.parents):
            home = Home(parent)
            if home.node_key_file.exists():
                raise KeyringError(
                    f"The keyring {self.folder} lies in {parent}, a node's home, where accounts' "
                    "keys have no business: name another folder with --keyring."
                )

    def get_path(self, name: str) -> Path:
        """Return where a key's file lies.

        Raises
        ------
        KeyringError
            If no key can have this name.
        """
        if _NAME.fullmatch(name) is None:
            raise KeyringError(
                f"A key's name has 1 to 64 letters, digits and _ . - but is {name[:80]!r}: choose "
                "another."
            )
        return self.folder / f"{name}{SUFFIX}"

    def load(self, name: str) -> PrivateKey:
        """Return a key.

        Raises
        ------
        KeyringError, KeyFileError
            If there is none, or its file cannot be used.
        """
        path = self.get_path(name)
        if not path.exists():
            raise KeyringError(
                f"There is no key {name!r} in {self.folder}: `quorate keys list` shows those that "
                f"are there, `quorate keys add {name}` makes one."
            )
        return load_key(path)

    def save(self, name: str, key: PrivateKey) -> Path:
        """Write a key to a new file, and return where.

        Raises
        ------
        KeyringError, KeyFileError, StorageError
            If there is one of this name, which is kept, or none can be written.
        """
        path = self.get_path(name)
        make_folder(self.folder)
        save_key(path, key)
        return path

    def iterate(self) -> Iterator[tuple[str, PrivateKey | KeyFileError]]:
        """Iterate over the names and keys, or why a key's file cannot be used."""
        paths = self.folder.glob(f"*{SUFFIX}") if self.folder.is_dir() else ()
        for path in sorted(paths):
            try:
                yield path.name.removesuffix(SUFFIX), load_key(path)
            except KeyFileError as error:
                yield path.name.removesuffix(SUFFIX), error
