"""What hostile peers do to a network of real nodes, each attack a function with a bound.

Owns the attackers, which run in a process of their own: ``python -m tests.e2e.attacks NAME
SECONDS TARGET_FILE`` says `READY`, waits for a line, and prints at its end how often it did what,
as JSON. Speaks the nodes' protocols over real
sockets of the loopback interface; never looks into the nodes.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import trio
from quorate.chain.ids import Address, Hash, Height, Round, Signature
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.task import UpdateCodec
from quorate.chain.transaction import SubmitUpdate, Transaction, Transfer, sign_transaction
from quorate.chain.vote import BlockId, Vote, VoteType, compute_vote_sign_bytes

from node.exchange.messages import (
    NodeStatus,
    PendingHashesMessage,
    TransactionEntry,
    TransactionsMessage,
    VotesMessage,
    decode_status,
    encode_message,
)
from p2p import handshake
from p2p.address import parse_address, parse_peer_address
from p2p.frames import Hello, build_hello, build_message
from p2p.host import LibP2PNetwork
from p2p.libp2p_host import Host
from p2p.network import NetworkConfig, NetworkError, PeerId, Priority, RequestRefused
from p2p.stream_wire import StreamWire
from p2p.wire import HostOwner

PEERS: Final = 1_000
"""Peers of `churn`, each with a key of its own, a connection of its own, or both."""
PEERS_WITH_HANDSHAKE: Final = 10
"""One peer of `churn` in so many completes the handshake of noise and links before it leaves."""
STREAMS: Final = 10_000
STREAMS_S: Final = 1.0
"""So long a peer waits on a connection on which it gets no further stream."""
VOTES_PER_S: Final = 2_000
TRANSACTIONS_PER_S: Final = 1_000
HASHES_PER_S: Final = 20_000
SLOW_READERS: Final = 8
SLOW_BYTES: Final = 10
FAR_HEIGHTS: Final = 10**6
NO_BLOCK: Final = BlockId(Hash(b"\x77" * 32), 1, Hash(b"\x77" * 32))
"""The id of a block that there is not."""
READY: Final = "ready"
"""The line that an attacker writes before it waits for one, which sets it going."""
BATCH: Final = 100
ROUND_S: Final = 0.1

ANNOUNCE: Final = "/meshsub/1.1.0"
OTHER_PROTOCOLS: Final = ("/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/nothing/of/the/kind/1")


@dataclass(frozen=True, slots=True)
class Target:
    """The network under attack, as any peer may know it, and what an insider knows.

    Attributes
    ----------
    addresses : list of str
        Multiaddresses of the nodes.
    rpc_urls : list of str
    genesis_hash : str
        In hexadecimal.
    validators : list of str
        Addresses, in hexadecimal.
    insider_seed : str
        Seed of a validator's key, in hexadecimal; the validator itself must not run.
    participant_seeds : list of str
        Seeds of registered participants whose updates have no payload.
    """

    chain_id: str
    addresses: list[str]
    rpc_urls: list[str]
    genesis_hash: str
    protocol_version: int
    validators: list[str]
    insider_seed: str = ""
    participant_seeds: tuple[str, ...] = ()
    task_id: str = ""
    weights_root: str = ""

    @property
    def link(self) -> str:
        return f"/quorate/{self.chain_id}/link/1"

    @property
    def request(self) -> str:
        return f"/quorate/{self.chain_id}/request/1"


def write_target(path: Path, target: Target) -> None:
    path.write_text(json.dumps(asdict(target)))


# --- peers ---------------------------------------------------------------------------------------


class RawPeer:
    """A host without any manners above the connection, with a key of its own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.closing = trio.Event()
        self.host = Host(
            os.urandom(32),
            (target.link, target.request),
            None,
            HostOwner(
                take_stream=self._ignore,
                get_objection=lambda _peer: None,
                is_used=lambda _connection: True,
                may_forward=lambda _peer: True,
                take_announcement=lambda _peer, _body: None,
                on_fault=lambda _peer, _reason: None,
            ),
        )

    async def _ignore(self, _protocol: str, _wire: Any) -> None:
        await trio.sleep_forever()

    async def start(self, nursery: trio.Nursery) -> None:
        ready = trio.Event()
        await self.host.bind(parse_address("/ip4/127.0.0.1/tcp/0"))
        nursery.start_soon(self.host.run, ready, self.closing)
        await ready.wait()

    async def connect(self, address: str) -> Any:
        return await self.host.dial(*parse_peer_address(address))

    async def link(self, address: str) -> StreamWire:
        """Link like a node, and leave the rest to the caller."""
        connection = await self.connect(address)
        wire = await self.host.open_wire(connection, self.target.link)
        genesis_hash = bytes.fromhex(self.target.genesis_hash)
        version = self.target.protocol_version
        hello = Hello(1, self.target.chain_id, genesis_hash, version, os.urandom(16), "")
        await wire.write(build_hello(hello))
        await handshake.receive_hello(wire)
        return wire


