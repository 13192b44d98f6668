"""The settings of a node: their names, kinds, bounds, defaults and what they are for.

Owns one dataclass per section of ``config.toml``; the file, its comments and the environment
variables all follow from them. Never reads a file.

A field that ends in ``_ms`` is a duration in milliseconds; its key in the file lacks the ending
and its value carries a unit (``timeout_propose = "3s"`` is `timeout_propose_ms` 3000).
"""

from dataclasses import dataclass, field
from typing import Final, TypeVar

from quorate.chain.content import CHUNK_BYTES
from quorate.chain.transaction import TRANSACTION_BYTES_MAX

from node.config.kinds import (
    Choice,
    Duration,
    Flag,
    Integer,
    Kind,
    Size,
    Text,
    TextList,
    check_any,
    check_host_name,
    check_host_port,
    check_multiaddress,
    check_origin,
    check_peer_address,
    check_peer_id,
    parse_host_port,
)
from p2p.address import parse_address, parse_peer_address
from p2p.network import NetworkConfig, PeerId

T = TypeVar("T")

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("console", "json")

_SECOND: Final = 1_000
_HOUR: Final = 3_600_000
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_TIMEOUT: Final = Duration(1, _HOUR)


def _setting(kind: Kind[T], default: T, about: str) -> T:
    return field(default=default, metadata={"kind": kind, "about": about})


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcSection:
    """``[rpc]``: the interface for clients."""

    listen: str = _setting(
        Text(check_host_port),
        "127.0.0.1:26657",
        "Address and port for clients. Keep to the loopback address unless a proxy that\n"
        "authenticates stands in front.",
    )
    body_bytes_max: int = _setting(
        Size(CHUNK_BYTES, _GIB),
        8 * _MIB,
        "Longest body of a request. Larger payloads are uploaded in chunks of 1 MiB.",
    )
    allowed_hosts: tuple[str, ...] = _setting(
        TextList(check_host_name),
        (),
        "Names that the Host header may carry, beside the listen address and localhost.",
    )
    allowed_origins: tuple[str, ...] = _setting(
        TextList(check_origin),
        (),
        "Web pages that may call this node, such as https://example.org.",
    )
    subscriptions_max: int = _setting(
        Integer(1, 100_000), 256, "Clients that may listen to events at a time."
    )

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port to listen on."""
        return parse_host_port(self.listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class P2pSection:
    """``[p2p]``: the links to other nodes."""

    listen: str = _setting(
        Text(check_multiaddress), "/ip4/0.0.0.0/tcp/26656", "Address for other nodes."
    )
    external_address: str = _setting(
        Text(check_multiaddress, is_empty_allowed=True),
        "",
        "Address under which others reach this node, when it differs from the one above.",
    )
    persistent_peers: tuple[str, ...] = _setting(
        TextList(check_peer_address),
        (),
        "Nodes to keep a link to: /ip4/<address>/tcp/26656/p2p/<peer id>.",
    )
    bootstrap_peers: tuple[str, ...] = _setting(
        TextList(check_peer_address), (), "Nodes to learn the addresses of others from."
    )
    unconditional_peers: tuple[str, ...] = _setting(
        TextList(check_peer_id), (), "Peer ids that limits and bans do not touch."
    )
    private_peers: tuple[str, ...] = _setting(
        TextList(check_peer_id), (), "Peer ids whose addresses are never told to others."
    )
    allowed_peers: tuple[str, ...] = _setting(
        TextList(check_peer_id), (), "Peer ids that alone may link to this node; empty: everybody."
    )
    peers_max: int = _setting(Integer(1, 4096), 64, "Most linked peers.")
    peers_per_address_max: int = _setting(
        Integer(1, 4096), 16, "Most linked peers from one IP address."
    )
    gossip: bool = _setting(
        Flag(), True, "Announce new transactions beyond direct links; everything works without."
    )
    peer_exchange: bool = _setting(Flag(), True, "Tell, ask for and dial addresses of other nodes.")
    heartbeat_ms: int = _setting(Duration(20, 60 * _SECOND), 250, "Time between heartbeats.")
    peer_timeout_ms: int = _setting(
        Duration(100, _HOUR), 4 * _SECOND, "A peer silent for as long loses its link."
    )
    bulk_bytes_per_s_max: int = _setting(
        Size(1 << 16, 100 * _GIB),
        50_000_000,
        "Bytes a second for payloads and blocks, so that votes keep flowing.",
    )
    ban_ms: int = _setting(Duration(1, 24 * _HOUR), 60 * _SECOND, "How long a peer is banned.")

    def make_network_config(
        self, *, chain_id: str, genesis_hash: bytes, protocol_version: int, key_seed: bytes
    ) -> NetworkConfig:
        """Return what the network is told: these settings and the identity of chain and node.

        Parameters
        ----------
        chain_id : str
            The chain.
        genesis_hash : bytes, 32
            Compared at the handshake.
        protocol_version : int
            Compared at the handshake.
        key_seed : bytes, 32
            The node key.
        """
        return NetworkConfig(
            chain_id=chain_id,
            genesis_hash=genesis_hash,
            protocol_version=protocol_version,
            key_seed=key_seed,
            listen=self.listen,
            external_address=self.external_address,
            persistent_peers=self.persistent_peers,
            bootstrap_peers=self.bootstrap_peers,
            unconditional_peers=tuple(map(PeerId, self.unconditional_peers)),
            private_peers=tuple(map(PeerId, self.private_peers)),
            allowed_peers=frozenset(map(PeerId, self.allowed_peers)) or None,
            peers_max=self.peers_max,
            peers_per_address_max=self.peers_per_address_max,
            gossip=self.gossip,
            peer_exchange=self.peer_exchange,
            heartbeat_s=self.heartbeat_ms / 1_000,
            peer_timeout_s=self.peer_timeout_ms / 1_000,
            bulk_bytes_per_s_max=self.bulk_bytes_per_s_max,
            ban_s=self.ban_ms / 1_000,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MempoolSection:
    """``[mempool]``: transactions that wait for a block."""

    transactions_max: int = _setting(Integer(1, 1_000_000), 20_000, "Most pending transactions.")
    bytes_max: int = _setting(
        Size(TRANSACTION_BYTES_MAX, 16 * _GIB), 64 * _MIB, "Most bytes of them, without payloads."
    )
    payload_bytes_max: int = _setting(
        Size(TRANSACTION_BYTES_MAX, 1024 * _GIB), _GIB, "Most bytes of their payloads together."
    )
    per_sender_max: int = _setting(
        Integer(1, 1_000_000), 4_000, "Most pending transactions of one sender."
    )
    cache_max: int = _setting(
        Integer(1, 10_000_000), 100_000, "Decided transactions that are recognized at once."
    )
    gossip_interval_ms: int = _setting(
        Duration(1, 10 * _SECOND),
        10,
        "How long transactions are collected before they are sent on.",
    )
    announce_after_ms: int = _setting(
        Duration(10, _HOUR),
        2 * _SECOND,
        "Pending for as long, a transaction is announced again for who has missed it.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusSection:
    """``[consensus]``: patience, and when blocks are made."""

    timeout_propose_ms: int = _setting(_TIMEOUT, 3 * _SECOND, "Wait for a proposal, in round 0.")
    timeout_propose_delta_ms: int = _setting(_TIMEOUT, 500, "More of it in each further round.")
    timeout_prevote_ms: int = _setting(
        _TIMEOUT, _SECOND, "Wait for more prevotes once two thirds are in without a majority."
    )
    timeout_prevote_delta_ms: int = _setting(_TIMEOUT, 500, "More of it in each further round.")
    timeout_precommit_ms: int = _setting(
        _TIMEOUT, _SECOND, "Wait for more precommits once two thirds are in without a majority."
    )
    timeout_precommit_delta_ms: int = _setting(_TIMEOUT, 500, "More of it in each further round.")
    create_empty_blocks: bool = _setting(
        Flag(),
        True,
        "Make blocks without transactions. When false, one is made only when the ledger needs it\n"
        "(a training round has reached its deadline).",
    )
    empty_block_interval_ms: int = _setting(
        Duration(0, 24 * _HOUR),
        5 * _SECOND,
        'Time from the last block to an empty one; "0s": at once. Blocks with transactions never\n'
        "wait for it.",
    )
    block_transactions_max: int = _setting(
        Integer(1, 100_000), 5_000, "Most transactions in a block that this node proposes."
    )
    log_segment_bytes_max: int = _setting(
        Size(4 * _MIB, _GIB), 16 * _MIB, "Size at which the write-ahead log begins a new file."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSection:
    """``[storage]``: what lies on the disk."""

    payload_bytes_max: int = _setting(
        Size(_MIB, 1024 * 1024 * _GIB), 32 * _GIB, "Most bytes of stored payloads and weights."
    )
    payload_inline_bytes_max: int = _setting(
        Size(0, 64 << 10),
        64 << 10,
        "Payloads up to this size lie in the database, others in files.",
    )
    weights_retain_ms: int = _setting(
        Duration(0, 10 * 366 * 24 * _HOUR),
        24 * _HOUR,
        "How long weights of earlier training rounds are kept for whoever asks for those of an\n"
        "earlier block; never shorter than the chain's payload_retain, and only for as long as\n"
        "payloads take less than three quarters of payload_bytes_max.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentationSection:
    """``[instrumentation]``: figures for Prometheus."""

    metrics: bool = _setting(Flag(), True, "Serve figures at /metrics.")
    metrics_listen: str = _setting(
        Text(check_host_port), "127.0.0.1:26660", "Address and port for them."
    )

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port to listen on."""
        return parse_host_port(self.metrics_listen)


