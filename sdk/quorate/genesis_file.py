"""Genesis documents from files: the root of a participant's trust.

Owns reading them. Never asks a node for one: whom a genesis document comes from is whom one
trusts.
"""

import os
from pathlib import Path

from quorate.chain.errors import DecodeError
from quorate.chain.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis


def read_genesis(path: str | os.PathLike[str]) -> Genesis:
    """Return the genesis document of a file.

    Raises
    ------
    DecodeError
        If it is none.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> genesis = read_genesis("genesis.json")  # doctest: +SKIP
    >>> print(genesis.chain_id, genesis.hash.hex())  # doctest: +SKIP
    """
    with Path(path).open("rb") as file:
        raw = file.read(GENESIS_BYTES_MAX + 1)
    try:
        return decode_genesis(raw)
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
