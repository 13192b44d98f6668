"""What a script imports: the names, their examples, and nothing heavy before it is used."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest
import quorate

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(quorate.__path__, prefix="quorate.")
)


def test_every_name_is_there() -> None:
    assert sorted(quorate.__all__) == sorted(quorate._MODULE_OF)
    for name in quorate.__all__:
        assert getattr(quorate, name).__name__ == name
    assert set(quorate.__all__) <= set(dir(quorate))
    with pytest.raises(AttributeError, match="no attribute 'Node'"):
        quorate.Node  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_examples_are_found() -> None:
    attempted = [doctest.testmod(importlib.import_module(name)).attempted for name in MODULES]
    assert sum(attempted) > 15


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import quorate.chain.block", ["httpx", "numpy", "anyio", "trio", "quorate.client"]),
        ("import quorate", ["httpx", "numpy", "quorate.client"]),
        ("from quorate import Client, Participant", ["trio", "libp2p", "litestar", "asyncio_x"]),
    ],
)
def test_nothing_is_imported_before_it_is_used(statement: str, absent: list[str]) -> None:
    code = f"import sys\n{statement}\nprint([n for n in {absent!r} if n in sys.modules])"
    folders = [path for path in sys.path if path]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path[:0] = {folders!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stdout.strip() == "[]"


def test_every_choice_that_a_draft_or_a_client_takes_is_in_the_package() -> None:
    # The documents write them so: `draft_task(..., codec=UpdateCodec.TOP_K_INT16)`.
    choices = {"BelowMinimum", "RoundMode", "Stage", "StalenessWeighting", "TaskStatus"}
    assert (choices | {"UpdateCodec"}) - set(quorate.__all__) == set()
