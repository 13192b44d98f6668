"""Each clause of Algorithm 1 has one function, a test named by its line, and a transcript."""

import re
from pathlib import Path

import pytest
from quorate.chain.errors import InvariantError

from consensus import algorithm
from tests.consensus.transcript import rewrite

FOLDER = Path(__file__).parent
TRANSCRIPTS = sorted(FOLDER.glob("transcripts/*.txt"))

CLAUSES = {
    11: "round",
    22: "fresh_proposal",
    28: "reproposal",
    34: "any_prevotes",
    36: "proposal_and_polka",
    44: "nil_polka",
    47: "any_precommits",
    49: "commit",
    55: "later_round",
    57: "timeout_propose",
    61: "timeout_prevote",
    65: "timeout_precommit",
}


def find_functions() -> dict[int, str]:
    """Return the functions of the machine that are named by a line of the paper."""
    names = [*vars(algorithm.HeightMachine), *vars(algorithm)]
    matches = (re.fullmatch(r"(upon|start)_(\w+)_l(\d+)", name) for name in names)
    found = [match for match in matches if match is not None]
    assert len({match[3] for match in found}) == len(found), "two functions for one clause"
    return {int(match[3]): match[2] for match in found}


def find_tested_lines() -> set[int]:
    """Return the lines after which tests in this folder are named."""
    sources = [path.read_text(encoding="utf-8") for path in FOLDER.glob("test_clauses_*.py")]
    return {
        int(line)
        for source in sources
        for line in re.findall(r"^def test_l(\d+)_", source, re.MULTILINE)
    }


def test_each_clause_has_a_function() -> None:
    assert find_functions() == CLAUSES


def test_each_clause_has_a_test() -> None:
    assert find_tested_lines() == set(CLAUSES)


def test_each_rule_without_a_timeout_is_tried() -> None:
    tried = [int(rule.__name__.rsplit("_l", 1)[1]) for rule in algorithm.RULES]
    assert sorted(tried) == [22, 28, 34, 36, 44, 47, 49, 55]


def test_each_function_names_its_lines() -> None:
    for line, name in CLAUSES.items():
        prefix = "start" if line == 11 else "upon"
        function = getattr(algorithm.HeightMachine, f"{prefix}_{name}_l{line}")
        assert function.__doc__ is not None
        assert function.__doc__.startswith(f"L{line}-L")


def test_the_clauses_cover_the_algorithm_line_by_line() -> None:
    """From the first line of StartRound to the last of the paper, none left out or claimed twice.

    What comes before is the state (L1-L9) and the start of the first height (L10).
    """
    covered: list[int] = []
    for line, name in sorted(CLAUSES.items()):
        prefix = "start" if line == 11 else "upon"
        function = getattr(algorithm.HeightMachine, f"{prefix}_{name}_l{line}")
        found = re.match(r"L(\d+)-L(\d+):", function.__doc__)
        assert found is not None
        covered += range(int(found[1]), int(found[2]) + 1)
    assert covered == list(range(11, 68))


def is_as_written(path: Path) -> bool:
    written = path.read_text(encoding="utf-8")
    try:
        return rewrite(written) == written
    except InvariantError:
        return False


@pytest.mark.parametrize("line", CLAUSES)
def test_each_clause_is_told_in_a_transcript(line: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the clause answers otherwise somewhere."""
    prefix = "start" if line == 11 else "upon"
    name = f"{prefix}_{CLAUSES[line]}_l{line}"
    monkeypatch.setattr(algorithm.HeightMachine, name, lambda _self, *_round: False)
    tried = [rule for rule in algorithm.RULES if rule.__name__ != name]
    monkeypatch.setattr(algorithm, "RULES", tuple(tried))
    assert not all(map(is_as_written, TRANSCRIPTS))