Section = (
    RpcSection
    | P2pSection
    | MempoolSection
    | ConsensusSection
    | StorageSection
    | InstrumentationSection
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a node."""

    moniker: str = _setting(Text(check_any), "quorate-node", "A name for people.")
    log_level: str = _setting(Choice(*LOG_LEVELS), "info", f"One of {', '.join(LOG_LEVELS)}.")
    log_format: str = _setting(
        Choice(*LOG_FORMATS), "console", "console for people, json for machines."
    )
    rpc: RpcSection = RpcSection()
    p2p: P2pSection = P2pSection()
    mempool: MempoolSection = MempoolSection()
    consensus: ConsensusSection = ConsensusSection()
    storage: StorageSection = StorageSection()
    instrumentation: InstrumentationSection = InstrumentationSection()


SECTIONS: Final[dict[str, type[Section]]] = {
    "rpc": RpcSection,
    "p2p": P2pSection,
    "mempool": MempoolSection,
    "consensus": ConsensusSection,
    "storage": StorageSection,
    "instrumentation": InstrumentationSection,
}
"""The sections of the file, in its order."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Settings that cannot hold together.

    Attributes
    ----------
    settings : tuple of (str, str)
        Section and key of each.
    sentence : str
        What must be, and the way out; it begins with the first one's section.
    """

    settings: tuple[tuple[str, str], ...]
    sentence: str


def find_contradiction(config: Config) -> Contradiction | None:
    """Return settings that cannot hold together, or None."""
    p2p, mempool = config.p2p, config.mempool
    if p2p.peer_timeout_ms < 2 * p2p.heartbeat_ms:
        return _contradict(
            "peer_timeout must be at least two times heartbeat: raise peer_timeout.",
            ("p2p", "peer_timeout"),
            ("p2p", "heartbeat"),
        )
    for name in ("persistent_peers", "bootstrap_peers"):
        for address in getattr(p2p, name):
            peer_id, _ = parse_peer_address(address)
            if p2p.allowed_peers and peer_id not in p2p.allowed_peers:
                return _contradict(
                    f"{name} lists {peer_id}, which allowed_peers does not admit: add it "
                    "there or take it out here.",
                    ("p2p", name),
                    ("p2p", "allowed_peers"),
                )
    if p2p.external_address and parse_address(p2p.external_address).port == 0:
        return _contradict(
            "external_address must have a port other than 0: others dial it.",
            ("p2p", "external_address"),
        )
    if mempool.per_sender_max > mempool.transactions_max:
        return _contradict(
            "per_sender_max must not exceed transactions_max: lower it.",
            ("mempool", "per_sender_max"),
            ("mempool", "transactions_max"),
        )
    addresses = [config.rpc.address]
    if config.instrumentation.metrics:
        addresses.append(config.instrumentation.address)
    if len(set(addresses)) != len(addresses) and addresses[0][1] != 0:
        return _contradict(
            "listen and [instrumentation] metrics_listen must differ: change a port.",
            ("rpc", "listen"),
            ("instrumentation", "metrics_listen"),
        )
    return None


def _contradict(sentence: str, *settings: tuple[str, str]) -> Contradiction:
    return Contradiction(settings, f"[{settings[0][0]}] {sentence}")