class PolitePeer:
    """A peer with the manners of a node, that says whatever the attack makes it say."""

    def __init__(self, target: Target) -> None:
        self.linked: set[PeerId] = set()
        self.asked = 0
        self.height = 0
        self.network = LibP2PNetwork(
            NetworkConfig(
                chain_id=target.chain_id,
                genesis_hash=bytes.fromhex(target.genesis_hash),
                protocol_version=target.protocol_version,
                key_seed=os.urandom(32),
                listen="/ip4/127.0.0.1/tcp/0",
                persistent_peers=tuple(target.addresses),
                gossip=False,
                peer_exchange=False,
            )
        )

    def on_peer_connected(self, peer: PeerId) -> None:
        self.linked.add(peer)

    def on_peer_disconnected(self, peer: PeerId) -> None:
        self.linked.discard(peer)

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        pass

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        pass

    def get_status(self) -> bytes:
        return encode_message(NodeStatus(Height(0), Height(0), None, (), ()))

    def on_status(self, peer: PeerId, body: bytes) -> None:  # noqa: ARG002
        self.height = decode_status(body).height

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:  # noqa: ARG002
        """Take its time, and then have nothing."""
        self.asked += 1
        await trio.sleep(2)
        raise RequestRefused("no")

    def say(self, priority: Priority, body: bytes) -> int:
        return self.network.broadcast(priority, body)


Make = Callable[[int], list[tuple[bytes, int]]]
"""Given the height of the network: messages to say, and how many things each holds."""


class Flood:
    """Peers that link, say what is not welcome until they are banned, and come back as others.

    Parameters
    ----------
    target : Target
    make : callable
        Returns the next messages to say, for each `ROUND_S`.
    """

    def __init__(self, target: Target, priority: Priority, make: Make) -> None:
        self._target, self._priority, self._make = target, priority, make
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        while True:
            peer = PolitePeer(self._target)
            self.counts["peers"] += 1
            async with trio.open_nursery() as nursery:
                await nursery.start(peer.network.run, peer)
                with trio.move_on_after(5):
                    while not peer.linked:  # noqa: ASYNC110 - the network tells by callbacks.
                        await trio.sleep(0.02)
                while peer.linked:
                    for body, n_things in self._make(peer.height):
                        self.counts["said"] += n_things * peer.say(self._priority, body)
                    await trio.sleep(ROUND_S)
                self.counts["asked"] += peer.asked
                nursery.cancel_scope.cancel()


# --- attacks -------------------------------------------------------------------------------------

Attack = Callable[[Target, Counter[str]], Awaitable[None]]


async def churn(target: Target, counts: Counter[str]) -> None:
    """A thousand peers that open connections and drop them, in every state of the handshake."""
    async with trio.open_nursery() as nursery:
        for i, address in enumerate(target.addresses):
            nursery.start_soon(_churn_at, target, address, random.Random(i), counts)


async def _churn_at(
    target: Target, address: str, draw: random.Random, counts: Counter[str]
) -> None:
    parsed = parse_peer_address(address)[1]
    while counts["peers"] < PEERS:
        counts["peers"] += 1
        if counts["peers"] % PEERS_WITH_HANDSHAKE == 0:
            await _come_and_go(target, address, counts)
            continue
        with suppress(OSError, trio.BrokenResourceError):
            stream = await trio.open_tcp_stream(parsed.host, parsed.port)
            if draw.random() < 0.7:
                first = draw.choice((b"\x13/multistream/1.0.0\n", os.urandom(40), b"\x00"))
                await stream.send_all(first)
            await trio.sleep(draw.choice((0, 0, 0.05)))
            await stream.aclose()
            counts["dropped"] += 1


async def _come_and_go(target: Target, address: str, counts: Counter[str]) -> None:
    peer = RawPeer(target)
    async with trio.open_nursery() as nursery:
        await peer.start(nursery)
        with suppress(NetworkError, OSError, trio.TooSlowError, handshake.HandshakeRefused):
            with trio.fail_after(5):
                wire = await peer.link(address)
                counts["linked"] += 1
                await wire.force_close()
        peer.closing.set()
        nursery.cancel_scope.cancel()


