"""What the RPC's tests share: a served node."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.node.rpc.serving import Served, open_rpc


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with open_rpc(tmp_path) as running:
        yield running
