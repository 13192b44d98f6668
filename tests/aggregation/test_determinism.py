"""One result: shuffled arrival, one and two BLAS threads, two hash seeds, one digest.

Owns the comparison across processes. Never compares with stored digests: equality is the claim.
"""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from quorate.chain.task import (
    DEFAULT_RULE,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
)

from aggregation import aggregate, apply_optimizer, initial_optimizer_state

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    AggregationRule(DEFAULT_RULE, 3),
    AggregationRule((Stage.NNM, Stage.MULTI_KRUM), 3),
    AggregationRule((Stage.CLIP, Stage.MEAN), 3, 100_000),
    AggregationRule((Stage.MEDIAN,), 3),
]
SHUFFLES = 20
PARAMETERS = 50_000
PARTICIPANTS = 12


def compute_digest() -> str:
    """Train one round under each rule, the updates arriving in many orders; digest all bytes."""
    generator = np.random.default_rng(42)
    received = {
        address.to_bytes(20, "big"): generator.normal(0, 4000, PARAMETERS).astype(np.int16)
        for address in range(PARTICIPANTS)
    }
    optimizer = ServerOptimizer(OptimizerName.MOMENTUM, 40_000, 50_000)
    tensors = [TensorSpec("layer", (PARAMETERS,), 20, 12)]
    digests = set()
    for shuffle in range(SHUFFLES):
        arrival = list(received)
        random.Random(shuffle).shuffle(arrival)
        arrived = {address: received[address] for address in arrival}
        digest = hashlib.sha256()
        for rule in RULES if shuffle == 0 else RULES[:1]:
            result = aggregate(rule, [arrived[address] for address in sorted(arrived)])
            step = apply_optimizer(
                optimizer,
                tensors,
                bytes(4 * PARAMETERS),
                initial_optimizer_state(optimizer, tensors),
                result.vector,
            )
            if rule is RULES[0]:
                first = hashlib.sha256(step.weights + step.state)
                first.update(repr((result.scores, result.set_aside)).encode())
                digests.add(first.hexdigest())
            digest.update(step.weights + step.state)
            digest.update(repr((result.scores, result.set_aside, result.saturated)).encode())
        if shuffle == 0:
            everything = digest.hexdigest()
    assert len(digests) == 1, "the order of arrival shows in the result"
    return everything


def run_elsewhere(blas_threads: int, hash_seed: int) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")]),
        "PYTHONHASHSEED": str(hash_seed),
        "OPENBLAS_NUM_THREADS": str(blas_threads),
        "OMP_NUM_THREADS": str(blas_threads),
        "MKL_NUM_THREADS": str(blas_threads),
    }
    program = "from tests.aggregation.test_determinism import compute_digest as c; print(c())"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return finished.stdout.strip()


def test_one_digest_for_all_orders_threads_and_hash_seeds() -> None:
    digests = {
        run_elsewhere(blas_threads, hash_seed)
        for blas_threads in (1, 2)
        for hash_seed in (0, 12345)
    }
    digests.add(compute_digest())
    assert len(digests) == 1
    assert len(digests.pop()) == 64