async def garbage(target: Target, counts: Counter[str]) -> None:
    """Random bytes on every protocol id, on the bare socket, and well-framed nonsense on a link.

    A node serves three protocols (`Target.link`, `Target.request`, `ANNOUNCE`); the others are
    refused before a byte of garbage can be sent on them, and so are only among those tried.
    """
    async with trio.open_nursery() as nursery:
        for address in target.addresses:
            nursery.start_soon(_talk_nonsense, target, address, counts)


async def _talk_nonsense(target: Target, address: str, counts: Counter[str]) -> None:
    draw = random.Random(address)
    protocols = (target.link, target.request, ANNOUNCE, *OTHER_PROTOCOLS)
    parsed = parse_peer_address(address)[1]
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await trio.open_tcp_stream(parsed.host, parsed.port)
            await stream.send_all(os.urandom(5_000))
            await stream.aclose()
            counts["sockets"] += 1
        peer = RawPeer(target)
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            with suppress(Exception), trio.fail_after(3):
                wire = await peer.link(address)
                for priority in draw.sample(tuple(Priority), 2):
                    await wire.write(build_message(priority, os.urandom(500)))
                    counts["messages"] += 1
                await wire.force_close()
            nursery.cancel_scope.cancel()
        peer = RawPeer(target)
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            for protocol in draw.sample(protocols, len(protocols)):
                counts["tried"] += 1
                with suppress(Exception), trio.fail_after(1):
                    wire = await peer.host.open_wire(await peer.connect(address), protocol)
                    await wire.write(os.urandom(draw.choice((1, 50, 5_000))))
                    counts[protocol.removeprefix("/")] += 1
                    await trio.sleep(0.05)
                    await wire.force_close()
            nursery.cancel_scope.cancel()


async def slow_readers(target: Target, counts: Counter[str]) -> None:
    """Linked peers that never read, and clients that read events ten bytes a second."""
    async with trio.open_nursery() as nursery:
        for i in range(SLOW_READERS):
            nursery.start_soon(_link_and_stare, target, target.addresses[i % 4], counts)
            nursery.start_soon(_drip, target.rpc_urls[i % len(target.rpc_urls)], counts)


async def _link_and_stare(target: Target, address: str, counts: Counter[str]) -> None:
    while True:
        peer = RawPeer(target)
        async with trio.open_nursery() as nursery:
            await peer.start(nursery)
            with suppress(Exception), trio.move_on_after(8):
                await peer.link(address)
                counts["links"] += 1
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
        await trio.sleep(1)


async def _drip(url: str, counts: Counter[str]) -> None:
    parsed = httpx.URL(url)
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await trio.open_tcp_stream(parsed.host, parsed.port or 80)
            stream.setsockopt(6, 10, 1)
            head = f"GET /v1/events HTTP/1.1\r\nHost: {parsed.host}:{parsed.port}\r\n\r\n"
            await stream.send_all(head.encode())
            counts["subscriptions"] += 1
            while await stream.receive_some(SLOW_BYTES):  # noqa: ASYNC110 - it dawdles.
                await trio.sleep(1)
        await trio.sleep(0.5)


async def streams(target: Target, counts: Counter[str]) -> None:
    """Ten thousand streams from one peer, which comes back whenever it gets no more of them."""
    peer = RawPeer(target)
    async with trio.open_nursery() as nursery:
        await peer.start(nursery)
        async with trio.open_nursery() as victims:
            for address in target.addresses:
                victims.start_soon(_open_streams, peer, address, counts)
        nursery.cancel_scope.cancel()


async def _open_streams(peer: RawPeer, address: str, counts: Counter[str]) -> None:
    while counts["streams"] < STREAMS:
        connection: Any = None
        with suppress(Exception), trio.move_on_after(STREAMS_S):
            connection = await peer.connect(address)
            counts["connections"] += 1
            while counts["streams"] < STREAMS:
                await connection.muxed_conn.open_stream()
                counts["streams"] += 1
        if connection is not None:
            with suppress(Exception), trio.move_on_after(1):
                await peer.host.close_connection(connection)
        await trio.sleep(0.05)


def make_far_votes(target: Target) -> Make:
    """Genuine votes of an insider, for heights and rounds that are far off."""
    draw = random.Random(2)
    insider = PrivateKey(bytes.fromhex(target.insider_seed))

    def make_vote() -> Vote:
        height, round_ = Height(draw.randrange(1, FAR_HEIGHTS)), Round(draw.randrange(1_000))
        kind = draw.choice((VoteType.PREVOTE, VoteType.PRECOMMIT))
        signed = compute_vote_sign_bytes(target.chain_id, kind, height, round_, NO_BLOCK)
        signature = insider.sign(Domain.VOTE, signed)
        return Vote(kind, height, round_, NO_BLOCK, insider.address, signature)

    return _make_batches(lambda _height: make_vote())


