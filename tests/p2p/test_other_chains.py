"""What a node says of a peer that runs another chain: its operator has no other sign of it."""

import logging

import pytest

from tests.p2p.conftest import open_world, until


async def test_a_peer_of_another_chain_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with open_world("libp2p") as world:
        one = await world.start(1)
        with caplog.at_level(logging.INFO, "p2p"):
            await world.start(2, chain_id="other", persistent_peers=(one.address,))
            await until(lambda: "does not speak /quorate/other/link/1" in caplog.text)
    (told, *_) = [record for record in caplog.records if "does not speak" in record.message]
    assert told.levelno == logging.WARNING
    assert one.peer_id in told.message
    assert "is it a node of this chain?" in told.message


async def test_a_peer_that_is_away_is_no_such_peer(caplog: pytest.LogCaptureFixture) -> None:
    async with open_world("libp2p") as world:
        one = await world.start(1)
        address = one.address
        await world.stop(one)
        with caplog.at_level(logging.DEBUG, "p2p"):
            await world.start(2, persistent_peers=(address,))
            await until(lambda: f"no link with {one.peer_id}" in caplog.text)
    assert "does not speak" not in caplog.text
