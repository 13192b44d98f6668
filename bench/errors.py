"""What makes a benchmark worthless: a network that fails, or that does not do what it is asked.

Owns the error. Never judges a figure.
"""

from quorate.chain.errors import QuorateError


class BenchError(QuorateError):
    """The measurement cannot go on, or its figures would be wrong; the message says why."""
