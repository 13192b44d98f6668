"""Limits of the host: what py-libp2p is given, and what replaces its own limits.

Owns the numbers alone.
"""

from typing import Final

YAMUX_FRAME_BYTES: Final = 65519
"""Longest yamux frame, header included: exactly one noise packet."""

UPGRADE_S: Final = 5.0
"""Seconds that an accepted socket has for the handshakes of noise and yamux."""

DIAL_S: Final = 8.0
"""Seconds that a dial may take, handshakes included."""

NEGOTIATE_S: Final = 5
"""Seconds that a new stream has to agree on its protocol."""

FORCE_CLOSE_S: Final = 2.0
"""Seconds given to py-libp2p to tidy up after its socket has been closed."""

RESET_S: Final = 1.0
"""Seconds for a reset to leave; after them the connection is closed by force."""

CLOSE_S: Final = 1.0
"""Seconds that the host has to close its connections when it stops."""

LINKLESS_S: Final = 10.0
"""Seconds after which a connection without a link is closed."""

UNREAD_BYTES_MAX: Final = 24 * 1024 * 1024
"""Bytes that one connection may have sent and nobody has read."""

STREAMS_PER_CONNECTION_MAX: Final = 64
"""Streams open on one connection."""

WATCH_S: Final = 0.25
"""Seconds between two looks at what is unread."""

ANNOUNCEMENT_RPC_BYTES_MAX: Final = 1024 * 1024
"""Longest gossipsub frame."""

OPEN_LIMIT: Final = 10**9
"""Stands for no limit, where ours replaces one of py-libp2p's."""
