"""``demo``: the demonstration.

Owns its options, its summary and its exit code. Never trains: `node.demo` does.
"""

from pathlib import Path
from typing import Annotated

import typer

from node.commands.settings import OutputOption, get_printer
from node.failures import EXIT_FAILED, Interrupted


def demo(
    context: typer.Context,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, max=1000, help="Training rounds under each rule.")
    ] = 10,
    accuracy_min: Annotated[
        float, typer.Option("--accuracy-min", min=0, max=1, help="What must be reached.")
    ] = 0.9,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one: other shards.")] = 0,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            help="Where the network is written, and kept.  [default: a temporary folder]",
        ),
    ] = None,
    output: OutputOption = None,
) -> None:
    """Train a classifier on this machine.

    Four validators, each a process of its own; eight participants with handwritten digits, each
    with its own shard, two of them hostile. Trains under the robust rule, then under the plain
    mean; compares what the validators report, and verifies the weights. Exits with 0 only if the
    accuracy is reached, the validators agree and the weights are verified.
    """
    from node.demo.running import DemoPlan, run_demo  # noqa: PLC0415 - only this command needs it.
    from node.demo.terminal import describe_closing  # noqa: PLC0415

    printer = get_printer(context, output)
    try:
        closing, kept = run_demo(DemoPlan(rounds, accuracy_min, seed, folder))
    except KeyboardInterrupt:
        # The library of the command line would end the process without a word.
        raise Interrupted("The demonstration was interrupted; its nodes are stopped.") from None
    if printer.is_json:
        printer.print_record(
            {
                "accuracy": closing.accuracy,
                "mean_accuracy": closing.mean_accuracy,
                "height": closing.height,
                "model_roots": closing.model_roots,
                "weights_root": closing.weights_root,
                "criteria": [
                    {"sentence": each.sentence, "is_met": each.is_met} for each in closing.criteria
                ],
                "is_successful": closing.is_successful,
            }
        )
    else:
        print(describe_closing(closing))
    if not closing.is_successful:
        printer.note(f"The nodes' logs are kept in {kept}.")
        raise typer.Exit(EXIT_FAILED)
