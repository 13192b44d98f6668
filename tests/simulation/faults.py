"""What a plan does to a simulated network while it runs, and how it is undone.

Owns the meaning of each planned fault. Never draws when one happens: `plan` does.
"""

from typing import TYPE_CHECKING

from tests.simulation.machines import NODE_IDS, Machine
from tests.simulation.plan import Fault

if TYPE_CHECKING:
    from tests.simulation.world import World

HEALED_SKEW_MS = 100
"""A clock is off by no more than this once the network has healed."""
HEALED_LAG_S = 0.01
"""No computer is slower than this once the network has healed."""


async def apply_fault(world: "World", fault: Fault) -> None:
    """Do to the network what the plan says."""
    match fault:
        case ("crash", int(number), bool(has_power_failed)):
            await world.crash(world.machines[number], has_power_failed=has_power_failed)
        case ("crash_at_write", int(number), int(writes)):
            world.machines[number].disk.power.writes_left = writes
        case ("start", int(number)):
            await _start_again(world, world.machines[number])
        case ("cut", tuple(pairs)):
            world.fabric.cut = {(NODE_IDS[a], NODE_IDS[b]) for a, b in pairs}
        case ("loss", float(loss)):
            world.fabric.conditions.loss = loss
        case ("skew", int(number), int(skew)):
            world.machines[number].skew_ms = skew
        case ("full", int(number), int(writes)):
            world.machines[number].disk.power.room = writes
        case ("room", int(number)):
            world.machines[number].disk.power.room = None
            await _start_again(world, world.machines[number])
        case ("lag", int(number), float(lag_s)):
            world.machines[number].pace.lag_s = lag_s
        case _:
            raise RuntimeError(f"unknown fault {fault}")


async def heal(world: "World") -> None:
    """Undo what hinders the network: cuts, losses, clocks far off, machines that are down."""
    world.fabric.director = None
    world.fabric.cut = set()
    world.fabric.conditions.loss = 0.0
    world.fabric.conditions.duplication = 0.0
    for machine in world.machines:
        machine.skew_ms = max(-HEALED_SKEW_MS, min(HEALED_SKEW_MS, machine.skew_ms))
        machine.pace.lag_s = min(HEALED_LAG_S, machine.pace.lag_s)
        power = machine.disk.power
        power.writes_left = power.room = None
        # A node whose disk has been full is on its way down, however long a slow one takes.
        if power.is_off or power.has_refused or not machine.is_up:
            await world.crash(machine, has_power_failed=True)
            await world.start(machine)


async def _start_again(world: "World", machine: Machine) -> None:
    if not machine.is_up:
        await world.crash(machine, has_power_failed=machine.disk.power.is_off)
        await world.start(machine)
