"""Task descriptions, weights and updates in files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from quorate.chain.round_policy import RoundMode, StalenessWeighting
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

from node.commands.task_description import (
    OptimizerSection,
    PolicySection,
    RuleSection,
    ScaleSection,
    TaskFile,
    draft_from_file,
    make_template,
    read_task_file,
)
from node.commands.task_file import InputFileError, pick_tensors, read_arrays, read_update
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
mode = "asynchronous"
staleness_weighting = "constant"
silent_rounds_max = 9
extensions_max = 11
[rule]
stages = ["clip", "bucketing", "centered_clipping"]
num_byzantine = 1
clip_norm = 10
bucket_size = 3
iterations = 2
radius = 77
[optimizer]
name = "adam"
learning_rate = 0.5
momentum = 0.25
second_moment_decay = 0.5
adaptivity = 0.125
[scale]
weight_fraction_bits = 20
update_fraction_bits = 12
"""
ARRAYS = {"kernel": np.arange(6.0).reshape(2, 3) / 8, "bias": np.zeros(3)}
STAGES = ", ".join(repr(str(stage)) for stage in Stage)
SCHEMA = ModelSchema.from_arrays(ARRAYS)
SPEC = draft_task("digits", ARRAYS, RoundPolicy(1, 1, 1)).spec


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_field_reaches_the_specification(tmp_path: Path) -> None:
    spec = draft_from_file(read_task_file(write(tmp_path / "task.toml", WHOLE)), ARRAYS).spec
    assert spec.name == "digits"
    assert spec.policy == RoundPolicy(
        90_000,
        3,
        5,
        BelowMinimum.VOID,
        1,
        True,
        7,
        RoundMode.ASYNCHRONOUS,
        StalenessWeighting.CONSTANT,
        9,
        11,
    )
    stages = (Stage.CLIP, Stage.BUCKETING, Stage.CENTERED_CLIPPING)
    assert spec.rule == AggregationRule(stages, 1, 10, 0, 3, 2, 77)
    assert spec.optimizer == ServerOptimizer(OptimizerName.ADAM, 1 << 15, 1 << 14, 1 << 15, 1 << 13)
    assert spec.example_count_max == 100
    assert spec.update_layout == UpdateLayout(UpdateCodec.TOP_K_INT16, 9, 3)
    assert [t.name for t in spec.tensors] == ["kernel", "bias"]
    assert {(t.weight_fraction_bits, t.update_fraction_bits) for t in spec.tensors} == {(20, 12)}


def test_the_whole_file_uses_every_field_there_is() -> None:
    """Whatever a task can be told is in the file, and the file has no choice that nobody reads."""
    for section, kind in (
        (RuleSection, AggregationRule),
        (OptimizerSection, ServerOptimizer),
    ):
        assert section.__struct_fields__ == kind.__struct_fields__
    renamed = {"deadline_ms": "deadline", "below_minimum": "is_void_below_minimum"}
    expected = {renamed.get(name, name) for name in RoundPolicy.__struct_fields__}
    assert set(PolicySection.__struct_fields__) == expected


def test_the_template_has_every_field_at_its_default(tmp_path: Path) -> None:
    text = make_template("digits")
    plain = draft_from_file(read_task_file(write(tmp_path / "a.toml", text)), ARRAYS).spec
    # With every line in force it is the same task, but for the density that int16 has not.
    lines = [
        line.removeprefix("# ")
        if re.match(r"# \w+ = ", line) and not line.startswith("# density")
        else line
        for line in text.splitlines()
    ]
    whole = draft_from_file(
        read_task_file(write(tmp_path / "b.toml", "\n".join(lines))), ARRAYS
    ).spec
    assert whole == plain
    for section in (TaskFile, RuleSection, OptimizerSection, PolicySection, ScaleSection):
        for name in section.__struct_fields__:
            assert re.search(rf"^(# )?{name} = |^\[{name}\]$", text, re.MULTILINE), name


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
        ("updates_max = 5", "updates_max = 5000", "<= 4096 - at `$.policy.updates_max`"),
        ("extensions_max = 11", "extensions_max = 0", ">= 1 - at `$.policy.extensions_max`"),
        ("staleness_max = 1", "staleness_max = 1025", "<= 1024 - at `$.policy.staleness_max`"),
        ("silent_rounds_max = 9", "silent_rounds_max = 65", "<= 64 - at `$.policy.silent"),
        ("iterations = 2", "iterations = 17", "<= 16 - at `$.rule.iterations`"),
        ("radius = 77", "radius = -1", ">= 0 - at `$.rule.radius`"),
        ("adaptivity = 0.125", "adaptivity = -1.0", ">= 0.0 - at `$.optimizer.adaptivity`"),
        ("momentum = 0.25", "momentum = 1.0", "< 1.0 - at `$.optimizer.momentum`"),
        ("density = 0.3", "density = 1.5", "<= 1.0 - at `$.density`"),
        ("[rule]", "[rule", "describes no task"),
    ],
)
def test_mistakes_are_told_with_their_field(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = write(tmp_path / "task.toml", WHOLE.replace(old, new, 1))
    with pytest.raises(InputFileError, match=r"task\.toml describes no task") as caught:
        read_task_file(path)
    assert told in str(caught.value)
    assert str(caught.value).endswith(
        "`quorate task init` writes a description with every choice in it."
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            '"asynchronous"',
            '"some`times"',
            "[policy] mode must be one of 'asynchronous', 'synchronous', not 'some`times'.",
        ),
        (
            '"constant"',
            '"linear"',
            "[policy] staleness_weighting must be one of 'constant', 'inverse_sqrt', not 'linear'.",
        ),
        (
            '"bucketing"',
            '"bucket"',
            f"[rule] stages, item 2, must be one of {STAGES}, not 'bucket'.",
        ),
        (
            '"adam"',
            '""',
            "[optimizer] name must be one of 'sgd', 'momentum', 'adagrad', 'adam', 'yogi', not ''.",
        ),
        (
            "top_k_int16",
            "top_k",
            "codec must be one of 'dense_int16', 'dense_int8', 'top_k_int16', not 'top_k'.",
        ),
    ],
)
def test_an_unknown_word_is_told_with_those_that_there_are(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = write(tmp_path / "task.toml", WHOLE.replace(old, new, 1))
    with pytest.raises(InputFileError) as caught:
        read_task_file(path)
    assert str(caught.value) == (
        f"{path} describes no task: {told} `quorate task init` writes a description with every "
        "choice in it."
    )


def test_an_unknown_word_in_json_is_told_like_one_in_toml(tmp_path: Path) -> None:
    document = {"name": "d", "policy": {"updates_min": 1, "updates_max": 2, "mode": "both"}}
    path = write(tmp_path / "task.json", json.dumps(document))
    with pytest.raises(InputFileError, match=r"\[policy\] mode must be one of 'async"):
        read_task_file(path)


def test_deadline_without_a_unit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "task.toml", WHOLE.replace("90s", "90"))
    with pytest.raises(InputFileError, match="deadline cannot be used"):
        draft_from_file(read_task_file(path), ARRAYS)


