"""Quorate's Python SDK: take part in a task, submit updates, and verify what was trained.

Owns what a participant's script imports. Never imports the daemon, trio or libp2p. The names
below are imported when they are first used, so that `quorate.chain` alone stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quorate.async_client import AsyncClient
    from quorate.chain.genesis import Genesis
    from quorate.chain.keys import PrivateKey
    from quorate.chain.round_policy import BelowMinimum, RoundMode, StalenessWeighting
    from quorate.chain.task import AggregationRule, RoundPolicy, Stage, TaskSpec, UpdateCodec
    from quorate.chain.transaction import TaskStatus
    from quorate.client import Client
    from quorate.errors import (
        ConnectionFailedError,
        EncodingError,
        KeyFileError,
        ProtocolError,
        QuorateError,
        RpcError,
        TaskClosedError,
        VerificationError,
        WaitTimeoutError,
    )
    from quorate.fixed_point import ModelSchema
    from quorate.genesis_file import read_genesis
    from quorate.key_file import load_key, load_or_create_key, save_key
    from quorate.participant import AsyncParticipant, Participant
    from quorate.progress import Progress, ProgressBar
    from quorate.submissions import Measurement, UpdateDraft
    from quorate.task_draft import (
        TaskDraft,
        draft_task,
        make_adagrad,
        make_adam,
        make_momentum,
        make_sgd,
        make_yogi,
    )
    from quorate.training_session import FitResult, RoundInfo, RoundResult
    from quorate.verification import VerifiedWeights, WeightsProof, verify_weights
    from quorate.weights_file import StoredWeights

_MODULES = {
    "async_client": ("AsyncClient",),
    "chain.genesis": ("Genesis",),
    "chain.keys": ("PrivateKey",),
    "chain.round_policy": ("BelowMinimum", "RoundMode", "StalenessWeighting"),
    "chain.task": ("AggregationRule", "RoundPolicy", "Stage", "TaskSpec", "UpdateCodec"),
    "chain.transaction": ("TaskStatus",),
    "client": ("Client",),
    "errors": (
        "ConnectionFailedError",
        "EncodingError",
        "KeyFileError",
        "ProtocolError",
        "QuorateError",
        "RpcError",
        "TaskClosedError",
        "VerificationError",
        "WaitTimeoutError",
    ),
    "fixed_point": ("ModelSchema",),
    "genesis_file": ("read_genesis",),
    "key_file": ("load_key", "load_or_create_key", "save_key"),
    "participant": ("AsyncParticipant", "Participant"),
    "progress": ("Progress", "ProgressBar"),
    "submissions": ("Measurement", "UpdateDraft"),
    "task_draft": (
        "TaskDraft",
        "draft_task",
        "make_adagrad",
        "make_adam",
        "make_momentum",
        "make_sgd",
        "make_yogi",
    ),
    "training_session": ("FitResult", "RoundInfo", "RoundResult"),
    "verification": ("VerifiedWeights", "WeightsProof", "verify_weights"),
    "weights_file": ("StoredWeights",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AggregationRule",
    "AsyncClient",
    "AsyncParticipant",
    "BelowMinimum",
    "Client",
    "ConnectionFailedError",
    "EncodingError",
    "FitResult",
    "Genesis",
    "KeyFileError",
    "Measurement",
    "ModelSchema",
    "Participant",
    "PrivateKey",
    "Progress",
    "ProgressBar",
    "ProtocolError",
    "QuorateError",
    "RoundInfo",
    "RoundMode",
    "RoundPolicy",
    "RoundResult",
    "RpcError",
    "Stage",
    "StalenessWeighting",
    "StoredWeights",
    "TaskClosedError",
    "TaskDraft",
    "TaskSpec",
    "TaskStatus",
    "UpdateCodec",
    "UpdateDraft",
    "VerificationError",
    "VerifiedWeights",
    "WaitTimeoutError",
    "WeightsProof",
    "draft_task",
    "load_key",
    "load_or_create_key",
    "make_adagrad",
    "make_adam",
    "make_momentum",
    "make_sgd",
    "make_yogi",
    "read_genesis",
    "save_key",
    "verify_weights",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
