"""What the benchmarks refuse, and with which sentence."""

import argparse
import json
import os
import signal
from pathlib import Path

import pytest

from bench.command_line import (
    make_parser,
    parse_file,
    parse_folder,
    positive_number,
    run,
    whole_number,
    write_json,
)
from bench.errors import BenchError


def make_example() -> argparse.ArgumentParser:
    parser = make_parser("bench.example", "Measure an example.")
    parser.add_argument("--count", type=whole_number(1, 10), default=3, help="how many")
    parser.add_argument("--sizes", type=whole_number(1, 10), nargs="+", default=[4, 5], help="of")
    parser.add_argument("--seconds", type=positive_number(60), default=2.5, help="how long")
    parser.add_argument("--file", type=parse_file, help="where")
    parser.add_argument("--quick", action="store_true", help="in a hurry")
    return parser


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--count", "0"], "'0' is not a whole number from 1 to 10."),
        (["--count", "11"], "'11' is not a whole number from 1 to 10."),
        (["--count", "many"], "'many' is not a whole number from 1 to 10."),
        (["--seconds", "0"], "'0' is not a number above 0 and up to 60."),
        (["--seconds", "61"], "'61' is not a number above 0 and up to 60."),
        (["--seconds", "nan"], "'nan' is not a number above 0 and up to 60."),
        (["--file", "/"], "'/' is a folder."),
        (["--file", "/is not there/file"], "The folder of '/is not there/file' does not exist."),
        (["--coun", "3"], "unrecognized arguments"),
    ],
)
def test_an_argument_out_of_bounds_is_refused_with_a_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        make_example().parse_args(arguments)
    assert raised.value.code == 2
    assert sentence in capsys.readouterr().err


def test_bounds_are_included(tmp_path: Path) -> None:
    options = make_example().parse_args(
        ["--count", "10", "--seconds", "60", "--file", str(tmp_path / "new")]
    )
    assert (options.count, options.seconds) == (10, 60)
    assert options.file == tmp_path / "new"
    assert parse_folder(str(tmp_path)) == tmp_path
    with pytest.raises(argparse.ArgumentTypeError, match="is no folder"):
        parse_folder(str(tmp_path / "new"))


def test_the_help_tells_the_defaults_that_there_are() -> None:
    shown = make_example().format_help()
    assert "how many (default: 3)" in shown
    assert "of (default: 4 5)" in shown
    assert "where\n" in shown
    assert "in a hurry\n" in shown


def test_errors_and_interruptions_end_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise BenchError("No figure.")

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    def interrupt_twice() -> None:
        try:
            interrupt()
        finally:
            # While nodes are stopped, and folders removed.
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)

    ended: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    assert run(lambda: None) == 0
    assert run(fail) == 1
    assert capsys.readouterr().err == "Error: No figure.\n"
    assert run(interrupt, left="nothing is left") == 130
    assert capsys.readouterr().err == "Interrupted; nothing is left.\n"
    assert run(interrupt_twice, left="nothing is left") == 130
    assert ended == [True]
    assert run(interrupt, left="nothing is left", is_trio=True) == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_ended_a_nursery_is_told_as_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [error])])

    assert run(lambda: fail(BenchError("No figure."))) == 1
    assert run(lambda: fail(KeyboardInterrupt()), left="nothing is left") == 130
    assert capsys.readouterr().err == "Error: No figure.\nInterrupted; nothing is left.\n"
    with pytest.raises(BaseExceptionGroup):
        run(lambda: fail(ZeroDivisionError()))


def test_json_is_written_if_there_is_a_file(tmp_path: Path) -> None:
    write_json(None, {"figures": 1})
    write_json(tmp_path / "figures.json", {"figures": 1})
    assert json.loads((tmp_path / "figures.json").read_text()) == {"figures": 1}
