"""Help, wrong usage, and how failures end."""

import errno
import os
from pathlib import Path

import pytest
import typer
from quorate.errors import ConnectionFailedError, VerificationError, VerificationStep

import cli
from node.commands.printing import Printer, confirm
from node.commands.settings import normalize_url
from node.config import parse_config
from node.config_examples import EXAMPLES, render_example
from node.errors import ConfigError
from node.failures import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_ANSWER,
    EXIT_NOT_VERIFIED,
    describe_failure,
    find_failure,
    get_exit_code,
)
from p2p.network import ListenError
from tests.cli.console import ROOT, Console, run_process

COMMANDS = (
    "config show", "config validate", "demo", "init", "join", "keys add", "keys export",
    "keys import", "keys list", "keys show", "localnet", "participant register", "show-node-id",
    "show-validator", "start", "status", "task create", "task list", "task pause", "task resume",
    "task show", "testnet", "update submit", "version", "weights get", "weights verify",
)  # fmt: skip
DATA_COMMANDS = tuple(name for name in COMMANDS if name not in {"start", "testnet"})


def find_command(path: str) -> typer.core.TyperCommand:
    command = typer.main.get_command(cli.build_app())
    for name in path.split():
        command = command.commands[name]  # type: ignore[attr-defined]
    return command  # type: ignore[return-value]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help(quorate: Console, path: str) -> None:
    shown = quorate(*path.split(), "--help")
    assert shown.code == 0
    command = find_command(path)
    assert command.help
    first = command.help.splitlines()[0]
    assert first.endswith(".")
    # Longer ones are cut in the list of commands.
    assert len(first) <= 45, first
    assert first in shown.out
    for option in command.params:
        assert getattr(option, "help", None) or option.name == "help", option.name


@pytest.mark.parametrize("path", DATA_COMMANDS)
def test_every_command_with_data_speaks_json(path: str) -> None:
    options = [name for option in find_command(path).params for name in option.opts]
    assert "--output" in options


def test_all_commands_are_listed(quorate: Console) -> None:
    listed = quorate("--help").out
    for path in COMMANDS:
        assert f"  {path.split()[0]} " in listed


@pytest.mark.parametrize(
    "arguments",
    [("fly",), ("init", "--fly"), ("keys",), ("keys", "fly"), ("status", "--node", "ftp://x"),
     ("--output", "xml", "version"), ("join",), ("demo", "--accuracy-min", "2")],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(quorate: Console, arguments: tuple[str, ...]) -> None:
    refused = quorate(*arguments)
    assert refused.code == 2
    assert refused.err.startswith("Usage: quorate") or refused.out.startswith("Usage: quorate")
    assert "Traceback" not in refused.err


def test_version(quorate: Console) -> None:
    assert set(quorate("version", "--output", "json").data) == {"quorate", "python"}
    assert quorate("--output", "json", "version").data == quorate("version", "--output=json").data


def test_completion_completes() -> None:
    typed = {"COMP_WORDS": "quorate ke", "COMP_CWORD": "1"}
    shown = run_process(_QUORATE_COMPLETE="complete_bash", **typed)
    assert (shown.code, shown.out.split()) == (0, ["keys"])


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("task", "list"), ("task", "show", "x"),
     ("weights", "get", "x", "file"), ("weights", "verify", "x", "file")],
)  # fmt: skip
def test_no_answer_is_exit_code_3(quorate: Console, arguments: tuple[str, ...]) -> None:
    done = quorate(*arguments, "--node", "127.0.0.1:1")
    assert done.code == 3
    assert "No answer from http://127.0.0.1:1" in done.sentence
    assert done.out == ""


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("comes_first", [True, False])
def test_option_overrides_the_environment(quorate: Console, comes_first: bool) -> None:
    quorate.monkeypatch.setenv("QUORATE_NODE", "127.0.0.1:2")
    option = ["--node", "127.0.0.1:1"]
    done = quorate(*option, "status") if comes_first else quorate("status", *option)
    assert "No answer from http://127.0.0.1:1 " in done.sentence
    assert "No answer from http://127.0.0.1:2 " in quorate("status").sentence


def test_groups_are_unwrapped_to_their_first_failure() -> None:
    first, second = ConfigError("first."), ListenError("second")
    group = BaseExceptionGroup("a", [ExceptionGroup("b", [first]), second])
    assert find_failure(group) is first
    assert find_failure(second) is second


