"""The machines of a simulated network: keys, disks, clocks, and the node on each.

Owns what a computer is here and what differs in its node from a real one (a signer that needs
power). Never starts or stops one: `world` does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
from quorate.chain.keys import PrivateKey
from quorate.chain.vote import Commit

from node.agreement.consensus_runner import ConsensusParts
from node.agreement.sign_record import SignRecord
from node.agreement.signer import Signer
from node.composition import Node
from node.events import Event
from node.execution.executor import ExecutedBlock
from p2p.identity import get_peer_id
from p2p.network import PeerId
from tests.simulation.disk import Disk, Power
from tests.simulation.fabric import SimNetwork
from tests.simulation.virtual_trio import Pace

MACHINES_MAX = 10


def make_key(number: int) -> PrivateKey:
    """Return the key with this number."""
    return PrivateKey(number.to_bytes(32, "big"))


VALIDATOR_KEYS = [make_key(1 + i) for i in range(MACHINES_MAX)]
NODE_IDS = [get_peer_id(make_key(500 + i).seed) for i in range(MACHINES_MAX)]

OnDecided = Callable[["Machine", "SimNode", ExecutedBlock, Commit], None]


class SimSigner(Signer):
    """A signer whose record needs power like everything else."""

    power: Power

    def _write(self, record: SignRecord) -> None:
        power = getattr(self, "power", None)
        if power is not None:
            power.use()
        super()._write(record)


class SimNode(Node):
    """A node that tells what it decided, and what it tells its clients."""

    machine: "Machine"
    tell: OnDecided

    def listen(self, hear: Callable[["Machine", Event], None]) -> None:
        """Let `hear` know of each event, whoever has subscribed."""
        events = self.services.events
        publish = events.publish

        def published(*args: object, **kwargs: object) -> Event:
            event = publish(*args, **kwargs)  # type: ignore[arg-type]
            hear(self.machine, event)
            return event

        events.publish = published  # type: ignore[method-assign]

    def _make_consensus_parts(self, *args: object) -> ConsensusParts:
        parts = super()._make_consensus_parts(*args)  # type: ignore[arg-type]
        follow = parts.on_decided

        def on_decided(executed: ExecutedBlock, commit: Commit) -> None:
            self.tell(self.machine, self, executed, commit)
            follow(executed, commit)

        return replace(parts, on_decided=on_decided)


@dataclass(eq=False)
class Machine:
    """A computer that may fail, and the node on it."""

    number: int
    folder: Path
    skew_ms: int
    is_byzantine: bool = False
    disk: Disk = field(default_factory=Disk)
    node: SimNode | None = None
    network: SimNetwork | None = None
    scope: trio.CancelScope | None = None
    height: int = 0
    restarts: int = 0
    pace: Pace = field(default_factory=Pace)
    served: SimNode | None = None
    """The node that has started, as its door for users opens only then."""
    turns: trio.Lock = field(default_factory=trio.Lock)
    """Held while the machine is being switched on or off: two who want to must take turns."""

    @property
    def key(self) -> PrivateKey:
        """The validator's key."""
        return VALIDATOR_KEYS[self.number]

    @property
    def peer_id(self) -> PeerId:
        """Who the node is to others."""
        return NODE_IDS[self.number]

    @property
    def is_up(self) -> bool:
        """Whether a node runs."""
        return self.node is not None

    @property
    def is_serving(self) -> bool:
        """Whether a node runs that has taken up what its journal holds, and so answers users."""
        return self.node is not None and self.node is self.served

    def describe(self) -> str:
        """Return what a reader of a failure wants to know."""
        node = self.node
        if node is None:
            return f"node {self.number}: off"
        services = node.services
        driver, catch_up = services.driver, services.catch_up
        return (
            f"node {self.number}: decided {services.executor.position.height}, driver at "
            f"{driver.height}/{driver.round} {driver.step.name}, waiting "
            f"{services.runner.is_waiting}, commit known {driver.commit is not None}, "
            f"highest claim {catch_up.highest_claim}, links {len(services.network.peers())}, "
            f"mempool {services.mempool.count}, "
            f"{'byzantine' if self.is_byzantine else 'honest'}"
        )
