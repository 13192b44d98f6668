"""Settings: defaults that hold, and a sentence for each mistake."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import (
    Config,
    MempoolSection,
    P2pSection,
    load_config,
    parse_config,
    render_config,
    write_config,
    write_default_config,
)
from node.config.kinds import LIST_ITEMS_MAX
from node.config.loading import CONFIG_BYTES_MAX
from node.config.quantities import parse_duration, parse_size, render_duration, render_size
from node.config.sections import SECTIONS
from node.errors import ConfigError
from node.home import Home
from p2p.identity import get_peer_id

PEER = get_peer_id(bytes(32))
OTHER = get_peer_id(bytes([1]) * 32)
ADDRESS = f"/ip4/192.0.2.1/tcp/26656/p2p/{PEER}"


def complain(text: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml", environment)
    return str(caught.value)


def test_defaults_survive_being_written_and_read() -> None:
    text = render_config(Config())
    assert parse_config(text, "config.toml") == Config()
    assert parse_config("", "config.toml") == Config()
    assert list(tomllib.loads(text)) == ["moniker", "log_level", "log_format", *SECTIONS]
    # Each setting is explained by the line above it.
    lines = text.splitlines()
    settings = [number for number, line in enumerate(lines) if " = " in line and line[0] != "#"]
    assert len(settings) > 40
    assert all(lines[number - 1].startswith("# ") for number in settings)


def test_defaults_are_those_of_one_machine_and_a_local_network() -> None:
    config = Config()
    assert config.rpc.address == ("127.0.0.1", 26657)
    assert config.instrumentation.address == ("127.0.0.1", 26660)
    assert config.consensus.create_empty_blocks
    assert config.consensus.empty_block_interval_ms == 5_000
    assert config.consensus.timeout_propose_ms == 3_000
    assert config.mempool.gossip_interval_ms == 10


def test_every_kind_of_setting_is_written_and_read() -> None:
    config = Config(
        moniker='a "quoted" name \\ ü',
        log_level="debug",
        p2p=P2pSection(
            persistent_peers=(ADDRESS,),
            private_peers=(PEER, OTHER),
            gossip=False,
            heartbeat_ms=1_500,
            bulk_bytes_per_s_max=1_234_567,
        ),
        mempool=MempoolSection(transactions_max=5, per_sender_max=5, bytes_max=1 << 20),
    )
    assert parse_config(render_config(config), "config.toml") == config


def test_sizes_may_be_numbers_or_text() -> None:
    for value in ("8388608", '"8MiB"', '"8388608B"', '"8192 KiB"'):
        config = parse_config(f"[rpc]\nbody_bytes_max = {value}", "config.toml")
        assert config.rpc.body_bytes_max == 8 << 20


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = = 1", "config.toml is no valid TOML: "),
        ("[p2p]\nlissten = 1", "config.toml: [p2p] knows no setting 'lissten': did you mean"),
        ("[p2p]\nlissten = 1", "'listen'?"),
        ("[p2p]\nqqqqqq = 1", "knows no setting 'qqqqqq': there are listen, external_address, "),
        ("[mempol]\n", "config.toml: knows no setting 'mempol': did you mean 'mempool'?"),
        ("log_levl = 'info'", "did you mean 'log_level'?"),
        ("rpc = 3", "config.toml: rpc must be a section, [rpc], not a value."),
        ("moniker = 3", "config.toml: moniker must be text in quotes, not 3."),
        ("moniker = ''", "moniker must not be empty"),
        ("moniker = 'a\\tb'\n".replace("\\t", "\t"), "printable"),
        (f"moniker = '{'a' * 257}'", "at most 256 printable characters"),
        ("log_level = 'loud'", "must be one of 'debug', 'info', 'warning', 'error', not 'loud'"),
        ("log_format = 3", "must be one of 'console', 'json', not 3"),
        ("[p2p]\ngossip = 1", "[p2p] gossip must be true or false, not 1."),
        ("[p2p]\npeers_max = '3'", "[p2p] peers_max must be a whole number, not '3'."),
        ("[p2p]\npeers_max = true", "must be a whole number, not True"),
        ("[p2p]\npeers_max = 0", "must be between 1 and 4096, not 0"),
        ("[p2p]\nheartbeat = 250", 'must be a duration in quotes such as "3s" or "250ms", not 250'),
        ("[p2p]\nheartbeat = '3 weeks'", "is no number with one of the units ms, s, m, h, d"),
        ("[p2p]\nheartbeat = '0.0001s'", "finer than the smallest unit, ms"),
        ("[p2p]\nheartbeat = '2h'", "heartbeat must be between 20ms and 1m, not 2h"),
        ("[rpc]\nbody_bytes_max = 1.5", "must be a number of bytes or a size"),
        ("[rpc]\nbody_bytes_max = '8 megs'", "is no number with one of the units B, KiB"),
        ("[rpc]\nbody_bytes_max = '1KiB'", "must be between 1MiB and 1GiB, not 1KiB"),
        ("[rpc]\nlisten = 'localhost'", "is no host and port such as 127.0.0.1:26657"),
        ("[rpc]\nlisten = '127.0.0.1:99999'", "is no host and port"),
        ("[rpc]\nlisten = 'example.org:1'", "'example.org' is no IP address"),
        ("[rpc]\nlisten = '::1:26657'", "write an IPv6 address in brackets"),
        ("[rpc]\nallowed_hosts = 'a'", "allowed_hosts must be a list"),
        ("[rpc]\nallowed_hosts = ['a b']", "is no host name"),
        ("[rpc]\nallowed_hosts = ['a', 'a']", "must not list 'a' twice"),
        ("[rpc]\nallowed_origins = ['example.org']", "is no origin such as https://example.org"),
        ("[p2p]\nlisten = '127.0.0.1:26656'", "is no address like /ip4/127.0.0.1/tcp/26656"),
        (f"[p2p]\nlisten = '{ADDRESS}'", "it is this node's own"),
        ("[p2p]\npersistent_peers = ['/ip4/1.2.3.4/tcp/1']", "lacks /p2p/<peer id>"),
        ("[p2p]\nprivate_peers = ['me']", "'me' is no peer id"),
        ("[p2p]\nheartbeat = '3s'\npeer_timeout = '5s'", "at least two times heartbeat"),
        (
            f"[p2p]\npersistent_peers = ['{ADDRESS}']\nallowed_peers = ['{OTHER}']",
            "which allowed_peers does not admit",
        ),
        ("[p2p]\nexternal_address = '/ip4/1.2.3.4/tcp/0'", "must have a port other than 0"),
        ("[mempool]\ntransactions_max = 5", "per_sender_max must not exceed transactions_max"),
        ("[rpc]\nlisten = '127.0.0.1:26660'", "metrics_listen must differ"),
    ],
)
def test_each_mistake_has_its_sentence(text: str, sentence: str) -> None:
    message = complain(text)
    assert sentence in message
    assert message.startswith("config.toml")
    assert "\n" not in message or "TOML" in message


def test_a_list_is_bounded() -> None:
    names = ", ".join(f"'host{number}'" for number in range(LIST_ITEMS_MAX + 1))
    assert f"at most {LIST_ITEMS_MAX} items" in complain(f"[rpc]\nallowed_hosts = [{names}]")


def test_the_environment_overrides_the_file() -> None:
    environment = {
        "QUORATE_P2P__LISTEN": "/ip4/127.0.0.1/tcp/7",
        "QUORATE_P2P__PERSISTENT_PEERS": f"{ADDRESS}, /dns/example.org/tcp/1/p2p/{OTHER}",
        "QUORATE_P2P__GOSSIP": "False",
        "QUORATE_MEMPOOL__TRANSACTIONS_MAX": "50_000",
        "QUORATE_MEMPOOL__BYTES_MAX": "1MiB",
        "QUORATE_RPC__BODY_BYTES_MAX": "2000000",
        "QUORATE_CONSENSUS__EMPTY_BLOCK_INTERVAL": "0s",
        "QUORATE_LOG_LEVEL": "DEBUG",
        "QUORATE_HOME": "/somewhere",
        "QUORATE_NODE": "http://127.0.0.1:26657",
        "PATH": "/bin",
    }
    config = parse_config(
        "log_level = 'error'\n[p2p]\nlisten = '/ip4/1.2.3.4/tcp/1'", "f", environment
    )
    assert config.p2p.listen == "/ip4/127.0.0.1/tcp/7"
    assert len(config.p2p.persistent_peers) == 2
    assert not config.p2p.gossip
    assert config.mempool.transactions_max == 50_000
    assert config.mempool.bytes_max == 1 << 20
    assert config.rpc.body_bytes_max == 2_000_000
    assert config.consensus.empty_block_interval_ms == 0
    assert config.log_level == "debug"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("QUORATE_P2P__LISSTEN", "x", "[p2p] knows no setting 'lissten': did you mean 'listen'?"),
        ("QUORATE_MEMPOL__LISTEN", "x", "no section 'mempol': did you mean 'mempool'?"),
        ("QUORATE_ZZZZZZ__LISTEN", "x", "no section 'zzzzzz': there are rpc, p2p, mempool"),
        ("QUORATE_P2P__PEERS_MAX", "many", "must be a whole number, not 'many'"),
        ("QUORATE_P2P__GOSSIP", "maybe", "must be true or false, not 'maybe'"),
        ("QUORATE_LOG_FORMAT", "xml", "must be one of 'console', 'json', not 'xml'"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(
    name: str, value: str, sentence: str
) -> None:
    message = complain("", {name: value})
    assert message.startswith(f"The environment variable {name}")
    assert sentence in message


@pytest.mark.parametrize(
    ("text", "environment", "told"),
    [
        (
            "",
            {"QUORATE_P2P__HEARTBEAT": "9s"},
            "The environment variable QUORATE_P2P__HEARTBEAT, over config.toml: [p2p] peer_timeout",
        ),
        (
            "[p2p]\npeer_timeout = '5s'",
            {"QUORATE_P2P__heartbeat": "4s", "QUORATE_MONIKER": "a"},
            "The environment variable QUORATE_P2P__heartbeat, over config.toml: [p2p] peer_timeout",
        ),
        (
            "",
            {"QUORATE_P2P__HEARTBEAT": "9s", "QUORATE_P2P__PEER_TIMEOUT": "10s"},
            "The environment variables QUORATE_P2P__HEARTBEAT and QUORATE_P2P__PEER_TIMEOUT: [p2p]",
        ),
        (
            "[p2p]\nheartbeat = '3s'\npeer_timeout = '5s'",
            {"QUORATE_MEMPOOL__PER_SENDER_MAX": "3"},
            "config.toml: [p2p] peer_timeout",
        ),
        (
            "",
            {"QUORATE_P2P__ALLOWED_PEERS": OTHER, "QUORATE_P2P__BOOTSTRAP_PEERS": ADDRESS},
            "The environment variables QUORATE_P2P__ALLOWED_PEERS and QUORATE_P2P__BOOTSTRAP_PEER",
        ),
        (
            "",
            {"QUORATE_P2P__EXTERNAL_ADDRESS": "/ip4/1.2.3.4/tcp/0"},
            "The environment variable QUORATE_P2P__EXTERNAL_ADDRESS: [p2p] external_address",
        ),
        (
            "",
            {"QUORATE_MEMPOOL__TRANSACTIONS_MAX": "5"},
            "The environment variable QUORATE_MEMPOOL__TRANSACTIONS_MAX, over config.toml: [",
        ),
        (
            "",
            {"QUORATE_RPC__LISTEN": "127.0.0.1:26660"},
            "The environment variable QUORATE_RPC__LISTEN, over config.toml: [rpc] listen and",
        ),
        (
            "",
            {"QUORATE_INSTRUMENTATION__METRICS_LISTEN": "127.0.0.1:26657"},
            "The environment variable QUORATE_INSTRUMENTATION__METRICS_LISTEN, over config.toml: ",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_blamed_on_where_they_stand(
    text: str, environment: dict[str, str], told: str
) -> None:
    assert complain(text, environment).startswith(told)


def test_files_are_written_and_read(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    with pytest.raises(ConfigError, match="quorate init --home"):
        load_config(home, {})
    assert write_default_config(home) == Config() == load_config(home, {})
    changed = replace(Config(), moniker="changed")
    write_config(home, changed)
    assert load_config(home, {}) == changed
    assert load_config(home, {"QUORATE_MONIKER": "again"}).moniker == "again"


def test_the_process_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    home.create()
    write_default_config(home)
    monkeypatch.setenv("QUORATE_MONIKER", "from the shell")
    assert load_config(home).moniker == "from the shell"


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.config_file.write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        load_config(home, {})
    home.config_file.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="exceeds"):
        load_config(home, {})
    home.config_file.unlink()
    home.config_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(home, {})
    with pytest.raises(ConfigError, match="cannot be used"):
        write_default_config(home)


def test_the_network_is_told_everything() -> None:
    section = P2pSection(
        persistent_peers=(ADDRESS,), allowed_peers=(PEER,), heartbeat_ms=500, ban_ms=1_500
    )
    network = section.make_network_config(
        chain_id="c", genesis_hash=bytes(32), protocol_version=1, key_seed=bytes(32)
    )
    assert network.persistent_peers == (ADDRESS,)
    assert network.allowed_peers == frozenset({PEER})
    assert (network.heartbeat_s, network.ban_s) == (0.5, 1.5)
    everybody = P2pSection().make_network_config(
        chain_id="c", genesis_hash=bytes(32), protocol_version=1, key_seed=bytes(32)
    )
    assert everybody.allowed_peers is None


@given(st.integers(0, 10**15))
def test_quantities_are_read_as_they_are_written(number: int) -> None:
    assert parse_duration(render_duration(number)) == number
    assert parse_size(render_size(number)) == number
