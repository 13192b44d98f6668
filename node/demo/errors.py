"""What can go wrong with the demonstration before it has a result.

Owns the one class. Criteria that are not met are no errors: they are part of the result.
"""

from quorate.chain.errors import QuorateError


class DemoError(QuorateError):
    """The demonstration cannot run, or not to its end; the message says why."""
