"""The command line: ``quorate``.

Owns the assembly of the commands and the end of the process: data on standard output, one
sentence on standard error for whatever went wrong, and the exit code (`node.failures` lists them).
Never does a command's work: `node.commands` does.
"""

import faulthandler
import os
import sys

import typer


def build_app() -> typer.Typer:
    """Return the command line with all its commands."""
    from node.commands import (  # noqa: PLC0415 - not before `main` has set the environment.
        bench,
        chain,
        config,
        homes,
        keys,
        maintenance,
        networks,
        settings,
        tasks,
        weights,
    )
    from node.commands.demo import demo  # noqa: PLC0415

    app = typer.Typer(
        name="quorate",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Boxes and colors are for terminals; a log gets plain lines.
        rich_markup_mode="rich" if sys.stderr.isatty() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(settings.set_shared_options)
    for command in (
        demo,
        homes.init,
        networks.start,
        networks.localnet,
        homes.join,
        chain.status,
    ):
        app.command()(command)
    app.command(name="testnet")(networks.write_testnet)
    app.add_typer(keys.app, name="keys")
    app.add_typer(tasks.task_app, name="task")
    app.add_typer(tasks.participant_app, name="participant")
    app.add_typer(tasks.update_app, name="update")
    app.add_typer(weights.app, name="weights")
    app.add_typer(config.app, name="config")
    app.add_typer(bench.app, name="bench")
    app.command(name="show-node-id")(homes.show_node_id)
    app.command(name="show-validator")(homes.show_validator)
    app.command()(maintenance.inspect)
    app.command()(maintenance.doctor)
    app.command()(maintenance.backup)
    app.command()(maintenance.rollback)
    app.command()(maintenance.replay)
    app.command(name="reset-state")(maintenance.reset_state)
    app.command(name="unsafe-reset-all")(maintenance.unsafe_reset_all)
    app.command()(chain.version)
    return app


def main() -> None:
    """Run the command that the arguments name, and end the process."""
    # Read when numpy is imported: a node has one thread for linear algebra, and goes parallel by
    # columns instead.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A crash inside a library leaves on standard error what each thread was at.
    if not faulthandler.is_enabled():
        faulthandler.enable()
    from node.failures import (  # noqa: PLC0415 - not before the environment is set.
        EXIT_INTERRUPTED,
        describe_failure,
        find_failure,
        get_exit_code,
    )

    try:
        build_app()(prog_name="quorate")
    except SystemExit as end:
        # That is how the library ends at Ctrl-C, without a word.
        if end.code == EXIT_INTERRUPTED:
            print("Error: Interrupted.", file=sys.stderr)
        raise
    # What is a defect is raised again, with its traceback.
    except BaseException as error:
        failure = find_failure(error)
        if failure is None:
            raise
        print(f"Error: {describe_failure(failure)}", file=sys.stderr)
        sys.exit(get_exit_code(failure))


if __name__ == "__main__":
    main()
