"""The genesis document: one hash however it is laid out, and clear words about what is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.errors import DecodeError
from quorate.chain.genesis import (
    GENESIS_BYTES_MAX,
    Admission,
    Genesis,
    GenesisAccount,
    GenesisMember,
    GenesisValidator,
    decode_genesis,
    encode_genesis,
)
from quorate.chain.ids import INT64_MAX
from quorate.chain.parameters import BLOCK_BYTES_MAX, ConsensusParameters
from quorate.chain.transaction import Role

from tests.chain.samples import KEYS, make_genesis

GENESIS = make_genesis()
# The nodes of a chain compare this at their handshake: a change of it cuts every chain off.
GENESIS_HASH = "faf7de1c2c735e0066ad2a5c8153a67a35a9440f81deff09e50298f57948d012"


def make_document() -> dict:  # type: ignore[type-arg]
    document: dict = json.loads(encode_genesis(GENESIS))  # type: ignore[type-arg]
    return document


def make_full() -> Genesis:
    return Genesis(
        chain_id="hospitals",
        genesis_time_ms=1,
        admission=Admission.PERMISSIONED,
        validators=(GenesisValidator("one", KEYS[0].public_key, 1),),
        members=(GenesisMember(KEYS[1].public_key, "north", int(Role.ADMINISTRATOR)),),
        parameters=ConsensusParameters(block_bytes_max=4096),
    )


def refuse(document: object, match: str) -> None:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(DecodeError, match=match):
        decode_genesis(raw)


def test_the_hash_is_stable_and_the_layout_does_not_matter() -> None:
    assert GENESIS.hash.hex() == GENESIS_HASH
    document = make_document()
    shuffled = dict(reversed(document.items()))
    for raw in (json.dumps(document), json.dumps(shuffled, indent=7), json.dumps(shuffled)):
        assert decode_genesis(raw.encode()) == GENESIS
        assert decode_genesis(raw.encode()).hash == GENESIS.hash


@pytest.mark.parametrize("genesis", [GENESIS, make_full()], ids=["open", "permissioned"])
def test_round_trip(genesis: Genesis) -> None:
    assert decode_genesis(encode_genesis(genesis)) == genesis
    assert encode_genesis(genesis).endswith(b"}\n")


def test_defaults_may_be_left_out() -> None:
    document = make_document()
    for name in ("accounts", "members", "parameters", "fee_min", "initial_height", "version"):
        del document[name]
    assert decode_genesis(json.dumps(document).encode()) == GENESIS
    document["parameters"] = {"precision_ms": 100}
    changed = decode_genesis(json.dumps(document).encode())
    assert changed.parameters == ConsensusParameters(precision_ms=100)
    assert changed.hash != GENESIS.hash


def test_every_field_is_covered_by_the_hash() -> None:
    hashes = {GENESIS.hash, make_full().hash}
    for name, value in (
        ("chain_id", "samples-2"),
        ("genesis_time_ms", 1),
        ("fee_min", 1),
        ("initial_height", 2),
        ("bucket_count", 1024),
        ("accounts", [{"address": KEYS[0].address.hex(), "balance": 1}]),
    ):
        hashes.add(decode_genesis(json.dumps(make_document() | {name: value}).encode()).hash)
    assert len(hashes) == 8


def test_unknown_fields_are_named() -> None:
    refuse(make_document() | {"colour": 1}, "colour")
    document = make_document()
    document["validators"][1]["stake"] = 1
    refuse(document, "stake")
    refuse(make_document() | {"parameters": {"block_size": 1}}, "'block_size'")


def test_missing_fields_are_named() -> None:
    for name in ("chain_id", "genesis_time_ms", "admission", "validators"):
        document = make_document()
        del document[name]
        refuse(document, name if name != "validators" else "length >= 1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain_id", "has space"),
        ("chain_id", "x" * 51),
        ("chain_id", ""),
        ("genesis_time_ms", -1),
        ("genesis_time_ms", 2**63),
        ("genesis_time_ms", "1"),
        ("genesis_time_ms", True),
        ("genesis_time_ms", 1.5),
        ("admission", "staked"),
        ("fee_min", -1),
        ("bucket_count", 0),
        ("version", 2),
        ("initial_height", -1),
        ("validators", {}),
        ("validators", [1]),
        ("validators", []),
        ("accounts", [{"address": "00", "balance": 1}]),
        ("accounts", [{"address": 7, "balance": 1}]),
        ("accounts", [{"address": "zz" * 20, "balance": 1}]),
        ("accounts", None),
        ("parameters", []),
        ("parameters", {"block_bytes_max": 4095}),
        ("parameters", {"block_bytes_max": BLOCK_BYTES_MAX + 1}),
        ("parameters", {"precision_ms": None}),
    ],
)
def test_values_outside_their_bounds_are_refused(field: str, value: object) -> None:
    refuse(make_document() | {field: value}, "not a valid genesis document")


def test_powers_are_bounded() -> None:
    for power in (0, -1, 2**40 + 1):
        document = make_document()
        document["validators"][0]["power"] = power
        refuse(document, "power|int")


def test_nobody_is_listed_twice() -> None:
    document = make_document()
    document["validators"].append(document["validators"][0])
    refuse(document, "each key once")
    account = {"address": KEYS[0].address.hex(), "balance": 1}
    refuse(make_document() | {"accounts": [account, account]}, "account is listed twice")
    full = json.loads(encode_genesis(make_full()))
    full["members"] *= 2
    refuse(full, "member is listed twice")


def test_a_permissioned_chain_has_no_coins_and_an_open_one_no_members() -> None:
    full = json.loads(encode_genesis(make_full()))
    account = {"address": KEYS[0].address.hex(), "balance": 1}
    refuse(full | {"accounts": [account]}, "no coins")
    refuse(full | {"fee_min": 1}, "no coins")
    refuse(full | {"admission": "open"}, "only a permissioned chain lists members")


def test_all_balances_together_are_bounded() -> None:
    accounts = [{"address": key.address.hex(), "balance": INT64_MAX // 2 + 1} for key in KEYS[:2]]
    decode_genesis(json.dumps(make_document() | {"accounts": accounts[:1]}).encode())
    refuse(make_document() | {"accounts": accounts}, "together exceed")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}{}",
        b'{"validators":' + b"[" * 100_000,
        b'{"fee_min":' + b"9" * 5_000 + b"}",
        b'{"chain_id":1e999}',
        b" " * (GENESIS_BYTES_MAX + 1),
    ],
    ids=range(10),
)
def test_whatever_is_no_document_is_refused(raw: bytes) -> None:
    refuse(raw, "genesis document")


@given(
    st.dictionaries(
        st.sampled_from([*make_document(), "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["public_key", "address", "power"]), inner)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_json_raises_only_decode_errors(changes: dict[str, object]) -> None:
    raw = json.dumps(make_document() | changes).encode()
    try:
        genesis = decode_genesis(raw)
    except DecodeError:
        return
    assert decode_genesis(encode_genesis(genesis)) == genesis


def test_genesis_accounts_and_validators_are_typed() -> None:
    account = GenesisAccount(KEYS[0].address, 5)
    genesis = Genesis("c", 1, Admission.OPEN, GENESIS.validators, accounts=(account,))
    assert decode_genesis(encode_genesis(genesis)).accounts == (account,)
    assert genesis.validator_set.total_power == 100
    assert genesis.validator_set.validators[0].priority == 0
