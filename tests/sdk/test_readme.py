"""The README's examples run as they stand, against the fake node."""

import re
from pathlib import Path
from typing import Any

import pytest
import quorate
from quorate.chain.genesis import encode_genesis

from tests.sdk.conftest import create_task
from tests.sdk.fake_node import GENESIS, FakeNode

README = Path(quorate.__file__).parent.parent / "README.md"
BLOCKS = [
    block
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    if "torch" not in block
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> Path:
    """A working folder with a genesis document, and every client connected to the fake node."""
    (tmp_path / "genesis.json").write_bytes(encode_genesis(GENESIS))
    monkeypatch.chdir(tmp_path)
    real = quorate.Client

    def connect(url: str, **settings: object) -> quorate.Client:
        return real(url, transport=node.transport(), **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(quorate, "Client", connect, raising=False)
    with connect("http://node") as client:
        task_id = create_task(client, updates=1, rounds_max=3)
    assert task_id in node.tasks
    return tmp_path


def test_there_are_four_examples() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.usefixtures("folder", "clock")
def test_taking_part(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    assert capsys.readouterr().out == "".join(f"{i} True False 0\n" for i in range(3))


@pytest.mark.usefixtures("folder", "clock")
def test_starting_a_task(node: FakeNode) -> None:
    node.tasks.clear()
    scope: dict[str, object] = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), scope)
    (task,) = node.tasks.values()
    assert task.spec == scope["task"].spec  # type: ignore[attr-defined]
    assert task.spec.dimension == 650


@pytest.mark.usefixtures("folder", "clock")
def test_verifying(capsys: pytest.CaptureFixture[str], node: FakeNode) -> None:
    exec(compile(BLOCKS[2], "README.md", "exec"), {})
    (task,) = node.tasks.values()
    assert capsys.readouterr().out == f"{node.height} {task.leaf.weights_root.hex()}\n"


@pytest.mark.usefixtures("clock")
def test_large_models(folder: Path, node: FakeNode) -> None:
    scope: dict[str, Any] = {}
    exec(compile(BLOCKS[3], "README.md", "exec"), scope)
    (task,) = node.tasks.values()
    assert (folder / "weights.bin").read_bytes() == task.weights
    assert scope["kernel"].size + scope["bias"].size == task.spec.dimension
