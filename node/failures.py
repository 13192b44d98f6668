"""What went wrong, in one sentence, and the number a process ends with.

Owns the way from an exception to what a person reads, and the exit codes. Never catches what is
nobody's fault but this program's: such a defect shows its traceback.

========  ==========================================================================
code      meaning
========  ==========================================================================
0         done
1         refused or failed; the sentence on standard error says why
2         wrong usage: an unknown command or option, or a value that cannot be one
3         no node answers at the address given
4         what was downloaded is not what the chain confirms
130       interrupted (Ctrl-C)
========  ==========================================================================
"""

import signal
from collections.abc import Iterator
from typing import Final

from quorate.chain.errors import QuorateError
from quorate.errors import ConnectionFailedError, VerificationError

from p2p.network import NetworkError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_ANSWER: Final = 3
EXIT_NOT_VERIFIED: Final = 4
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


class Interrupted(QuorateError):  # noqa: N818 - it says what happened.
    """The person at the terminal has seen enough; what was running has been stopped."""


EXPECTED: Final = (QuorateError, NetworkError, OSError)
"""What an operator, a client or the machine can be told about in a sentence."""


def find_failure(error: BaseException) -> Exception | KeyboardInterrupt | None:
    """Return the first expected failure in an exception or an exception group.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    Exception, KeyboardInterrupt or None
        None if the group holds a defect of this program: then nothing may be hidden.
    """
    leaves = list(_iterate_leaves(error))
    expected = [leaf for leaf in leaves if isinstance(leaf, (*EXPECTED, KeyboardInterrupt))]
    if len(expected) < len(leaves):
        return None
    # Of several, the operator's own interruption is what the others follow from.
    interrupted = [leaf for leaf in expected if isinstance(leaf, KeyboardInterrupt)]
    return (interrupted or expected)[0]


def describe_failure(failure: BaseException) -> str:
    """Return one sentence, on one line, about an expected failure."""
    if isinstance(failure, KeyboardInterrupt):
        return "Interrupted."
    if isinstance(failure, OSError):
        text = failure.strerror or str(failure)
        if failure.filename is not None:
            text = f"{failure.filename}: {text}"
    else:
        text = str(failure)
    text = " ".join(text.split()) or type(failure).__name__
    # A sentence begins with a capital, but the name of a file is spelled as it is.
    if text.split(maxsplit=1)[0].isalpha():
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "]")) else f"{text}."


def get_exit_code(failure: BaseException) -> int:
    """Return the number a process ends with after a failure."""
    match failure:
        case KeyboardInterrupt() | Interrupted():
            return EXIT_INTERRUPTED
        case ConnectionFailedError():
            return EXIT_NO_ANSWER
        case VerificationError():
            return EXIT_NOT_VERIFIED
        case _:
            return EXIT_FAILED


def _iterate_leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _iterate_leaves(part)
    else:
        yield error
