"""The keyring and its commands."""

import json
import stat
from pathlib import Path

import pytest
from quorate.chain.keys import PrivateKey
from quorate.key_file import load_key

from tests.cli.console import Console


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return tmp_path / "ring"


def test_add_list_show(quorate: Console, ring: Path) -> None:
    added = quorate("keys", "add", "anna", "--keyring", ring, "--output", "json")
    assert added.code == 0
    key = load_key(ring / "anna.key")
    assert added.data == {
        "name": "anna",
        "address": key.address.hex(),
        "public_key": key.public_key.hex(),
        "file": str(ring / "anna.key"),
    }
    quorate("keys", "add", "bea", "--keyring", ring)
    listed = quorate("keys", "list", "--keyring", ring, "--output", "json")
    assert [row["name"] for row in listed.data["keys"]] == ["anna", "bea"]
    shown = quorate("keys", "show", "anna", "--keyring", ring, "--output", "json")
    assert shown.data["address"] == key.address.hex()


def test_no_command_prints_a_secret(quorate: Console, ring: Path, tmp_path: Path) -> None:
    printed = ""
    for arguments in (
        ("add", "anna"),
        ("list",),
        ("show", "anna"),
        ("export", "anna", tmp_path / "out.key", "--yes"),
        ("import", "bea", tmp_path / "out.key"),
    ):
        done = quorate("keys", *arguments, "--keyring", ring, "--output", "json")
        assert done.code == 0
        printed += done.out + done.err
    assert load_key(ring / "anna.key").seed.hex() not in printed


def test_keys_are_for_their_owner_alone(quorate: Console, ring: Path, tmp_path: Path) -> None:
    quorate("keys", "add", "anna", "--keyring", ring)
    quorate("keys", "export", "anna", tmp_path / "out.key", "--keyring", ring, "--yes")
    assert stat.S_IMODE(ring.stat().st_mode) == 0o700
    for path in (ring / "anna.key", tmp_path / "out.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_export_and_import_keep_the_key(quorate: Console, ring: Path, tmp_path: Path) -> None:
    quorate("keys", "add", "anna", "--keyring", ring)
    quorate("keys", "export", "anna", tmp_path / "out.key", "--keyring", ring, "--yes")
    assert quorate("keys", "import", "bea", tmp_path / "out.key", "--keyring", ring).code == 0
    assert load_key(ring / "bea.key").seed == load_key(ring / "anna.key").seed


def test_a_file_to_import_that_is_not_there_is_told_with_the_way_out(
    quorate: Console, ring: Path, tmp_path: Path
) -> None:
    refused = quorate("keys", "import", "bea", tmp_path / "none.key", "--keyring", ring)
    assert refused.code == 1
    assert refused.sentence == (
        f"There is no file {tmp_path}/none.key: name one that `quorate keys export` wrote, or make "
        "a new key with `quorate keys add bea`."
    )
    assert not ring.exists()


def test_export_without_an_answer_writes_nothing(
    quorate: Console, ring: Path, tmp_path: Path
) -> None:
    quorate("keys", "add", "anna", "--keyring", ring)
    refused = quorate("keys", "export", "anna", tmp_path / "out.key", "--keyring", ring)
    assert refused.code == 1
    assert "say --yes" in refused.sentence
    assert not (tmp_path / "out.key").exists()


def test_what_is_there_is_kept(quorate: Console, ring: Path) -> None:
    quorate("keys", "add", "anna", "--keyring", ring)
    before = (ring / "anna.key").read_bytes()
    refused = quorate("keys", "add", "anna", "--keyring", ring)
    assert refused.code == 1
    assert "is kept" in refused.sentence
    assert (ring / "anna.key").read_bytes() == before


@pytest.mark.parametrize("name", ["../anna", ".anna", "a/b", "", "x" * 65, "a b"])
def test_names_that_no_key_has(quorate: Console, ring: Path, name: str) -> None:
    refused = quorate("keys", "add", "--keyring", ring, "--", name)
    assert refused.code == 1
    assert "A key's name has 1 to 64" in refused.sentence
    assert not ring.exists()


def test_unknown_key_is_told_with_the_way_out(quorate: Console, ring: Path) -> None:
    refused = quorate("keys", "show", "anna", "--keyring", ring)
    assert refused.code == 1
    assert "`quorate keys add anna` makes one" in refused.sentence


def test_keys_never_enter_a_nodes_home(quorate: Console, tmp_path: Path) -> None:
    home = tmp_path / "home"
    quorate("init", "--home", home)
    for folder in (home, home / "config", home / "keys"):
        refused = quorate("keys", "add", "anna", "--keyring", folder)
        assert refused.code == 1
        assert "a node's home, where accounts' keys have no business" in refused.sentence
    assert not list(home.rglob("*.key"))


def test_default_keyring_is_the_users_own(quorate: Console, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    assert quorate("keys", "add", "anna").code == 0
    assert (tmp_path / "user" / ".quorate-keys" / "anna.key").exists()


def test_damaged_and_open_files_are_told_beside_the_others(quorate: Console, ring: Path) -> None:
    for name in ("anna", "bea", "cleo"):
        quorate("keys", "add", name, "--keyring", ring)
    (ring / "anna.key").chmod(0o644)
    document = json.loads((ring / "bea.key").read_text())
    document["seed"] = PrivateKey(bytes(32)).seed.hex()
    (ring / "bea.key").write_text(json.dumps(document))
    listed = quorate("keys", "list", "--keyring", ring, "--output", "json")
    assert [row["name"] for row in listed.data["keys"]] == ["cleo"]
    assert "anna.key is open to other users" in listed.err
    assert "bea.key contradicts itself" in listed.err


def test_empty_keyring_lists_nothing(quorate: Console, ring: Path) -> None:
    listed = quorate("keys", "list", "--keyring", ring)
    assert (listed.code, listed.out, listed.err) == (0, "", "No keys.\n")
