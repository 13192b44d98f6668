"""The two distributions as a user's pip sees them: built, installed elsewhere, imported."""

import json
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]

ROOT = Path(__file__).resolve().parent.parent.parent
DAEMON_PACKAGES = ("aggregation", "bench", "consensus", "ledger", "node", "p2p", "store")
SDK_DEPENDENCIES = {"anyio", "httpx", "msgpack", "msgspec", "numpy", "pynacl"}

# Runs in a new interpreter, where importing anything of the daemon fails as if it were absent.
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys

folder, blocked = sys.argv[1], frozenset(json.loads(sys.argv[2]))


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
        return None


sys.meta_path.insert(0, Blocker())
sys.path.insert(0, folder)
import quorate

names = [m.name for m in pkgutil.walk_packages(quorate.__path__, "quorate.", onerror=print)]
for name in names:
    importlib.import_module(name)
loaded = sorted(blocked & {name.partition(".")[0] for name in sys.modules})
print(json.dumps({"file": quorate.__file__, "names": names, "loaded": loaded}))
"""
BLOCKED = (
    *DAEMON_PACKAGES, "cli", "hypercorn", "libp2p", "litestar", "plyvel", "prometheus_client",
    "structlog", "trio", "typer",
)  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter, without the caller's environment variables for Python."""
    return subprocess.run(
        [sys.executable, "-I", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def build_wheel(source: Path, folder: Path) -> Path:
    """Build a wheel of a copy of the source, as pip does, and return its path."""
    copy = folder / "source"
    generated = ignore_patterns("*.egg-info", "__pycache__", "build", "dist", "tests", "out", ".*")
    copytree(source, copy, ignore=generated)
    built = run(
        *("-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-index"),
        *("--no-build-isolation", "--wheel-dir", str(folder), str(copy)),
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def read_metadata(wheel: Path) -> Message:
    """Read the METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def sdk_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT / "sdk", tmp_path_factory.mktemp("sdk"))


@pytest.fixture(scope="module")
def node_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("node"))


def import_everything(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import all of the quorate found in the folder, with the daemon out of reach."""
    return run("-c", IMPORT_EVERYTHING, str(folder), json.dumps(BLOCKED))


def test_sdk_installs_and_imports_without_the_daemon(sdk_wheel: Path, tmp_path: Path) -> None:
    installed = run(
        *("-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"),
        *("--target", str(tmp_path), str(sdk_wheel)),
    )
    assert installed.returncode == 0, installed.stderr
    imported = import_everything(tmp_path)
    assert imported.returncode == 0, imported.stderr
    report = json.loads(imported.stdout)
    assert Path(report["file"]).is_relative_to(tmp_path)
    assert "quorate.chain.merkle" in report["names"]
    assert report["loaded"] == []


def test_import_of_the_daemon_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / "quorate"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "leak.py").write_text("import trio\n")
    imported = import_everything(tmp_path)
    assert imported.returncode != 0
    assert "trio is blocked" in imported.stderr


def test_sdk_asks_for_five_libraries_alone(sdk_wheel: Path) -> None:
    metadata = read_metadata(sdk_wheel)
    needed = map(Requirement, metadata.get_all("Requires-Dist", []))
    assert {item.name for item in needed if item.marker is None} == SDK_DEPENDENCIES
    assert metadata["License-Expression"] == "Apache-2.0"


def test_wheels_carry_license_and_type_marks(sdk_wheel: Path, node_wheel: Path) -> None:
    for wheel in (sdk_wheel, node_wheel):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
        assert any(name.endswith("/py.typed") for name in names)


def test_node_wheel_holds_the_daemon_and_nothing_else(node_wheel: Path) -> None:
    with zipfile.ZipFile(node_wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (n for n in names if n.endswith("entry_points.txt"))
        assert "quorate = cli:main" in archive.read(entry_points).decode()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"cli.py", *DAEMON_PACKAGES}
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in DAEMON_PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= set(names)


@pytest.mark.parametrize(
    "requirement", ["typer==0.20.0", "rich==14.0.0", "rich==14.2.0", "numpy==1.26.4"]
)
def test_ranges_admit_what_training_environments_pin(requirement: str) -> None:
    daemon = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    library = tomllib.loads((ROOT / "sdk/pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {
        item.name: item.specifier
        for item in map(Requirement, [*daemon["dependencies"], *library["dependencies"]])
    }
    name, _, version = requirement.partition("==")
    assert ranges[name].contains(version)
