"""What can go wrong in aggregation, and whose fault it is.

::

    QuorateError
    ├── AggregationError
    │   ├── RuleError      a task's rule cannot be applied: whoever wrote the task changes it
    │   └── UpdateError    an update is malformed: its participant encodes it anew
    └── InvariantError
        └── BoundError     a caller or a kernel left the range in which integers are exact: a
                           defect of this program, and the node stops rather than round

Owns the error classes alone; never decides what follows from one.
"""

from quorate.chain.errors import ErrorCode, InvariantError, QuorateError


class AggregationError(QuorateError):
    """The root of what a task's author or a participant can do wrong here."""


class RuleError(AggregationError):
    """The composition is unknown, or its precondition on the number of updates is not met."""


class UpdateError(AggregationError):
    """An update is not what its codec and its task's dimension say it must be.

    Parameters
    ----------
    code : ErrorCode
        What is wrong, for programs: WRONG_SHAPE or VALUE_OUT_OF_RANGE.
    message : str
        What is wrong and what to do about it, for people.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class BoundError(InvariantError):
    """An argument is outside the range for which the arithmetic is proven exact."""
