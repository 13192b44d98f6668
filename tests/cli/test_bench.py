"""``quorate bench``: the commands end to end, in their quickest form."""

import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from node.failures import EXIT_INTERRUPTED
from tests.cli.console import Console, get_command, make_environment

ONE_RULE = ("--quick", "--rule", "median", "--attack", "sign_flip", "--jobs", 1)


def test_robustness_prints_figures_and_goes_on(quorate: Console, tmp_path: Path) -> None:
    results, figure = tmp_path / "results.jsonl", tmp_path / "figures" / "robustness.svg"
    first = quorate(
        "--output", "json", "bench", "robustness", *ONE_RULE, "--results", results,
        "--figure", figure,
    )  # fmt: skip
    assert first.code == 0, first.err
    assert first.err.splitlines()[-1] == "4 of 4 trainings are done."
    easy, hard = first.data["summaries"]
    assert (easy["rule"], easy["num_byzantine"], easy["alpha"]) == ("median", 4, 1.0)
    assert easy["clean"] > 0.8
    assert easy["worst"] == easy["attacked"]["sign_flip"]
    assert hard["alpha"] == 0.1
    assert first.data["parameters"]["steps"] == 150
    ET.parse(figure)
    lines = results.read_text().splitlines()
    assert len(lines) == 4
    started = time.monotonic()
    again = quorate("bench", "robustness", *ONE_RULE, "--results", results)
    assert time.monotonic() - started < 2
    assert results.read_text().splitlines() == lines
    heading, row = again.out.splitlines()
    assert heading.split("  ")[0] == "rule"
    assert row.startswith("median")
    assert f"{100 * easy['clean']:.1f} > {100 * easy['worst']:.1f} sign_flip" in row


def test_what_there_is_not_is_told_with_what_there_is(quorate: Console) -> None:
    refused = quorate("bench", "robustness", "--rule", "nnm+clop")
    assert refused.code == 1
    assert refused.sentence.startswith("There is no stage 'clop': they are clip, nnm, mean")
    refused = quorate("bench", "robustness", "--attack", "kindness")
    assert refused.sentence.startswith("There is no attack 'kindness': they are sign_flip, ")
    refused = quorate("bench", "robustness", "--rule", "nnm")
    assert refused.sentence.startswith("No rule of these")


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    process = subprocess.Popen(
        get_command("bench", "robustness", "--quick", "--jobs", 2, "--results", results),
        env=make_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (results.exists() and results.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert out == ""
    assert "Traceback" not in err
    assert f"the same command goes on with what is in {results}." in err.splitlines()[-1]
    assert len(results.read_text().splitlines()) >= 1


def test_codecs_prints_their_cost(quorate: Console) -> None:
    done = quorate("--output", "json", "bench", "codecs", "--rounds", 2, "--seeds", 1)
    assert done.code == 0, done.err
    costs = {(each["codec"], each["rule"]): each for each in done.data["codecs"]}
    assert costs["float32", "mean"]["bytes"] == 9640
    assert costs["dense_int16", "mean"]["bytes"] == 4820
    assert costs["dense_int8", "mean"]["bytes"] == 2413
    assert costs["top_k_int16, 1 %", "mean"]["bytes"] == 144
    exact, coarse = costs["float32", "mean"], costs["dense_int16", "mean"]
    assert abs(exact["with_feedback"] - coarse["with_feedback"]) < 0.02
    assert len(costs) == 11
