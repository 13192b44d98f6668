"""One case of the aggregation benchmark: a library, a rule, n updates of d parameters.

Owns the inputs, the peers' calls, and the measurement inside one process. Never compares cases:
`bench.aggregation` does, which runs each in a process of its own.

The peers get the same integers as float32, in the form they are fastest with: Flower's functions of
`flwr.server.strategy.aggregate` a list of arrays, ByzFL's a torch tensor, or an array, which takes
other code. They compute the vector alone; ours also checks every integer and judges every update,
as the chain needs it. What that amounts to, the case `mean+scores` shows: there ByzFL starts from
the same int16 rows, and decodes and checks them, takes the mean, and an inner product per update.
"""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import DEFAULT_RULE, AggregationRule, Stage

from aggregation import aggregate, compute_updates_min, keeps_aggregate, needs_seed
from aggregation.arithmetic import INT16_ABS_MAX

OURS: Final = "quorate"
FLOWER: Final = "flower"
BYZFL: Final = "byzfl"
BYZFL_NUMPY: Final = "byzfl-numpy"
REPEATS_MAX: Final = 5
SECONDS_MAX: Final = 3.0
SAME_WORK: Final = "mean+scores"
RULES: Final[dict[str, tuple[Stage, ...]]] = {
    "mean": (Stage.MEAN,),
    SAME_WORK: (Stage.MEAN,),
    "median": (Stage.MEDIAN,),
    "trimmed_mean": (Stage.TRIMMED_MEAN,),
    "krum": (Stage.KRUM,),
    "multi_krum": (Stage.MULTI_KRUM,),
    "bulyan": (Stage.BULYAN,),
    "geometric_median": (Stage.GEOMETRIC_MEDIAN,),
    "centered_clipping": (Stage.CENTERED_CLIPPING,),
    "nnm+trimmed_mean": (Stage.NNM, Stage.TRIMMED_MEAN),
    "arc+mean": (Stage.ARC, Stage.MEAN),
    "bucketing+median": (Stage.BUCKETING, Stage.MEDIAN),
    "default": DEFAULT_RULE,
}
PEERS: Final[dict[str, tuple[str, ...]]] = {
    FLOWER: ("mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan"),
    BYZFL: tuple(rule for rule in RULES if rule not in ("bulyan", "default")),
    BYZFL_NUMPY: tuple(rule for rule in RULES if rule not in ("bulyan", "default", SAME_WORK)),
}


@dataclass(frozen=True)
class Figures:
    """What one case measured.

    `cpu_ms` and `wall_ms` are the best of some runs. `peak_ratio` is the most memory resident
    during the first run, over the size of the updates in this library's type.
    """

    library: str
    rule: str
    n_updates: int
    dimension: int
    num_byzantine: int
    cpu_ms: float
    wall_ms: float
    peak_ratio: float


def compute_num_byzantine(rule: str, n_updates: int) -> int:
    """Return a quarter of the updates, or as many as the rule tolerates if those are fewer."""
    if rule in ("mean", SAME_WORK):
        return 0
    f = n_updates // 4
    while f and compute_updates_min(AggregationRule(RULES[rule], f)) > n_updates:
        f -= 1
    return f


def is_available(library: str) -> bool:
    """Return whether a library can be imported here."""
    modules = {OURS: (), FLOWER: ("flwr",)}.get(library, ("byzfl", "torch"))
    return all(find_spec(module) for module in modules)


def make_updates(n_updates: int, dimension: int) -> list[NDArray[np.int16]]:
    """Draw updates that have a direction in common, of differing lengths."""
    generator = np.random.default_rng(0)
    common = generator.standard_normal(dimension, np.float32) * 1000
    updates = []
    for index in range(n_updates):
        noise = generator.standard_normal(dimension, np.float32) * 2000
        noise += common
        noise *= 0.5 + index / n_updates
        updates.append(np.clip(noise, -32767, 32767, out=noise).astype(np.int16))
    return updates


def make_call(library: str, rule: str, n_updates: int, dimension: int) -> Callable[[], object]:
    """Return the library's aggregation of fresh updates, as a call without arguments."""
    f = compute_num_byzantine(rule, n_updates)
    updates = make_updates(n_updates, dimension)
    if library == OURS:
        return _make_our_call(AggregationRule(RULES[rule], f), updates)
    rows = np.empty((n_updates, dimension), np.float32)
    for row, update in zip(rows, updates, strict=True):
        row[:] = update
    if rule == SAME_WORK:
        return _make_byzfl_same_work(updates, rows)
    del updates
    if library == FLOWER:
        return _make_flower_call(rule, f, rows)
    return _make_byzfl_call(rule, f, rows, is_tensor=library == BYZFL)


def _make_our_call(rule: AggregationRule, updates: list[NDArray[np.int16]]) -> Callable[[], object]:
    return lambda: aggregate(
        rule,
        updates,
        seed=b"seed" if needs_seed(rule) else None,
        previous=np.zeros(updates[0].size, np.int16) if keeps_aggregate(rule) else None,
    )


