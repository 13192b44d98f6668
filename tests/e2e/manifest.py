"""What a network under attack looks like: a small TOML file, or one drawn from a seed.

Owns the form of manifests, their check, and the generator. Never starts anything: `campaign` does.
"""

import random
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

Topology = Literal["mesh", "ring", "line", "star"]
Wires = Literal["relay", "namespaces"]
Kind = Literal["kill", "freeze", "restart", "disconnect", "delay", "loss"]
Behaviour = Literal["equivocate", "withhold", "wrong_root", "false_status", "everything"]

SECONDS_MAX: Final = 600.0
NODES_MAX: Final = 10


class ManifestError(Exception):
    """A manifest that says something impossible; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens to a node.

    Attributes
    ----------
    at_s, lasting_s : float
        When it begins, after the network has decided its first block, and for how long. A killed
        node is started again at the end; a frozen one goes on.
    node : int
    kind : str
        ``kill`` (SIGKILL), ``freeze`` (SIGSTOP), ``restart`` (SIGTERM, then start), ``disconnect``
        (its links carry nothing), ``delay`` and ``loss`` of what its links carry, both ways.
    delay_ms, loss_percent : int
    """

    at_s: float
    node: int
    kind: Kind
    lasting_s: float = 1.0
    delay_ms: int = 100
    loss_percent: int = 5

    @property
    def ends_s(self) -> float:
        return self.at_s + self.lasting_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A network and what happens to it.

    Nodes are numbered: validators first, then full nodes, then late ones, which are full nodes
    that join from genesis after `late_join_s`.

    Attributes
    ----------
    byzantine : dict of int to str
        Which validators run a build that misbehaves, and how.
    wiring : str
        ``relay``: links go through relays of the test, which delay and hold back bytes anywhere;
        ``namespaces``: each node has a network namespace of its own.
    participants : int
        Who trains, each through the node of its number, round and round.
    senders : int
        Accounts that keep sending transfers, each through the node of its number.
    """

    name: str
    validators: int = 4
    full_nodes: int = 0
    late_joiners: int = 0
    late_join_s: float = 3.0
    topology: Topology = "mesh"
    wiring: Wires = "relay"
    participants: int = 2
    senders: int = 2
    seconds: float = 10.0
    byzantine: dict[int, Behaviour] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.node_count <= NODES_MAX or not 0 < self.seconds <= SECONDS_MAX:
            raise ManifestError(f"{self.name}: {self.node_count} nodes for {self.seconds:g} s")
        byzantine_max = (self.validators - 1) // 3
        if len(self.byzantine) > byzantine_max or any(
            not 0 <= number < self.validators for number in self.byzantine
        ):
            raise ManifestError(
                f"{self.name}: at most {byzantine_max} of {self.validators} validators can be "
                "byzantine"
            )
        for fault in self.faults:
            if not 0 <= fault.node < self.node_count or fault.ends_s > self.seconds:
                raise ManifestError(f"{self.name}: {fault} is of no node, or ends too late")
            if fault.kind == "loss" and self.wiring != "namespaces":
                raise ManifestError(f"{self.name}: packets are lost in namespaces alone")

    @property
    def node_count(self) -> int:
        return self.validators + self.full_nodes + self.late_joiners

    @property
    def late(self) -> range:
        """The numbers of the nodes that join late."""
        return range(self.validators + self.full_nodes, self.node_count)

    @property
    def honest(self) -> list[int]:
        return [number for number in range(self.node_count) if number not in self.byzantine]

    def list_links(self) -> list[tuple[int, int]]:
        """Return which pairs of nodes are linked, lower number first; late ones know node 0."""
        early = range(self.validators + self.full_nodes)
        match self.topology:
            case "mesh":
                pairs = {(i, j) for j in early for i in range(j)}
            case "ring" | "line":
                pairs = {(i, i + 1) for i in early[:-1]}
                if self.topology == "ring" and len(early) > 2:
                    pairs.add((0, early[-1]))
            case "star":
                pairs = {(0, i) for i in early[1:]}
        return sorted(pairs | {(i, late) for late in self.late for i in (0, 1)})


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a file.

    Raises
    ------
    ManifestError
        If it says something unknown or impossible.
    """
    content: dict[str, Any] = tomllib.loads(path.read_text())
    faults = [Fault(**fault) for fault in _check(content.pop("faults", []), Fault, path)]
    byzantine = {int(number): how for number, how in content.pop("byzantine", {}).items()}
    _check([content], Manifest, path)
    for fault in faults:
        if fault.kind not in get_args(Kind):
            raise ManifestError(f"{path.name}: there is no fault {fault.kind!r}")
    if unknown := set(byzantine.values()) - set(get_args(Behaviour)):
        raise ManifestError(f"{path.name}: there is no behaviour {unknown}")
    return Manifest(name=path.stem, byzantine=byzantine, faults=tuple(faults), **content)


