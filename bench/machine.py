"""What the operating system says of processes and of the machine.

Owns the reading of ``/proc``. Never measures time by itself.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024
# Fields 14 and 15 of /proc/<pid>/stat, counted behind the name, which may hold anything.
_USER_TICKS, _SYSTEM_TICKS = 11, 12


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process in megabytes (10^6 bytes): now, and at its highest."""

    now_mb: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What a figure was measured on."""

    processor: str
    processors: int
    memory_gb: float
    system: str
    python: str


def read_cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in user and in system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / _TICKS_PER_SECOND


def read_memory(pid: int) -> Memory:
    """Return the resident memory of a process."""
    lines = _read_table(Path(f"/proc/{pid}/status"))
    return Memory(_to_mb(lines["VmRSS"]), _to_mb(lines["VmHWM"]))


def forget_peak(pid: int) -> None:
    """Have the kernel note the peak of a process's resident memory anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def describe_machine() -> Machine:
    """Return what this machine is."""
    processors = _read_table(Path("/proc/cpuinfo"))
    memory = _to_mb(_read_table(Path("/proc/meminfo"))["MemTotal"])
    return Machine(
        processor=processors.get("model name", platform.machine()),
        processors=len(os.sched_getaffinity(0)),
        memory_gb=round(memory / 1e3, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _read_table(path: Path) -> dict[str, str]:
    """Return the lines of a file as names and values; the first of a name counts."""
    table: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        table.setdefault(name.strip(), value.strip())
    return table


def _to_mb(text: str) -> float:
    return int(text.removesuffix(" kB")) * _KIB / 1e6
