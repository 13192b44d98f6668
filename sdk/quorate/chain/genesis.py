"""The genesis document: what the parties agree on before the first block.

Owns its type, its checks and its JSON form. Never builds state: the ledger does.
"""

from enum import StrEnum
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from quorate.chain.errors import DecodeError, InvariantError
from quorate.chain.ids import (
    INT64_MAX,
    ChainId,
    Hash,
    Height,
    Name,
    PublicKey,
    Uint64,
    WireAddress,
    WireHeight,
    WirePublicKey,
)
from quorate.chain.known_types import convert_plain, decode_json
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.validators import Power, ValidatorSet

GENESIS_VERSION = 1
GENESIS_BYTES_MAX = 16 << 20
BUCKET_COUNT_DEFAULT = 1 << 16


class Admission(StrEnum):
    """Who may take part. `staked` follows with staking."""

    PERMISSIONED = "permissioned"
    OPEN = "open"


class GenesisValidator(Struct, frozen=True, forbid_unknown_fields=True):
    """A founding validator."""

    name: Name
    public_key: WirePublicKey
    power: Power


class GenesisAccount(Struct, frozen=True, forbid_unknown_fields=True):
    """Coins that exist from the start."""

    address: WireAddress
    balance: Uint64


class GenesisMember(Struct, frozen=True, forbid_unknown_fields=True):
    """A founding member of a permissioned chain; `roles` is a sum of `Role` values."""

    public_key: WirePublicKey
    organization: Name
    roles: Annotated[int, Meta(ge=1, le=31)]


class Genesis(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the first block builds on."""

    chain_id: ChainId
    genesis_time_ms: Uint64
    admission: Admission
    validators: Annotated[tuple[GenesisValidator, ...], Meta(min_length=1)]
    accounts: tuple[GenesisAccount, ...] = ()
    members: tuple[GenesisMember, ...] = ()
    parameters: ConsensusParameters = ConsensusParameters()
    fee_min: Uint64 = 0
    initial_height: WireHeight = Height(1)
    bucket_count: Annotated[int, Meta(ge=1, le=1 << 24)] = BUCKET_COUNT_DEFAULT
    version: Annotated[int, Meta(ge=GENESIS_VERSION, le=GENESIS_VERSION)] = GENESIS_VERSION

    @property
    def validator_set(self) -> ValidatorSet:
        """The validators of the initial height."""
        return ValidatorSet.from_powers((PublicKey(v.public_key), v.power) for v in self.validators)

    @property
    def hash(self) -> Hash:
        """What nodes compare at the handshake."""
        return Hash(sha256(b"quorate/genesis\0" + encode_genesis(self)).digest())


def encode_genesis(genesis: Genesis) -> bytes:
    """Return the one JSON form of a genesis document: byte strings as hex, fields in order."""
    return msgspec.json.format(msgspec.json.encode(_to_plain(genesis)), indent=2) + b"\n"


def decode_genesis(raw: bytes) -> Genesis:
    """Return the genesis document that `raw` holds, in any JSON layout.

    Raises
    ------
    DecodeError
        With a sentence that names the field, if the document is not valid.
    """
    if len(raw) > GENESIS_BYTES_MAX:
        raise DecodeError(f"the genesis document exceeds {GENESIS_BYTES_MAX} bytes")
    try:
        plain = decode_json(raw, dict[str, object])
        genesis = convert_plain(_from_plain(plain), Genesis)
        _validate_genesis(genesis)
    except (ValueError, TypeError, RecursionError) as error:
        # msgspec's errors are ValueErrors; a document nested too deeply is a RecursionError.
        raise DecodeError(f"not a valid genesis document: {error}") from error
    return genesis


def _validate_genesis(genesis: Genesis) -> None:
    genesis.validator_set  # noqa: B018 - building it checks the bounds of power and keys.
    for what, keys in (
        ("validator", [v.public_key for v in genesis.validators]),
        ("account", [a.address for a in genesis.accounts]),
        ("member", [m.public_key for m in genesis.members]),
    ):
        if len(set(keys)) != len(keys):
            raise ValueError(f"a {what} is listed twice")
    if genesis.admission is Admission.PERMISSIONED:
        if genesis.fee_min or genesis.accounts:
            raise ValueError("a permissioned chain has no coins: no accounts, and fee_min 0")
    elif genesis.members:
        raise ValueError("only a permissioned chain lists members")
    if sum(account.balance for account in genesis.accounts) > INT64_MAX:
        raise ValueError("the balances together exceed 2^63 - 1")


def _to_plain(value: object) -> object:
    if isinstance(value, Struct):
        return {name: _to_plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value


def _from_plain(document: dict[str, object]) -> dict[str, object]:
    """Turn hex into bytes, and the parameters' object into the array their type wants."""
    typed = dict(document)
    for section in ("validators", "accounts", "members"):
        rows = typed.get(section, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{section} must be a list of objects")
        typed[section] = [
            {key: _from_hex(key, field) for key, field in row.items()} for row in rows
        ]
    parameters = typed.get("parameters", {})
    if not isinstance(parameters, dict):
        raise TypeError("parameters must be an object")
    defaults = _to_plain(ConsensusParameters())
    if not isinstance(defaults, dict):
        raise InvariantError("parameters are a struct")
    unknown = sorted(parameters.keys() - defaults.keys())
    if unknown:
        raise ValueError(f"parameters has an unknown field {unknown[0]!r}")
    typed["parameters"] = list((defaults | parameters).values())
    return typed


def _from_hex(key: str, field: object) -> object:
    if key not in ("public_key", "address"):
        return field
    if not isinstance(field, str):
        raise TypeError(f"{key} must be hexadecimal text")
    try:
        return bytes.fromhex(field)
    except ValueError as error:
        raise ValueError(f"{key} must be hexadecimal text: {error}") from error