def _make_flower_call(rule: str, f: int, rows: NDArray[np.float32]) -> Callable[[], object]:
    from flwr.server.strategy import aggregate as flower  # noqa: PLC0415

    results: list[tuple[list[NDArray[np.float32]], int]] = [([row], 1) for row in rows]
    calls: dict[str, Callable[[], object]] = {
        "mean": lambda: flower.aggregate(results),
        "median": lambda: flower.aggregate_median(results),
        "trimmed_mean": lambda: flower.aggregate_trimmed_avg(results, f / len(results) + 1e-9),
        "krum": lambda: flower.aggregate_krum(results, f, 0),
        "multi_krum": lambda: flower.aggregate_krum(results, f, len(results) - f),
        # It removes what it selects from the list it is given.
        "bulyan": lambda: flower.aggregate_bulyan(
            list(results), f, flower.aggregate_krum, to_keep=0
        ),
    }
    return calls[rule]


def _make_byzfl_call(
    rule: str, f: int, rows: NDArray[np.float32], *, is_tensor: bool
) -> Callable[[], object]:
    import byzfl  # noqa: PLC0415
    import torch  # noqa: PLC0415

    tensor: NDArray[np.float32] = torch.from_numpy(rows) if is_tensor else rows
    calls: dict[str, Callable[[], object]] = {
        "mean": lambda: byzfl.Average()(tensor),
        "median": lambda: byzfl.Median()(tensor),
        "trimmed_mean": lambda: byzfl.TrMean(f)(tensor),
        "krum": lambda: byzfl.Krum(f)(tensor),
        "multi_krum": lambda: byzfl.MultiKrum(f)(tensor),
        "geometric_median": lambda: byzfl.GeometricMedian(nu=1.0, T=8)(tensor),
        "centered_clipping": lambda: byzfl.CenteredClipping(L=1, tau=1e6)(tensor),
        "nnm+trimmed_mean": lambda: byzfl.TrMean(f)(byzfl.NNM(f)(tensor)),
        # It writes to the tensor it is given.
        "arc+mean": lambda: byzfl.Average()(byzfl.ARC(f)(tensor + 0.0)),
        "bucketing+median": lambda: byzfl.Median()(byzfl.Bucketing(2)(tensor)),
    }
    return calls[rule]


def _make_byzfl_same_work(
    updates: list[NDArray[np.int16]], rows: NDArray[np.float32]
) -> Callable[[], object]:
    import byzfl  # noqa: PLC0415
    import torch  # noqa: PLC0415

    tensor = torch.from_numpy(rows)

    def call() -> object:
        for row, update in zip(rows, updates, strict=True):
            row[:] = update
            if int(update.min()) < -INT16_ABS_MAX:
                raise ValueError("an update contains -32768")
        mean = byzfl.Average()(tensor)
        return mean, tensor @ mean

    return call


def measure(library: str, rule: str, n_updates: int, dimension: int) -> Figures:
    """Run a case a few times, for about three seconds at most, and keep the best."""
    call = make_call(library, rule, n_updates, dimension)
    input_bytes = n_updates * dimension * (2 if library == OURS else 4)
    # 5 resets the peak that the kernel has noted, which was that of making the inputs.
    Path("/proc/self/clear_refs").write_text("5")
    best_cpu = best_wall = float("inf")
    spent, peak = 0.0, 0
    for repeat in range(REPEATS_MAX):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        best_cpu = min(best_cpu, time.process_time() - cpu)
        elapsed = time.perf_counter() - wall
        best_wall = min(best_wall, elapsed)
        if repeat == 0:
            peak = _read_status("VmHWM")
        spent += elapsed
        if spent > SECONDS_MAX:
            break
    return Figures(
        library,
        rule,
        n_updates,
        dimension,
        compute_num_byzantine(rule, n_updates),
        best_cpu * 1e3,
        best_wall * 1e3,
        (peak - _BASE_BYTES.get(library, 0)) / input_bytes,
    )


_BASE_BYTES: Final[dict[str, int]] = {}
"""What the process holds before there are updates, by library; filled in by `main`."""


def _read_status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel tells no {name}")


def _end_with_input() -> None:
    """End this process at the end of its standard input, which whoever started it holds open."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """Measure the case on the command line: library, rule, n, d, threads, memory limit in MiB."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    library, rule = arguments[:2]
    n_updates, dimension, threads, memory_mib = map(int, arguments[2:])
    if library in (BYZFL, BYZFL_NUMPY):
        import byzfl  # noqa: F401, PLC0415
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)
    elif library == FLOWER:
        from flwr.server.strategy import aggregate as _flower  # noqa: F401, PLC0415
    _BASE_BYTES[library] = _read_status("VmRSS")
    limit = _read_status("VmSize") + (memory_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps(asdict(measure(library, rule, n_updates, dimension))))


if __name__ == "__main__":
    main(sys.argv[1:])
