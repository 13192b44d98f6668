"""The grid: which cases there are, and what their outcomes come to."""

import xml.etree.ElementTree as ET

from quorate.chain.task import Stage

from node.robustness.attacks import Attack
from node.robustness.case import Case, Outcome
from node.robustness.figure import draw_summaries
from node.robustness.grid import (
    ATTACKS,
    DEFAULT,
    RULES,
    SETTINGS,
    Grid,
    is_applicable,
    make_cases,
    summarize,
)


def test_the_grid_has_every_case_once_and_seeds_one_after_the_other() -> None:
    grid = Grid(seeds=2)
    cases = make_cases(grid)
    applicable = sum(is_applicable(rule, f) for rule in RULES for f, _ in SETTINGS)
    assert len(cases) == len(set(cases)) == 2 * applicable * (1 + len(ATTACKS))
    half = len(cases) // 2
    assert {case.seed for case in cases[:half]} == {0}
    assert {case.seed for case in cases[half:]} == {1}
    assert all(is_applicable(case.rule, case.num_byzantine) for case in cases)


def test_every_final_stage_and_the_default_are_in_the_grid() -> None:
    named = {stage for rule in RULES for stage in rule.split("+")}
    assert named == set(Stage)
    assert DEFAULT in RULES


def make_outcomes(rule: str, accuracies: dict[Attack, list[float]]) -> dict[Case, Outcome]:
    return {
        Case(rule, 4, 1.0, attack, seed): Outcome(accuracy, 0)
        for attack, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    }


OUTCOMES = make_outcomes(
    "median",
    {
        Attack.NONE: [0.9, 1.0],
        Attack.MIMIC: [0.25, 0.75],
        Attack.ALIE: [0.0, 1.0],
        Attack.MIN_MAX: [0.25, 0.5],
    },
) | make_outcomes(DEFAULT, {Attack.NONE: [0.5]})


def test_the_worst_attack_is_that_with_the_lowest_mean() -> None:
    median, default = summarize(OUTCOMES)
    assert (median.rule, median.num_byzantine, median.alpha) == ("median", 4, 1.0)
    assert median.clean == 0.95
    assert median.attacked == {Attack.ALIE: 0.5, Attack.MIMIC: 0.5, Attack.MIN_MAX: 0.375}
    assert median.worst == (Attack.MIN_MAX, 0.375)
    assert default.worst is None
    assert default.clean == 0.5


def test_the_figure_has_a_bar_for_each_and_escapes_what_is_written() -> None:
    svg = draw_summaries(summarize(OUTCOMES), "a < b & c")
    root = ET.fromstring(svg)
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b & c" in texts
    assert "f = 4 of 20, alpha = 1" in texts
    assert "37.5 min_max" in texts
    assert texts.count("median") == 1
    bars = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("x")]
    assert [bar.get("width") for bar in bars] == [str(360 * 0.375)]


def test_the_name_of_every_rule_has_room_beside_its_bar() -> None:
    outcomes: dict[Case, Outcome] = {}
    for rule in RULES:
        outcomes |= make_outcomes(rule, {Attack.NONE: [0.5]})
    root = ET.fromstring(draw_summaries(summarize(outcomes), "all"))
    labels = [
        each
        for each in root.iter("{http://www.w3.org/2000/svg}text")
        if each.get("text-anchor") == "end" and (each.text or "") in RULES
    ]
    assert len(labels) == len(RULES)
    # A wide sans-serif takes up to two thirds of its size for a letter.
    assert all(float(each.get("x", "")) >= len(each.text or "") * 11 * 2 / 3 for each in labels)
