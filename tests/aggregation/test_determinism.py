"""One result: any order of arrival, threads, hash seeds, processors and block sizes, one digest.

Owns the comparison across processes. Never compares with stored digests: equality is the claim.
"""

import hashlib
import json
import os
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quorate.chain.task import (
    DEFAULT_RULE,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
)

from aggregation import (
    aggregate,
    apply_optimizer,
    columns,
    keeps_aggregate,
    needs_seed,
)
from tests.aggregation.machine import (
    ask_openblas,
    count_processors,
    describe_machine,
    find_extensions,
)

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    AggregationRule(DEFAULT_RULE, 3),
    AggregationRule((Stage.NNM, Stage.MULTI_KRUM), 3),
    AggregationRule((Stage.CLIP, Stage.MEAN), 3, 100_000),
    AggregationRule((Stage.MEDIAN,), 3),
    AggregationRule((Stage.TRIMMED_MEAN,), 3),
    AggregationRule((Stage.ARC, Stage.BUCKETING, Stage.KRUM), 1, bucket_size=2),
    AggregationRule((Stage.BULYAN,), 2),
    AggregationRule((Stage.ARC, Stage.GEOMETRIC_MEDIAN), 3),
    AggregationRule((Stage.CENTERED_CLIPPING,), 3, iterations=3),
]
OPTIMIZERS = [
    ServerOptimizer(OptimizerName.MOMENTUM, 40_000, 50_000),
    ServerOptimizer(OptimizerName.SGD, 40_000),
    ServerOptimizer(OptimizerName.ADAGRAD, 40_000, 50_000, 0, 66),
    ServerOptimizer(OptimizerName.ADAM, 40_000, 50_000, 60_000, 66),
    ServerOptimizer(OptimizerName.YOGI, 40_000, 50_000, 60_000, 66),
]
MACHINES: list[dict[str, str]] = [
    {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    {"OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "12345"},
    {"OPENBLAS_CORETYPE": "Prescott"},
    {"OPENBLAS_CORETYPE": "Haswell"},
    {"OPENBLAS_CORETYPE": "SkylakeX"},
    {"NPY_DISABLE_CPU_FEATURES": "all"},
    {"NPY_DISABLE_CPU_FEATURES": "all", "OPENBLAS_CORETYPE": "Prescott"},
    {"QUORATE_TEST_BLOCK_VALUES": "40000"},
]
"""Threads, hash seeds, kernels of BLAS and of numpy for other processors, other blocks."""
KERNELS = {
    # OpenBLAS has one kernel for all processors up to Prescott, and calls it by the first of them.
    "Prescott": (("Prescott", "Katmai"), None),
    "Haswell": (("Haswell",), "AVX2"),
    "SkylakeX": (("SkylakeX",), "AVX512_SKX"),
}
"""What OpenBLAS says it computes with, and what the processor must have for it."""
SAID_BY_MACHINES = ("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "PYTHONHASHSEED")
SHUFFLES = 20
PARAMETERS = 50_000
PARTICIPANTS = 12


def compute_digest() -> str:
    """Train one round under each rule, the updates arriving in many orders; digest all bytes."""
    generator = np.random.default_rng(42)
    # Drawn as integers: the normal distribution's floats may differ between processors.
    received = {
        address.to_bytes(20, "big"): generator.integers(-9000, 9000, PARAMETERS, np.int16)
        for address in range(PARTICIPANTS)
    }
    tensors = [TensorSpec("layer", (PARAMETERS,), 20, 12)]
    everything = hashlib.sha256()
    for shuffle in range(SHUFFLES):
        arrival = list(received)
        random.Random(shuffle).shuffle(arrival)
        arrived = {address: received[address] for address in arrival}
        updates = [arrived[address] for address in sorted(arrived)]
        # Every order for the first rule; the others see one, in which no order is left anyway.
        digests = [
            compute_rule_digest(rule, updates) for rule in RULES[: None if not shuffle else 1]
        ]
        if shuffle == 0:
            first = digests[0]
            everything.update("".join(digests).encode())
        assert digests[0] == first, "the order of arrival shows in the result"
    updates = [received[address] for address in sorted(received)]
    weighted = aggregate(
        AggregationRule((Stage.CLIP, Stage.MEAN), 3),
        updates,
        [2**32 - 1 - place for place in range(PARTICIPANTS)],
        staleness_factors=[65_536 - 4_000 * place for place in range(PARTICIPANTS)],
    )
    everything.update(weighted.vector.tobytes() + repr(weighted.scores).encode())
    vector = aggregate(RULES[0], updates).vector
    for optimizer in OPTIMIZERS:
        weights: bytes | memoryview = bytes(4 * PARAMETERS)
        state: memoryview | None = None
        for _ in range(3):
            step = apply_optimizer(optimizer, tensors, weights, state, vector)
            weights, state = step.weights, step.state
        everything.update(step.weights)
        everything.update(step.state)
    return everything.hexdigest()


def compute_rule_digest(rule: AggregationRule, updates: list[NDArray[np.int16]]) -> str:
    result = aggregate(
        rule,
        updates,
        seed=bytes(32) if needs_seed(rule) else None,
        previous=updates[0] if keeps_aggregate(rule) else None,
    )
    digest = hashlib.sha256(result.vector.tobytes())
    said = (result.scores, result.set_aside, result.saturated, result.clipped)
    digest.update(repr(said).encode())
    return digest.hexdigest()


def print_digest() -> None:
    """What a process of another machine does: it prints the digest, and what it computes with."""
    block_values = os.environ.get("QUORATE_TEST_BLOCK_VALUES")
    if block_values:
        columns.BLOCK_VALUES = int(block_values)
        columns.STAGED_BLOCK_VALUES = columns.BLOCK_VALUES // 4
        columns.COLUMNS_MIN = 999
    print(json.dumps({"digest": compute_digest(), **describe_machine()}))


def run_elsewhere(machine: dict[str, str]) -> dict[str, Any]:
    environment = {
        # What the machine does not say is as numpy finds it, whatever this process was told.
        **{name: value for name, value in os.environ.items() if name not in SAID_BY_MACHINES},
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")]),
        "OPENBLAS_NUM_THREADS": "1",
        **machine,
    }
    if "NPY_DISABLE_CPU_FEATURES" in machine:
        environment["NPY_DISABLE_CPU_FEATURES"] = " ".join(find_extensions())
    program = "from tests.aggregation.test_determinism import print_digest as p; p()"
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def assert_computes_with(machine: dict[str, str], found: dict[str, Any]) -> None:
    """Check that a process really was the machine it was to be, as its libraries tell."""
    if "NPY_DISABLE_CPU_FEATURES" in machine:
        assert found["extensions"] == []
    else:
        assert set(found["extensions"]) >= set(find_extensions())
    if "QUORATE_TEST_BLOCK_VALUES" in machine:
        assert found["block_values"] == int(machine["QUORATE_TEST_BLOCK_VALUES"])
    if not ask_openblas()[0]:
        return
    threads = int(machine.get("OPENBLAS_NUM_THREADS", "1"))
    assert found["threads"] == min(threads, count_processors())
    core = machine.get("OPENBLAS_CORETYPE")
    if core is not None and is_x86():
        names, needed = KERNELS[core]
        if needed is None or has_feature(needed):
            assert found["kernel"] in names


def is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def has_feature(name: str) -> bool:
    from numpy._core._multiarray_umath import __cpu_features__  # noqa: PLC0415

    return bool(__cpu_features__.get(name))


def test_one_digest_for_all_orders_threads_hash_seeds_processors_and_blocks() -> None:
    digests = {compute_digest(): "here"}
    found = [run_elsewhere(machine) for machine in MACHINES]
    for machine, result in zip(MACHINES, found, strict=True):
        assert_computes_with(machine, result)
        digests.setdefault(result["digest"], str(machine))
    assert len(digests) == 1, digests
    assert len(next(iter(digests))) == 64
    # Were they all the same machine, the digests would say nothing.
    assert len({result["hash_of_text"] for result in found}) > 1
    if is_x86() and has_feature("AVX2") and ask_openblas()[0]:
        assert len({result["kernel"] for result in found}) > 1


def test_the_digest_covers_every_stage_and_optimizer_and_three_stages_at_once() -> None:
    assert {stage for rule in RULES for stage in rule.stages} == set(Stage)
    assert {optimizer.name for optimizer in OPTIMIZERS} == set(OptimizerName)
    assert max(len(rule.stages) for rule in RULES) >= 3


def test_extensions_can_be_switched_off_where_there_are_any() -> None:
    """Otherwise the test above compares a machine with itself."""
    if not is_x86():
        pytest.skip("numpy's extensions are switched off by name on x86-64 alone")
    assert find_extensions()
