"""The settings of a node, from ``config.toml`` and the environment.

Owns their types, defaults, bounds, and the sentences about mistakes in them. Never acts on one.
"""

from node.config.loading import (
    load_config,
    parse_config,
    render_config,
    write_config,
    write_default_config,
)
from node.config.sections import (
    Config,
    ConsensusSection,
    InstrumentationSection,
    MempoolSection,
    P2pSection,
    RpcSection,
    StorageSection,
)

__all__ = [
    "Config",
    "ConsensusSection",
    "InstrumentationSection",
    "MempoolSection",
    "P2pSection",
    "RpcSection",
    "StorageSection",
    "load_config",
    "parse_config",
    "render_config",
    "write_config",
    "write_default_config",
]
