"""``bench``: benchmarks that need no node.

Owns their options and how their figures are printed. Never measures: `node.robustness` does.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from quorate.chain.errors import QuorateError

from node.commands.printing import Printer, Value
from node.commands.settings import OutputOption, get_printer
from node.failures import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from node.robustness.case import Case, Outcome
    from node.robustness.grid import Grid, Summary

app = typer.Typer(no_args_is_help=True, help="Run benchmarks on this machine.")

SEEDS_MAX: Final = 1000
LINE_EVERY: Final = 50
"""Where there is no terminal, a line tells of progress after so many cases."""


class UnknownCase(QuorateError):  # noqa: N818 - it says what is wrong.
    """A rule or an attack that the benchmark does not have."""


@app.callback()
def bench() -> None:
    """Run benchmarks on this machine."""


@app.command()
def robustness(
    context: typer.Context,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Four rules, two settings, one seed, fewer rounds.")
    ] = False,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="STAGES", help="A rule, such as nnm+median; repeatable."),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", metavar="NAME", help="Likewise.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, max=SEEDS_MAX, help="How many.  [default: 3]")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, max=64, help="Processes.  [default: as many as processors]"),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="FILE", help="Where outcomes are kept; goes on there."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="SVG", help="Where the figure is written.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Compare aggregation rules under attack.

    Trains a perceptron on handwritten digits among 20 participants, f of them hostile, under each
    rule and each attack, in the chain's integers; prints the accuracy without an attack and under
    the worst one. The whole grid takes about half an hour of processor time.
    """
    from node.robustness.figure import draw_summaries  # noqa: PLC0415 - only this command needs it.
    from node.robustness.grid import make_cases, summarize  # noqa: PLC0415
    from node.robustness.running import count_processors, run_cases  # noqa: PLC0415

    printer = get_printer(context, output)
    grid = _choose_grid(quick=quick, rules=rule, attacks=attack, seeds=seeds)
    cases = make_cases(grid)
    if not cases:
        raise UnknownCase("No rule of these tolerates 4 hostile participants of 20.")
    jobs = count_processors() if jobs is None else jobs
    try:
        with _show_progress(printer, len(cases)) as on_outcome:
            outcomes = run_cases(
                cases, grid.parameters, jobs=jobs, path=results, on_outcome=on_outcome
            )
    except KeyboardInterrupt:
        kept = "nothing was kept: name a file with --results"
        if results is not None:
            kept = f"the same command goes on with what is in {results}"
        raise Interrupted(f"The benchmark was interrupted; {kept}.") from None
    summaries = summarize(outcomes)
    if figure is not None:
        title = f"Digits: accuracy under the worst of {len(grid.attacks)} attacks"
        figure.parent.mkdir(parents=True, exist_ok=True)
        seeds_told = "1 seed" if grid.seeds == 1 else f"{grid.seeds} seeds"
        figure.write_text(draw_summaries(summaries, f"{title}, {seeds_told}"))
    _print_summaries(printer, grid, summaries)


@app.command()
def codecs(
    context: typer.Context,
    *,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Training rounds.")] = 20,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=SEEDS_MAX, help="How many.")] = 3,
    output: OutputOption = None,
) -> None:
    """Compare update codecs by the accuracy they cost.

    Trains a perceptron on handwritten digits among 8 honest participants, with the updates in each
    codec, with and without error feedback.
    """
    from node.robustness.codec_cost import measure_codecs  # noqa: PLC0415 - only this command.

    printer = get_printer(context, output)
    rows: list[dict[str, Value]] = []
    try:
        for cost in measure_codecs(rounds, seeds):
            printer.note(f"{cost.rule}, {cost.name}: {100 * cost.with_feedback:.1f} %")
            rows.append(
                {
                    "codec": cost.name,
                    "rule": cost.rule,
                    "bytes": cost.bytes_per_update,
                    "with_feedback": _show(printer, cost.with_feedback),
                    "without_feedback": _show(printer, cost.without_feedback),
                    "saturated": cost.saturated,
                }
            )
    except KeyboardInterrupt:
        raise Interrupted("The benchmark was interrupted.") from None
    printer.print_table("codecs", rows)


def _show(printer: Printer, accuracy: float) -> Value:
    return accuracy if printer.is_json else f"{100 * accuracy:.1f}"


def _choose_grid(
    *, quick: bool, rules: list[str] | None, attacks: list[str] | None, seeds: int | None
) -> "Grid":
    from quorate.chain.task import Stage  # noqa: PLC0415 - numpy is not imported for --help.

    from node.robustness.attacks import Attack  # noqa: PLC0415
    from node.robustness.grid import ATTACKS, QUICK, Grid  # noqa: PLC0415

    grid = QUICK if quick else Grid()
    for name in rules or ():
        unknown = [stage for stage in name.split("+") if stage not in set(Stage)]
        if unknown:
            raise UnknownCase(f"There is no stage {unknown[0]!r}: they are {', '.join(Stage)}.")
    for name in attacks or ():
        if name not in ATTACKS:
            raise UnknownCase(f"There is no attack {name!r}: they are {', '.join(ATTACKS)}.")
    if rules:
        grid = replace(grid, rules=tuple(dict.fromkeys(rules)))
    if attacks:
        grid = replace(grid, attacks=tuple(map(Attack, dict.fromkeys(attacks))))
    return grid if seeds is None else replace(grid, seeds=seeds)


@contextmanager
def _show_progress(printer: Printer, total: int) -> "Iterator[Callable[[Case, Outcome], None]]":
    """Show how many cases have ended: a bar on a terminal, else a line now and then."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    ended = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=total)

        def tell(case: "Case", outcome: "Outcome") -> None:
            nonlocal ended
            ended += 1
            text = f"{case.rule}, {case.attack}: {100 * outcome.accuracy:.1f} %"
            progress.update(bar, completed=ended, description=text)
            if not console.is_terminal and (ended % LINE_EVERY == 0 or ended == total):
                printer.note(f"{ended} of {total} trainings are done.")

        yield tell


def _print_summaries(printer: Printer, grid: "Grid", summaries: "Sequence[Summary]") -> None:
    if printer.is_json:
        rows: list[dict[str, Value]] = [
            {
                "rule": each.rule,
                "num_byzantine": each.num_byzantine,
                "alpha": each.alpha,
                "clean": each.clean,
                "worst": each.worst[1] if each.worst else None,
                "worst_attack": each.worst[0] if each.worst else None,
                "attacked": {str(attack): value for attack, value in each.attacked.items()},
            }
            for each in summaries
        ]
        record: dict[str, Value] = {"parameters": asdict(grid.parameters), "seeds": grid.seeds}
        printer.print_record({**record, "summaries": rows})
        return
    cells = {(each.rule, each.num_byzantine, each.alpha): each for each in summaries}
    table: list[dict[str, Value]] = []
    for rule in grid.rules:
        row: dict[str, Value] = {"rule": rule}
        for num_byzantine, alpha in grid.settings:
            summary = cells.get((rule, num_byzantine, alpha))
            row[f"f={num_byzantine} alpha={alpha:g}"] = _describe_cell(summary)
        table.append(row)
    printer.print_table("rules", table)


def _describe_cell(summary: "Summary | None") -> str:
    """Return the accuracy without an attack and under the worst one, in percent."""
    if summary is None:
        return "-"
    clean = "-" if summary.clean is None else f"{100 * summary.clean:.1f}"
    if summary.worst is None:
        return clean
    attack, accuracy = summary.worst
    return f"{clean} > {100 * accuracy:.1f} {attack}"
