"""Key files: for their owner alone, written once, and never quoted in an error."""

import json
import stat
from pathlib import Path

import pytest
from quorate import PrivateKey, load_key, load_or_create_key, save_key
from quorate.errors import KeyFileError

KEY = PrivateKey(b"\x07" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "hospital.key"
    save_key(path, KEY)
    return path


def test_a_key_comes_back(path: Path) -> None:
    assert load_key(path).seed == KEY.seed
    assert load_key(str(path)).address == KEY.address
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["type"] == "quorate/account-key/1"


def test_load_or_create_keeps_what_there_is(tmp_path: Path, path: Path) -> None:
    assert load_or_create_key(path).seed == KEY.seed
    made = load_or_create_key(tmp_path / "other.key")
    assert load_or_create_key(tmp_path / "other.key").seed == made.seed != KEY.seed


def test_a_key_file_is_never_replaced(path: Path) -> None:
    with pytest.raises(KeyFileError, match="already, and it is kept"):
        save_key(path, PrivateKey.generate())
    assert load_key(path).seed == KEY.seed


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_file_open_to_others_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600"):
        load_key(path)


def test_missing_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="There is no key file"):
        load_key(tmp_path / "none")
    with pytest.raises(KeyFileError, match="cannot be written"):
        save_key(tmp_path / "none" / "key", KEY)
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_key(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "quorate/validator-key/1"},
        {"address": "00" * 20},
        {"public_key": "00" * 32},
        {"seed": "00" * 31},
        {"seed": "zz" * 32},
        {"seed": None},
        {"extra": 1},
        None,
    ],
    ids=range(8),
)
def test_damaged_files_are_refused_without_quoting_the_seed(
    path: Path, change: dict[str, object] | None
) -> None:
    content = json.loads(path.read_text())
    path.write_text(content["seed"] if change is None else json.dumps(content | change))
    with pytest.raises(KeyFileError) as refused:
        load_key(path)
    assert KEY.seed.hex() not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_file_too_long_is_refused(path: Path) -> None:
    path.write_text(path.read_text() + " " * 5000 + "x")
    with pytest.raises(KeyFileError):
        load_key(path)
    path.write_text("[" * 4096)
    with pytest.raises(KeyFileError):
        load_key(path)