def test_task_file_that_is_another_file(tmp_path: Path) -> None:
    path = write(tmp_path / "task.toml", "#" * ((1 << 20) + 1))
    with pytest.raises(InputFileError, match="it is another file"):
        read_task_file(path)
    path.write_bytes(b"\x7fELF\xd0")
    with pytest.raises(InputFileError, match=r"task\.toml describes no task: it is no text\.$"):
        read_task_file(path)
    with pytest.raises(InputFileError, match=r"^There is no file none\.$"):
        read_task_file(Path("none"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, evil=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputFileError, match="cannot be read as arrays of numbers") as caught:
        read_arrays(path)
    assert "unsafely" not in str(caught.value)
    with pytest.raises(InputFileError, match="cannot be read as arrays of numbers"):
        read_arrays(write(tmp_path / "text.npz", "no archive"))
    with pytest.raises(InputFileError, match="There is no file"):
        read_arrays(tmp_path / "none.npz")


def test_damaged_files_are_told_as_such(tmp_path: Path) -> None:
    for name in ("empty.npz", "empty.npy"):
        with pytest.raises(InputFileError, match="cannot be read as arrays of numbers"):
            read_arrays(write(tmp_path / name, ""))
    path = tmp_path / "damaged.npz"
    np.savez_compressed(path, w=np.arange(10_000) % 97)
    raw = bytearray(path.read_bytes())
    raw[200:220] = b"\xff" * 20
    path.write_bytes(raw)
    with pytest.raises(InputFileError, match="cannot be read as arrays of numbers"):
        read_arrays(path)


def test_an_archive_called_npy_and_a_folder_are_no_updates(tmp_path: Path) -> None:
    np.savez(tmp_path / "u.npz", **ARRAYS)
    archive = (tmp_path / "u.npz").rename(tmp_path / "u.npy")
    with pytest.raises(InputFileError, match=r"has the arrays .* by name: call it \.npz"):
        read_update(archive, SPEC)
    with pytest.raises(InputFileError, match="cannot be read: Is a directory"):
        read_update(tmp_path, SPEC)


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
    vector = re.escape(str(tmp_path / "u.npy"))
    with pytest.raises(EncodingError, match=rf"^{vector}: the task has 9 parameters, not \(8,\)"):
        read_update(tmp_path / "u.npy", SPEC)
    np.save(tmp_path / "u.npy", np.full(9, np.nan))
    with pytest.raises(EncodingError, match=f"^{vector}: tensor 'kernel' contains numbers that"):
        read_update(tmp_path / "u.npy", SPEC)
    np.savez(tmp_path / "u.npz", bias=np.zeros(4), kernel=ARRAYS["kernel"])
    archive = re.escape(str(tmp_path / "u.npz"))
    with pytest.raises(EncodingError, match=f"^{archive}: tensor 'bias' has the shape"):
        read_update(tmp_path / "u.npz", SPEC)
    (tmp_path / "short.bin").write_bytes(b"\0" * 17)
    with pytest.raises(
        InputFileError,
        match=r"17 bytes; 9 parameters take 18 in dense_int16\. Accepted are \.npz with arrays by "
        r"tensor, \.npy with one vector, and otherwise the codec's own bytes, little-endian\.$",
    ):
        read_update(tmp_path / "short.bin", SPEC)
    (tmp_path / "long.bin").write_bytes(b"\0" * 19)
    with pytest.raises(InputFileError, match="19 bytes; 9 parameters take 18"):
        read_update(tmp_path / "long.bin", SPEC)


def test_a_mistake_in_initial_weights_is_told_with_their_file(
    quorate: Console, tmp_path: Path
) -> None:
    write(tmp_path / "task.toml", WHOLE)
    np.savez(tmp_path / "w.npz", bias=np.array([np.inf]))
    options = (tmp_path / "task.toml", "--weights", tmp_path / "w.npz")
    for command in (("check", *options), ("create", *options, "--key", "anna")):
        refused = quorate("task", *command)
        assert refused.code == 1
        assert refused.sentence.startswith(f"{tmp_path / 'w.npz'}: tensor 'bias' contains")


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
