"""One node as a process: from a home folder to an exit code.

Owns what surrounds the daemon in a process: the settings, the logs, the sentence about a failure.
Never knows the command line; ``quorate start`` calls it, and ``python -m node.process HOME`` is
how a localnet starts its nodes.
"""

import faulthandler
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import trio

from node.config import load_config
from node.failures import describe_failure, find_failure, get_exit_code
from node.home import Home
from node.logs import configure_logs

STOP_WITH_INPUT: Final = "--stop-with-input"
"""Argument: stop when standard input ends, which it does when the process that started this one
is gone, however it went."""
_READ_BYTES: Final = 4096


def run_node(home: Home, *, accept_missing_sign_record: bool = False) -> None:
    """Run the node of a home folder until it is told to stop.

    Parameters
    ----------
    home : Home
    accept_missing_sign_record : bool
        Start a validator whose last-signed record is missing: for a key that has never signed.

    Raises
    ------
    QuorateError, NetworkError
        In an exception group if it happened while running.
    """
    # The network stack takes a second to import, and a mistake in the settings is told before.
    home.require()
    config = load_config(home)
    from node.daemon import run_daemon  # noqa: PLC0415

    configure_logs(config.log_level, config.log_format, fields={"node": config.moniker})
    trio.run(
        lambda: run_daemon(home, config, accept_missing_sign_record=accept_missing_sign_record)
    )


def stop_with_input() -> None:
    """Stop this process, in order, when its standard input ends."""
    descriptor = sys.stdin.fileno()

    def watch() -> None:
        while os.read(descriptor, _READ_BYTES):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="input", daemon=True).start()


def main(arguments: list[str]) -> int:
    """Run a node by the arguments of its process, and return the exit code."""
    # A crash inside a library leaves in the log what each thread was at.
    faulthandler.enable()
    if STOP_WITH_INPUT in arguments:
        stop_with_input()
    (folder,) = (argument for argument in arguments if argument != STOP_WITH_INPUT)
    try:
        run_node(Home(Path(folder)))
    # What is a defect is raised again, with its traceback, below.
    except BaseException as error:
        failure = find_failure(error)
        if failure is None:
            raise
        print(f"Error: {describe_failure(failure)}", file=sys.stderr)
        return get_exit_code(failure)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
