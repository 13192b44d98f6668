"""What the SDK's tests share: a node, a client on it, a task that trains."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from quorate import (
    AggregationRule,
    Client,
    ModelSchema,
    PrivateKey,
    RoundPolicy,
    Stage,
    TaskDraft,
    draft_task,
)
from quorate import connection as connection_module

from tests.sdk.fake_node import FakeNode

AUTHORITY = PrivateKey(b"\x51" * 32)
PARTICIPANTS = tuple(PrivateKey(bytes([0x61 + i]) * 32) for i in range(3))


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    now: float = 0.0
    slept: int = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The synchronous client's clock, so that waiting takes no time."""
    clock = Clock()
    monkeypatch.setattr(connection_module, "time", clock)
    return clock


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def client(node: FakeNode, clock: Clock) -> Iterator[Client]:
    assert clock.now == 0
    with Client("http://node", transport=node.transport()) as client:
        yield client


def make_draft(
    updates: int = 2, rounds_max: int = 0, size: int = 5, name: str = "digits"
) -> TaskDraft:
    generator = np.random.default_rng(7)
    arrays = {"kernel": generator.normal(size=(size, 3)), "bias": np.zeros(3)}
    return draft_task(
        name,
        arrays,
        RoundPolicy(60_000, updates, updates, rounds_max=rounds_max),
        rule=AggregationRule((Stage.MEAN,), 0),
        schema=ModelSchema.from_arrays(arrays),
    )


def create_task(
    client: Client, updates: int = 2, rounds_max: int = 0, name: str = "digits"
) -> bytes:
    draft = make_draft(updates, rounds_max, name=name)
    return bytes(client.create_task(AUTHORITY, draft.spec, draft.weights).hash)
