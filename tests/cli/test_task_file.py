"""Task descriptions, weights and updates in files."""

import json
from pathlib import Path

import numpy as np
import pytest
from quorate.chain.task import (
    DEFAULT_RULE,
    AggregationRule,
    BelowMinimum,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    Stage,
    UpdateCodec,
    UpdateLayout,
)
from quorate.errors import EncodingError
from quorate.fixed_point import ModelSchema
from quorate.task_draft import draft_task

from node.commands.task_file import (
    InputFileError,
    draft_from_file,
    pick_tensors,
    read_arrays,
    read_task_file,
    read_update,
)
from tests.cli.console import Console

WHOLE = """
name = "digits"
example_count_max = 100
codec = "top_k_int16"
density = 0.3
[policy]
deadline = "90s"
updates_min = 3
updates_max = 5
is_void_below_minimum = true
staleness_max = 1
waive_proposer_spread = true
rounds_max = 7
[rule]
stages = ["clip", "mean"]
num_byzantine = 1
clip_norm = 10
[optimizer]
name = "momentum"
learning_rate = 0.5
momentum = 0.25
[scale]
weight_fraction_bits = 20
update_fraction_bits = 12
"""
ARRAYS = {"kernel": np.arange(6.0).reshape(2, 3) / 8, "bias": np.zeros(3)}
SCHEMA = ModelSchema.from_arrays(ARRAYS)
SPEC = draft_task("digits", ARRAYS, RoundPolicy(1, 1, 1)).spec


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_field_reaches_the_specification(tmp_path: Path) -> None:
    spec = draft_from_file(read_task_file(write(tmp_path / "task.toml", WHOLE)), ARRAYS).spec
    assert spec.name == "digits"
    assert spec.policy == RoundPolicy(90_000, 3, 5, BelowMinimum.VOID, 1, True, 7)
    assert spec.rule == AggregationRule((Stage.CLIP, Stage.MEAN), 1, 10, 0)
    assert spec.optimizer == ServerOptimizer(OptimizerName.MOMENTUM, 1 << 15, 1 << 14)
    assert spec.example_count_max == 100
    assert spec.update_layout == UpdateLayout(UpdateCodec.TOP_K_INT16, 9, 3)
    assert [t.name for t in spec.tensors] == ["kernel", "bias"]
    assert {(t.weight_fraction_bits, t.update_fraction_bits) for t in spec.tensors} == {(20, 12)}


def test_json_with_defaults(tmp_path: Path) -> None:
    document = {"name": "digits", "policy": {"updates_min": 1, "updates_max": 2}}
    path = write(tmp_path / "task.json", json.dumps(document))
    spec = draft_from_file(read_task_file(path), ARRAYS).spec
    assert spec.policy == RoundPolicy(60_000, 1, 2)
    assert spec.rule.stages == DEFAULT_RULE
    assert spec.update_layout == UpdateLayout(UpdateCodec.DENSE_INT16, 9)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "digits"', "name = 3", "$.name"),
        ("updates_min = 3", "updates_least = 3", "updates_least"),
        ("updates_min = 3", "", "updates_min"),
        ("updates_min = 3", "updates_min = 0", "$.policy.updates_min"),
        ('"clip"', '"clap"', "$.rule.stages"),
        ("top_k_int16", "top_k", "$.codec"),
        ("[rule]", "[rule", "describes no task"),
    ],
)
def test_mistakes_are_told_with_their_field(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = write(tmp_path / "task.toml", WHOLE.replace(old, new, 1))
    with pytest.raises(InputFileError, match=r"task\.toml describes no task") as caught:
        read_task_file(path)
    assert told in str(caught.value)


def test_deadline_without_a_unit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "task.toml", WHOLE.replace("90s", "90"))
    with pytest.raises(InputFileError, match="deadline cannot be used"):
        draft_from_file(read_task_file(path), ARRAYS)


def test_task_file_that_is_another_file(tmp_path: Path) -> None:
    path = write(tmp_path / "task.toml", "#" * ((1 << 20) + 1))
    with pytest.raises(InputFileError, match="it is another file"):
        read_task_file(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, evil=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputFileError, match="cannot be read as arrays of numbers"):
        read_arrays(path)
    with pytest.raises(InputFileError, match="cannot be read as arrays of numbers"):
        read_arrays(write(tmp_path / "text.npz", "no archive"))
    with pytest.raises(InputFileError, match="There is no file"):
        read_arrays(tmp_path / "none.npz")


def test_update_in_each_form_is_the_same(tmp_path: Path) -> None:
    expected = SCHEMA.encode_update(list(ARRAYS.values())).data
    np.savez(tmp_path / "u.npz", bias=ARRAYS["bias"], kernel=ARRAYS["kernel"])
    np.save(tmp_path / "u.npy", np.concatenate([a.reshape(-1) for a in ARRAYS.values()]))
    (tmp_path / "u.bin").write_bytes(expected)
    for name in ("u.npz", "u.npy"):
        assert read_update(tmp_path / name, SPEC) == (expected, 0)
    # What is encoded already stays in its file.
    assert read_update(tmp_path / "u.bin", SPEC) == (tmp_path / "u.bin", 0)


def test_saturation_is_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "u.npz", bias=np.full(3, 1e9), kernel=ARRAYS["kernel"])
    assert read_update(tmp_path / "u.npz", SPEC)[1] == 3


def test_update_of_another_model_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "u.npz", bias=ARRAYS["bias"])
    with pytest.raises(InputFileError, match="the task's tensors are kernel, bias"):
        read_update(tmp_path / "u.npz", SPEC)
    np.save(tmp_path / "u.npy", np.zeros(8))
    with pytest.raises(EncodingError):
        read_update(tmp_path / "u.npy", SPEC)
    (tmp_path / "short.bin").write_bytes(b"\0" * 17)
    with pytest.raises(InputFileError, match="17 bytes; 9 parameters take 18"):
        read_update(tmp_path / "short.bin", SPEC)
    (tmp_path / "long.bin").write_bytes(b"\0" * 19)
    with pytest.raises(InputFileError, match="19 bytes; 9 parameters take 18"):
        read_update(tmp_path / "long.bin", SPEC)


def test_arrays_are_picked_by_name() -> None:
    picked = pick_tensors(Path("x"), {"bias": ARRAYS["bias"], "kernel": ARRAYS["kernel"]}, SCHEMA)
    assert [array.shape for array in picked] == [(2, 3), (3,)]


def test_faulty_files_are_told_before_a_node_is_asked(quorate: Console, tmp_path: Path) -> None:
    refused = quorate(
        "task", "create", write(tmp_path / "task.toml", "name = 1"), "--weights", "none.npz",
        "--key", "anna", "--node", "127.0.0.1:1", "--keyring", tmp_path / "ring",
    )  # fmt: skip
    assert refused.code == 1
    assert "describes no task" in refused.sentence