def make_forged_votes(target: Target) -> Make:
    """Votes in the name of honest validators, for the next heights, and nobody has signed them."""
    draw = random.Random(3)

    def make_vote(height: int) -> Vote:
        validator = Address(bytes.fromhex(draw.choice(target.validators)))
        near = Height(height + draw.randrange(1, 4))
        signature = Signature(os.urandom(64))
        return Vote(VoteType.PRECOMMIT, near, Round(0), NO_BLOCK, validator, signature)

    return _make_batches(make_vote)


def _make_batches(make_vote: Callable[[int], Vote]) -> Make:
    def make(height: int) -> list[tuple[bytes, int]]:
        messages = [
            VotesMessage(tuple(make_vote(height) for _ in range(BATCH)))
            for _ in range(int(VOTES_PER_S * ROUND_S) // BATCH)
        ]
        return [(encode_message(message), BATCH) for message in messages]

    return make


def make_unknown_senders(target: Target) -> Make:
    """Well-signed transfers of accounts that the chain has never seen."""

    def make_entry() -> TransactionEntry:
        key = PrivateKey.generate()
        body = Transfer(key.address, 1)
        transaction = Transaction(1, target.chain_id, key.public_key, 0, 0, body)
        return TransactionEntry(sign_transaction(key, transaction), None)

    def make(_height: int) -> list[tuple[bytes, int]]:
        n_batches = int(TRANSACTIONS_PER_S * ROUND_S) // BATCH
        return [
            (encode_message(TransactionsMessage(tuple(make_entry() for _ in range(BATCH)))), BATCH)
            for _ in range(n_batches)
        ]

    return make


def make_unserved(target: Target) -> Make:
    """Updates of registered participants whose payloads nobody has; hashes of no transactions."""
    keys = [PrivateKey(bytes.fromhex(seed)) for seed in target.participant_seeds]

    def make_entry(key: PrivateKey) -> TransactionEntry:
        body = SubmitUpdate(
            Hash(bytes.fromhex(target.task_id)),
            0,
            Hash(bytes.fromhex(target.weights_root)),
            UpdateCodec.DENSE_INT16,
            Hash(sha256(os.urandom(32)).digest()),
            1_300,
            1,
        )
        transaction = Transaction(1, target.chain_id, key.public_key, 1, 0, body)
        return TransactionEntry(sign_transaction(key, transaction), None)

    def make(_height: int) -> list[tuple[bytes, int]]:
        hashes = tuple(Hash(os.urandom(32)) for _ in range(int(HASHES_PER_S * ROUND_S) // 2))
        said = [
            (encode_message(PendingHashesMessage(hashes[i : i + 1_000])), 1_000)
            for i in range(0, len(hashes), 1_000)
        ]
        if keys:
            entries = tuple(make_entry(key) for key in keys)
            said.append((encode_message(TransactionsMessage(entries)), len(entries)))
        return said

    return make


def flood(priority: Priority, prepare: Callable[[Target], Make]) -> Attack:
    async def run(target: Target, counts: Counter[str]) -> None:
        attack = Flood(target, priority, prepare(target))
        attack.counts = counts
        await attack.run()

    return run


ATTACKS: Final[dict[str, Attack]] = {
    "churn": churn,
    "garbage": garbage,
    "slow_readers": slow_readers,
    "streams": streams,
    "far_votes": flood(Priority.CONSENSUS, make_far_votes),
    "forged_votes": flood(Priority.CONSENSUS, make_forged_votes),
    "unknown_senders": flood(Priority.MEMPOOL, make_unknown_senders),
    "unserved_payloads": flood(Priority.MEMPOOL, make_unserved),
}


def run_attack(name: str, seconds: float, target: Target) -> Counter[str]:
    """Attack until the time is over, or the attack has done all that it is bound to."""
    counts: Counter[str] = Counter()

    async def run() -> None:
        with trio.move_on_after(seconds):
            await ATTACKS[name](target, counts)

    began = time.monotonic()
    trio.run(run)
    counts["seconds"] = round(time.monotonic() - began)
    return counts


if __name__ == "__main__":
    document = json.loads(Path(sys.argv[3]).read_text())
    # Loading all of this takes seconds on a busy machine: whoever measures waits for it.
    print(READY, flush=True)
    sys.stdin.readline()
    print(json.dumps(run_attack(sys.argv[1], float(sys.argv[2]), Target(**document))))
