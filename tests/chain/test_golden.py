"""Golden bytes: one encoding of every wire type, so that no format changes by accident.

A change here is a change of the protocol: old blocks and other nodes no longer read it. When that
is meant, write the fixtures anew with `QUORATE_WRITE_GOLDEN=1 pytest tests/chain/test_golden.py`,
and commit them only when every line of the difference is understood.
"""

import json
import os
from pathlib import Path

import pytest
from quorate.chain.codec import decode, encode

from tests.chain.samples import WIRE_TYPES, make_block, make_wire_values

FIXTURES = Path(__file__).parent / "golden.json"
VALUES = make_wire_values()


def read_fixtures() -> dict[str, str]:
    if os.environ.get("QUORATE_WRITE_GOLDEN"):
        written = {name: encode(value).hex() for name, value in sorted(VALUES.items())}
        written["hash_of_header"] = make_block().header.hash.hex()
        FIXTURES.write_text(json.dumps(written, indent=1) + "\n")
    fixtures: dict[str, str] = json.loads(FIXTURES.read_text())
    return fixtures


GOLDEN = read_fixtures()


@pytest.mark.parametrize("name", sorted(VALUES))
def test_encoding_is_what_it_was(name: str) -> None:
    value = VALUES[name]
    assert encode(value).hex() == GOLDEN[name]
    assert decode(type(value), bytes.fromhex(GOLDEN[name]), 1 << 20) == value


def test_the_header_hash_is_what_it_was() -> None:
    assert make_block().header.hash.hex() == GOLDEN["hash_of_header"]


def test_every_wire_type_and_fixture_is_covered() -> None:
    assert {type(value) for value in VALUES.values()} == set(WIRE_TYPES)
    assert set(GOLDEN) == {*VALUES, "hash_of_header"}


def test_a_transfer_is_small() -> None:
    assert len(GOLDEN["transaction_transfer"]) // 2 < 160
