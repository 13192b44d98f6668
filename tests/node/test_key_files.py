"""Key files: nobody else can read them, and no error or repr shows a seed."""

import json
import os
import stat
from pathlib import Path

import pytest
from quorate.chain.keys import PrivateKey
from quorate.errors import KeyFileError

from node.key_files import (
    KEY_FILE_BYTES_MAX,
    make_node_key,
    read_node_key,
    read_validator_key,
    write_node_key,
    write_validator_key,
)
from p2p.identity import get_peer_id

KEY = PrivateKey(bytes(range(32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "validator_key.json"
    write_validator_key(path, KEY)
    return path


def rewrite(path: Path, **changes: object) -> None:
    document = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps(document))


def refuse(path: Path) -> str:
    with pytest.raises(KeyFileError) as caught:
        read_validator_key(path)
    message = str(caught.value)
    assert KEY.seed.hex() not in message
    return message


def test_keys_are_written_and_read(path: Path, tmp_path: Path) -> None:
    assert read_validator_key(path).seed == KEY.seed
    node_key = make_node_key()
    assert node_key.peer_id == get_peer_id(node_key.seed)
    assert node_key.seed != make_node_key().seed
    write_node_key(tmp_path / "node_key.json", node_key)
    assert read_node_key(tmp_path / "node_key.json") == node_key
    document = json.loads(path.read_bytes())
    assert document == {
        "type": "quorate/validator-key/1",
        "address": KEY.address.hex(),
        "public_key": KEY.public_key.hex(),
        "seed": KEY.seed.hex(),
    }


def test_files_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_validator_key(tmp_path / "key.json", KEY)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o644])
def test_files_open_to_others_are_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    message = refuse(path)
    assert f"mode {mode:04o}" in message
    assert f"chmod 600 {path}" in message
    path.chmod(0o400)
    assert read_validator_key(path).seed == KEY.seed


def test_a_key_is_never_overwritten(path: Path) -> None:
    with pytest.raises(KeyFileError, match="already, and it is kept"):
        write_validator_key(path, PrivateKey(bytes(32)))
    assert read_validator_key(path).seed == KEY.seed
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_a_crash_left_does_not_lend_its_mode(tmp_path: Path) -> None:
    left = tmp_path / "key.json.tmp"
    left.write_bytes(b"half")
    left.chmod(0o644)
    write_validator_key(tmp_path / "key.json", KEY)
    assert read_validator_key(tmp_path / "key.json").seed == KEY.seed


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be used"):
        write_validator_key(tmp_path / "none" / "key.json", KEY)
    with pytest.raises(KeyFileError, match="There is no key file"):
        read_validator_key(tmp_path / "none" / "key.json")


def test_what_is_no_key_file(path: Path, tmp_path: Path) -> None:
    rewrite(path, seed=KEY.seed.hex()[:-2] + "zz")
    assert "not the JSON of a quorate/validator-key/1 file" in refuse(path)
    rewrite(path, seed=KEY.seed.hex(), extra=1)
    assert "not the JSON" in refuse(path)
    path.write_bytes(KEY.seed.hex().encode() + b"\xff")
    assert "not the JSON" in refuse(path)
    path.write_bytes(b" " * (KEY_FILE_BYTES_MAX + 1))
    assert "too long" in refuse(path)
    path.unlink()
    path.mkdir(mode=0o700)
    assert "no regular file" in refuse(path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "no regular file" in refuse(pipe)


def test_contradictions_and_mix_ups(path: Path, tmp_path: Path) -> None:
    other = PrivateKey(bytes(32))
    for change in ({"public_key": other.public_key.hex()}, {"address": other.address.hex()}):
        before = path.read_bytes()
        rewrite(path, **change)
        assert "contradicts itself" in refuse(path)
        path.write_bytes(before)
    rewrite(path, type="quorate/validator-key/9")
    assert "is of the type 'quorate/validator-key/9'" in refuse(path)
    write_node_key(tmp_path / "node_key.json", make_node_key())
    rewrite(tmp_path / "node_key.json", peer_id=get_peer_id(bytes(32)))
    with pytest.raises(KeyFileError, match="contradicts itself"):
        read_node_key(tmp_path / "node_key.json")


def test_no_repr_shows_a_seed() -> None:
    key = make_node_key()
    assert key.seed.hex() not in repr(key)
    assert repr(key.seed) not in repr(key)