def test_defects_are_not_hidden() -> None:
    assert find_failure(ZeroDivisionError()) is None
    assert find_failure(ExceptionGroup("a", [ConfigError("x"), KeyError("y")])) is None


def test_interruption_comes_first() -> None:
    group = BaseExceptionGroup("a", [ConfigError("x"), KeyboardInterrupt()])
    found = find_failure(group)
    assert isinstance(found, KeyboardInterrupt)
    assert get_exit_code(found) == EXIT_INTERRUPTED == 130


@pytest.mark.parametrize(
    ("failure", "sentence", "code"),
    [
        (ConfigError("a  line\nand another"), "A line and another.", EXIT_FAILED),
        (ListenError("cannot listen"), "Cannot listen.", EXIT_FAILED),
        (ConnectionFailedError("No answer?"), "No answer?", EXIT_NO_ANSWER),
        (
            VerificationError(VerificationStep.COMMIT, "no quorum"),
            "The weights are not verified: no quorum [step commit]",
            EXIT_NOT_VERIFIED,
        ),
        (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a/b"),
            "a/b: No such file or directory.",
            EXIT_FAILED,
        ),
        (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "plain"),
            "plain: No such file or directory.",
            EXIT_FAILED,
        ),
        (ConfigError("task.toml is no such file"), "task.toml is no such file.", EXIT_FAILED),
    ],
)
def test_failures_become_one_sentence(failure: Exception, sentence: str, code: int) -> None:
    assert describe_failure(failure) == sentence
    assert get_exit_code(failure) == code


def test_defect_shows_its_traceback(quorate: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.commands.chain.platform.python_version", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        quorate("version")


def test_an_interruption_is_told(quorate: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("node.commands.chain.platform.python_version", interrupt)
    interrupted = quorate("version")
    assert (interrupted.code, interrupted.sentence) == (EXIT_INTERRUPTED, "Interrupted.")


# --- printing ------------------------------------------------------------------------------------


def test_text_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"a_root": b"\x01\xff", "none": None, "is_so": True, "many": [1, 2], "of": {"x": 1}}
    Printer(is_json=False).print_record(record)
    assert capsys.readouterr().out == (
        "a root  01ff\nnone    -\nis so   yes\nmany    1, 2\nof      x 1\n"
    )
    Printer(is_json=True).print_record(record)
    text = "".join(capsys.readouterr().out.split())
    assert text == '{"a_root":"01ff","none":null,"is_so":true,"many":[1,2],"of":{"x":1}}'


def test_tables_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().print_table("nodes", [{"name": "a", "height": 10}, {"name": "bcdefg", "height": 9}])
    assert capsys.readouterr().out == "name    height\na       10\nbcdefg  9\n"


def test_assured_questions_are_not_asked() -> None:
    confirm("Really?", is_assured=True)


def test_addresses_of_nodes() -> None:
    assert normalize_url("127.0.0.1:1") == "http://127.0.0.1:1"
    assert normalize_url("https://node.example/") == "https://node.example"
    assert normalize_url("[::1]:26657") == "http://[::1]:26657"


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://", "http://exa:mple", "127.0.0.1:99999", "127.0.0.1:0", "a::::", "[::1"],
)
def test_what_is_no_address_is_wrong_usage(quorate: Console, url: str) -> None:
    with pytest.raises(typer.BadParameter, match="no address"):
        normalize_url(url)
    refused = quorate("status", "--node", url)
    assert (refused.code, refused.out) == (2, "")
    assert "it looks like http://127.0.0.1:26657" in " ".join(refused.err.split())


def test_an_empty_name_of_a_task_is_wrong_usage(quorate: Console) -> None:
    refused = quorate("task", "show", "")
    assert refused.code == 2
    assert "name a task" in refused.err


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_current_and_load(name: str) -> None:
    text = (ROOT / "configs" / name).read_text(encoding="utf-8")
    assert text == render_example(EXAMPLES[name]), (
        "run `python -m node.config_examples configs` and look at what changed"
    )
    assert parse_config(text, name) == EXAMPLES[name].config


def test_every_example_file_is_known() -> None:
    assert {path.name for path in Path(ROOT / "configs").iterdir()} == set(EXAMPLES)
