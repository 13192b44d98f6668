"""A network in a process of its own, for the tests that freeze or kill it."""

import sys

import trio

from p2p.host import LibP2PNetwork
from p2p.network import NetworkConfig
from tests.p2p.conftest import Recorder


async def main(address: str) -> None:
    network = LibP2PNetwork(
        NetworkConfig(
            chain_id="test-1",
            genesis_hash=bytes(32),
            protocol_version=1,
            key_seed=(77).to_bytes(32, "big"),
            listen="/ip4/127.0.0.1/tcp/0",
            persistent_peers=(address,),
            gossip=False,
        )
    )
    await network.run(Recorder())


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
