"""One result: any order of arrival, threads, hash seeds, processors and block sizes, one digest.

Owns the comparison across processes. Never compares with stored digests: equality is the claim.
"""

import hashlib
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

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
    initial_optimizer_state,
    keeps_aggregate,
    needs_seed,
)

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    AggregationRule(DEFAULT_RULE, 3),
    AggregationRule((Stage.NNM, Stage.MULTI_KRUM), 3),
    AggregationRule((Stage.CLIP, Stage.MEAN), 3, 100_000),
    AggregationRule((Stage.MEDIAN,), 3),
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
    vector = aggregate(RULES[0], [received[address] for address in sorted(received)]).vector
    for optimizer in OPTIMIZERS:
        weights: bytes | memoryview = bytes(4 * PARAMETERS)
        state: bytes | memoryview = initial_optimizer_state(optimizer, tensors)
        for _ in range(3):
            step = apply_optimizer(optimizer, tensors, weights, state, vector)
            weights, state = step.weights, step.state
        everything.update(weights)
        everything.update(state)
    return everything.hexdigest()


def compute_rule_digest(rule: AggregationRule, updates: list[NDArray[np.int16]]) -> str:
    result = aggregate(
        rule,
        updates,
        seed=bytes(32) if needs_seed(rule) else None,
        previous=updates[0] if keeps_aggregate(rule) else None,
    )
    digest = hashlib.sha256(result.vector.tobytes())
    digest.update(repr((result.scores, result.set_aside, result.saturated)).encode())
    return digest.hexdigest()


def print_digest() -> None:
    """What a process of another machine does: it prints the digest, and what it computes with."""
    block_values = os.environ.get("QUORATE_TEST_BLOCK_VALUES")
    if block_values:
        columns.BLOCK_VALUES = int(block_values)
        columns.COLUMNS_MIN = 999
    print(compute_digest())


def run_elsewhere(machine: dict[str, str]) -> str:
    environment = {
        **os.environ,
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
    return finished.stdout.strip()


def find_extensions() -> list[str]:
    """The vector extensions that this numpy can do without, on this processor."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return [str(name) for name in simd.get("found", [])]


def test_one_digest_for_all_orders_threads_hash_seeds_processors_and_blocks() -> None:
    digests = {compute_digest(): "here"}
    for machine in MACHINES:
        digests.setdefault(run_elsewhere(machine), str(machine))
    assert len(digests) == 1, digests
    assert len(next(iter(digests))) == 64


def test_extensions_can_be_switched_off_where_there_are_any() -> None:
    """Otherwise the test above compares a machine with itself."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("numpy's extensions are switched off by name on x86-64 alone")
    assert find_extensions()
