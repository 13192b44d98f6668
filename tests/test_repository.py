"""Checks of the repository as a whole.

Owns what no single source file shows: the documented top-level folders, links between documents,
the form of decision records, the agreement of versions, licenses and the lock. Never runs the
code. Each check is a function, shown a fault that it must find.
"""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

TOP_FOLDERS = frozenset(
    {
        ".ci", "aggregation", "bench", "configs", "consensus", "docs", "ledger", "node", "p2p",
        "sdk", "store", "tests",
    }
)  # fmt: skip
GENERATED_FOLDERS = frozenset({"__pycache__", "build", "dist", "out"})
ADR_HEADINGS = ("## Context", "## Decision", "## Consequences", "### Good", "### Bad")
LOCKED = re.compile(r"[a-z0-9-]+==\S+ .*\\\n( +--hash=sha256:[0-9a-f]{64}[ \\]*\n?)+$")


def is_own(path: Path) -> bool:
    """Whether a path is part of the project: neither hidden (but .ci) nor generated."""
    parts = path.relative_to(ROOT).parts
    return not any(
        (part.startswith(".") and part != ".ci")
        or part in GENERATED_FOLDERS
        or part.endswith(".egg-info")
        for part in parts
    )


def read(path: str) -> str:
    """Read a file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def find_undocumented_folders(folders: frozenset[str], document: str) -> list[str]:
    """The folders that are not the layout's, or that the map does not name."""
    return sorted(f for f in folders if f not in TOP_FOLDERS or f"{f}/" not in document)


def test_top_level_folders_are_the_documented_ones() -> None:
    folders = frozenset(path.name for path in ROOT.iterdir() if path.is_dir() and is_own(path))
    assert find_undocumented_folders(folders, read("ARCHITECTURE.md")) == []


def test_undocumented_folders_are_found() -> None:
    folders = frozenset({"node", "p2p", "scripts"})
    assert find_undocumented_folders(folders, "`node/` and `scripts/`") == ["p2p", "scripts"]


def find_broken_links(document: Path) -> list[str]:
    """The relative links of a Markdown document that lead to no file or to no heading."""
    broken = []
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = document.parent / path if path else document
        if not file.exists():
            broken.append(target)
        elif fragment and file.suffix == ".md":
            headings = re.findall(r"^#+ +(.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            if fragment not in map(slug_of, headings):
                broken.append(target)
    return broken


def slug_of(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_resolve() -> None:
    documents = [path for path in ROOT.rglob("*.md") if is_own(path)]
    assert ROOT / "README.md" in documents
    broken = {str(path): find_broken_links(path) for path in documents}
    assert {path: links for path, links in broken.items() if links} == {}


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "here.md").write_text("# A title, here\n")
    document = tmp_path / "a.md"
    document.write_text(
        "[a](gone.md) [b](here.md) [c](here.md#a-title-here) [d](here.md#no) [e](https://x.y)"
    )
    assert find_broken_links(document) == ["gone.md", "here.md#no"]


def find_faulty_records(records: dict[str, str], index: str) -> list[str]:
    """The decision records that the index does not link, that skip a number or lack a part."""
    faults = []
    for position, (name, text) in enumerate(sorted(records.items()), 1):
        if f"]({name})" not in index:
            faults.append(f"{name} is not linked from the index")
        if not name.startswith(f"{position:03}-"):
            faults.append(f"{name} should have the number {position:03}")
        missing = [heading for heading in ADR_HEADINGS if f"\n{heading}\n" not in text]
        faults += [f"{name} lacks {heading!r}" for heading in missing]
    return faults


def test_decision_records_are_whole() -> None:
    folder = ROOT / "docs/adr"
    records = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("[0-9]*.md")}
    assert records
    assert find_faulty_records(records, read("docs/adr/README.md")) == []


def test_faulty_records_are_found() -> None:
    whole = "# T\n\n## Context\n\n## Decision\n\n## Consequences\n\n### Good\n\n### Bad\n"
    records = {"001-a.md": whole, "003-b.md": whole.replace("### Bad", "### Fine")}
    faults = find_faulty_records(records, "[1](001-a.md)")
    assert [fault.partition(" ")[2].split()[0] for fault in faults] == ["is", "should", "lacks"]
    assert all(fault.startswith("003-b.md") for fault in faults)


def find_version_faults(node: str, sdk: str, changelog: str) -> list[str]:
    """Where the two distributions and the changelog disagree about the version."""
    daemon, library = tomllib.loads(node)["project"], tomllib.loads(sdk)["project"]
    version = daemon["version"]
    faults = []
    if library["version"] != version:
        faults.append(f"quorate is {library['version']}, quorate-node {version}")
    needs = {item.name: item for item in map(Requirement, daemon["dependencies"])}
    if not needs["quorate"].specifier.contains(library["version"]):
        faults.append(f"quorate-node refuses quorate {library['version']}")
    if not re.search(rf"^## \[{re.escape(version)}\]", changelog, re.MULTILINE):
        faults.append(f"CHANGELOG.md has no entry [{version}]")
    return faults


def test_versions_agree() -> None:
    faults = find_version_faults(
        read("pyproject.toml"), read("sdk/pyproject.toml"), read("CHANGELOG.md")
    )
    assert faults == []


def test_version_faults_are_found() -> None:
    node = '[project]\nversion = "0.2.0"\ndependencies = ["quorate>=0.2,<0.3"]\n'
    sdk = '[project]\nversion = "0.1.0"\n'
    assert len(find_version_faults(node, sdk, "## [0.1.0]\n")) == 3
    assert find_version_faults(node, sdk.replace("0.1", "0.2"), "## [0.2.0] - soon\n") == []


def test_both_distributions_carry_the_same_license() -> None:
    assert "Apache License" in read("LICENSE")
    assert read("sdk/LICENSE") == read("LICENSE")


def find_lock_faults(lock: str) -> list[str]:
    """What in the lock is not a pinned name with hashes, or names an address."""
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    faults = [line for line in lines if "://" in line or line.startswith("-")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines))
    return faults + [entry.partition("\n")[0] for entry in entries if not LOCKED.match(entry)]


def test_lock_pins_names_versions_and_hashes_alone() -> None:
    assert find_lock_faults(read("requirements.lock")) == []


def test_lock_faults_are_found() -> None:
    good = f"trio==0.35.0 \\\n    --hash=sha256:{'a' * 64}\n"
    assert find_lock_faults(good) == []
    assert find_lock_faults(good + "six==1.17.0\n") == ["six==1.17.0"]
    assert find_lock_faults("--index-url https://x.y\n" + good)
    assert find_lock_faults(good.replace("==", ">="))


def test_every_declared_dependency_is_locked() -> None:
    daemon, library = (tomllib.loads(read(p)) for p in ("pyproject.toml", "sdk/pyproject.toml"))
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", read("requirements.lock"), re.MULTILINE))
    for text in (
        *daemon["project"]["dependencies"],
        *daemon["project"]["optional-dependencies"]["demo"],
        *daemon["dependency-groups"]["dev"],
        *library["project"]["dependencies"],
        *daemon["build-system"]["requires"],
    ):
        requirement = Requirement(text)
        if requirement.name != "quorate":
            assert requirement.specifier.contains(locked[requirement.name]), text
