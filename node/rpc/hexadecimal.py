"""Reading hashes and addresses out of requests.

Owns the sentence a client gets when one is not what it should be. Never looks anything up.
"""

from quorate.chain.errors import ErrorCode

from node.rpc.problems import Refusal


def read_hex(text: str, size: int, what: str) -> bytes:
    """Return the bytes that a request names in hexadecimal.

    Parameters
    ----------
    text : str
        As it stands in the request.
    size : int
        The number of bytes.
    what : str
        What it should be, for people: "a transaction's hash".

    Raises
    ------
    Refusal
        If it is not that.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != size or len(text) != 2 * size:
        raise Refusal(
            ErrorCode.MALFORMED,
            f"{text[:80]!r} is not {what}: write it in {2 * size} hexadecimal digits.",
        )
    return raw
