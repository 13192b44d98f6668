"""A ban is told once, however much of what the peer sent before is still to be looked at."""

import logging

import pytest

from tests.p2p.conftest import open_world


async def test_reports_of_a_banned_peer_are_not_told_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_world("libp2p") as world:
        victim, hostile = await world.start_linked(2)
        with caplog.at_level(logging.INFO, "p2p"):
            for _ in range(200):
                victim.network.report(hostile.peer_id, 60, "a forged message")
        told = [record.message for record in caplog.records if hostile.peer_id in record.message]
        assert sum("is banned" in line for line in told) == 1
        assert len(told) < 5
