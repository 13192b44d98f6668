"""Each clause of Algorithm 1 has one function, and a test named by its line."""

import re
from pathlib import Path

from consensus import algorithm

FOLDER = Path(__file__).parent

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
