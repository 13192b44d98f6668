"""The commented example settings in ``configs/``, and how they are written.

Owns which examples there are and what they change. Never invents a setting: the files are what
`node.config.render_config` says, and ``python -m node.config_examples configs`` writes them anew.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.config import (
    Config,
    ConsensusSection,
    P2pSection,
    RpcSection,
    StorageSection,
    render_config,
)

LOCALNET: Final = Config(
    moniker="node0",
    p2p=P2pSection(listen="/ip4/127.0.0.1/tcp/26656"),
    consensus=ConsensusSection(empty_block_interval_ms=1_000),
)
"""What the nodes of ``quorate localnet`` share; names, ports and peers are filled in."""

VALIDATOR: Final = Config(
    moniker="validator",
    log_format="json",
    # A validator has few, chosen links, and spends its power on votes.
    p2p=P2pSection(peers_max=32, peer_exchange=False),
    rpc=RpcSection(subscriptions_max=64),
)

FULL_NODE: Final = Config(
    moniker="full-node",
    log_format="json",
    p2p=P2pSection(peers_max=128),
    rpc=RpcSection(subscriptions_max=1_024),
    storage=StorageSection(payload_bytes_max=256 << 30),
)


@dataclass(frozen=True, slots=True)
class Example:
    """A file of settings that somebody may start from.

    Attributes
    ----------
    about : str
        What it is for, and what has to be filled in.
    config : Config
    """

    about: str
    config: Config


EXAMPLES: Final = {
    "validator.toml": Example(
        "A validator: few, chosen links, peers named one by one, logs for a machine to read.\n"
        "Fill in external_address and persistent_peers; the keys come from `quorate init`.",
        VALIDATOR,
    ),
    "full_node.toml": Example(
        "A full node: follows the chain without a vote, and serves participants and newcomers.\n"
        "Fill in persistent_peers, or let `quorate join` write the file.",
        FULL_NODE,
    ),
    "localnet.toml": Example(
        "A node of a network on one machine, as `quorate localnet` writes it: loopback alone, and\n"
        "an empty block every second. Each node has ports and peers of its own.",
        LOCALNET,
    ),
}
"""The examples by the names of their files."""


def render_example(example: Example) -> str:
    """Return the text of an example's file."""
    about = "".join(f"# {line}\n" for line in example.about.splitlines())
    return f"{about}#\n{render_config(example.config)}"


def write_examples(folder: Path) -> None:
    """Write all examples into a folder, in place of those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, example in EXAMPLES.items():
        (folder / name).write_text(render_example(example), encoding="utf-8")


if __name__ == "__main__":
    write_examples(Path(sys.argv[1]))