def _check(tables: list[dict[str, Any]], kind: type, path: Path) -> list[dict[str, Any]]:
    known = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for table in tables:
        if unknown := set(table) - known:
            raise ManifestError(f"{path.name}: {kind.__name__} knows no {sorted(unknown)}")
    return tables


def write_manifest(manifest: Manifest) -> str:
    """Return a manifest as TOML, such that `read_manifest` gives the same one."""
    lines = [
        f"{name} = {_write(getattr(manifest, name))}"
        for name in Manifest.__dataclass_fields__
        if name not in ("name", "byzantine", "faults")
    ]
    if manifest.byzantine:
        lines += ["", "[byzantine]"]
        lines += [f"{number} = {_write(how)}" for number, how in manifest.byzantine.items()]
    for fault in manifest.faults:
        lines += ["", "[[faults]]"]
        lines += [f"{name} = {_write(getattr(fault, name))}" for name in Fault.__dataclass_fields__]
    return "\n".join(lines) + "\n"


def _write(value: float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def generate(
    seed: int,
    seconds: float = 20.0,
    wiring: Wires = "relay",
    *,
    has_liar: bool | None = None,
) -> Manifest:
    """Draw a manifest: the same one for the same seed. Packets are lost in namespaces alone.

    Whether a validator is byzantine is drawn as well, unless `has_liar` says; then there is also
    somebody to whom something happens: a full node beside a liar, validators in a mesh without one.
    At no time are more than f validators faulty, byzantine ones included, so that the network is
    to go on all the while; a network without a byzantine one has a fault about half of the time.
    """
    draw = random.Random(seed)
    validators = draw.choice((4, 4, 4, 5))
    byzantine: dict[int, Behaviour] = {}
    is_drawn = draw.random() < 0.3
    if is_drawn if has_liar is None else has_liar:
        byzantine[draw.randrange(validators)] = draw.choice(get_args(Behaviour))
    full_nodes, late_joiners = draw.randrange(2), draw.randrange(2)
    if has_liar:
        full_nodes = 1
    n_early = validators + full_nodes
    # Whoever shall not hinder the others must not be their only way to each other.
    topology: Topology = draw.choice(("mesh", "mesh", "ring"))
    if has_liar is False:
        topology = "mesh"
    targets = [number for number in range(n_early) if number not in byzantine]
    if byzantine or topology == "ring":
        targets = [number for number in targets if number >= validators]
    kinds: tuple[Kind, ...] = ("kill", "kill", "freeze", "restart", "disconnect", "delay")
    if wiring == "namespaces":
        kinds += ("loss", "loss")
    faults: list[Fault] = []
    now_s = 1.0
    while targets:
        kind = draw.choice(kinds)
        lasting_s = round(draw.uniform(0.2, seconds / 4), 1)
        if now_s + lasting_s + 1 > seconds:
            break
        faults.append(
            Fault(
                at_s=round(now_s, 1),
                node=draw.choice(targets),
                kind=kind,
                lasting_s=lasting_s,
                delay_ms=draw.choice((20, 100, 400)),
            )
        )
        # Long enough for the one to be back before the next one goes.
        now_s += lasting_s + draw.uniform(2, 4)
    return Manifest(
        name=f"seed-{seed}",
        validators=validators,
        full_nodes=full_nodes,
        late_joiners=late_joiners,
        late_join_s=round(draw.uniform(1, seconds / 2), 1),
        topology=topology,
        wiring=wiring,
        participants=draw.randrange(1, 4),
        senders=draw.randrange(1, 4),
        seconds=seconds,
        byzantine=byzantine,
        faults=tuple(faults),
    )
