"""What a node needs of its machine and its network: ports, clock, disk, files, peers.

Owns these checks. Never looks into the node's data.
"""

import ctypes
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Final

from node.config import Config
from node.home import Home
from node.maintenance.findings import Finding, Level
from p2p.address import Address, parse_address, parse_peer_address

DISK_BYTES_MIN: Final = 256 << 20
"""With less the node may have to stop at any moment: the log, one large payload, a table."""
DISK_BYTES_LOW: Final = 4 << 30
FILES_NEEDED: Final = 1024
"""Both databases at their most, all peers on two connections each, the RPC's clients."""
DIAL_SECONDS_MAX: Final = 3.0
PEERS_TRIED_MAX: Final = 16

_TIMEX_BYTES: Final = 512
_TIME_ERROR: Final = 5
"""What the kernel answers while nothing keeps its clock in step."""


def check_ports(config: Config, *, is_running: bool) -> Iterator[Finding]:
    """Look whether each port is free, or in use if the node runs."""
    listen = parse_address(config.p2p.listen)
    ports = [("p2p port", listen.host, listen.port), ("rpc port", *config.rpc.address)]
    if config.instrumentation.metrics:
        ports.append(("metrics port", *config.instrumentation.address))
    for check, host, port in ports:
        yield _check_port(check, host, port, is_running=is_running)


def _check_port(check: str, host: str, port: int, *, is_running: bool) -> Finding:
    place = f"{host}:{port}"
    is_free, reason = _try_to_bind(host, port)
    if is_running:
        if is_free:
            return Finding(
                check, Level.WARNING, f"the node runs, but nothing listens on {place}: restart it"
            )
        return Finding(check, Level.GOOD, f"{place} is in use, and the node runs")
    if is_free:
        return Finding(check, Level.GOOD, f"{place} is free")
    return Finding(
        check,
        Level.WRONG,
        f"{place} cannot be used ({reason}): stop what uses it, or change the port in config.toml",
    )


def _try_to_bind(host: str, port: int) -> tuple[bool, str]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        return False, error.strerror or str(error)
    return True, ""


def check_clock(block_time_ms: int | None, genesis_time_ms: int | None) -> Finding:
    """Look whether the clock is after what it has shown before, and whether it is kept in step.

    Parameters
    ----------
    block_time_ms, genesis_time_ms : int or None
        Of the last decided block and of the genesis, as far as they are known.
    """
    now_ms = time.time_ns() // 1_000_000
    for name, past_ms in (("last block", block_time_ms), ("genesis", genesis_time_ms)):
        if past_ms is not None and now_ms < past_ms:
            return Finding(
                "clock",
                Level.WRONG,
                f"the clock is {(past_ms - now_ms) / 1000:.1f} s before the {name}'s time: set it "
                "by NTP; with a wrong clock this validator votes nil",
            )
    if _is_clock_adrift():
        return Finding(
            "clock",
            Level.WARNING,
            "the kernel says that nothing keeps the clock in step: run an NTP service, unless the "
            "host of this container or virtual machine does",
        )
    return Finding("clock", Level.GOOD, "kept in step, and not before the last block")


def _is_clock_adrift() -> bool:
    """Ask the kernel by adjtimex(2), which changes nothing when its modes are zero."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    return bool(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _TIME_ERROR)


def check_disk(home: Home) -> Finding:
    """Look how much room the disk of the data folder has."""
    folder = home.data_folder if home.data_folder.exists() else home.folder
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free for {folder}"
    if free < DISK_BYTES_MIN:
        return Finding("disk", Level.WRONG, f"{detail}: make room, or the node must stop soon")
    if free < DISK_BYTES_LOW:
        return Finding("disk", Level.WARNING, f"{detail}: make room before it is needed")
    return Finding("disk", Level.GOOD, detail)


def check_files_limit(config: Config) -> Finding:
    """Look whether the process may open as many files as the node needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_NEEDED + 2 * config.p2p.peers_max
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Finding("open files", Level.GOOD, f"{soft} allowed, {needed} needed")
    return Finding(
        "open files",
        Level.WARNING if hard == resource.RLIM_INFINITY or hard >= needed else Level.WRONG,
        f"{soft} allowed, {needed} needed at the most: raise the limit (`ulimit -n {needed}`, or "
        "LimitNOFILE of the service)",
    )


def check_peers(config: Config) -> Iterator[Finding]:
    """Look whether the configured peers accept connections."""
    texts = [*config.p2p.persistent_peers, *config.p2p.bootstrap_peers]
    if not texts:
        yield Finding(
            "peers",
            Level.WARNING,
            "none are configured: this node waits for others to dial it; add persistent_peers to "
            "config.toml unless it is the only validator",
        )
    for text in texts[:PEERS_TRIED_MAX]:
        _, address = parse_peer_address(text)
        yield _check_peer(text, address)


def _check_peer(text: str, address: Address) -> Finding:
    try:
        with socket.create_connection((address.host, address.port), DIAL_SECONDS_MAX):
            return Finding("peer", Level.GOOD, f"{text} accepts connections")
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(
            "peer",
            Level.WARNING,
            f"{text} cannot be reached ({reason}): look whether that node runs, and whether a "
            "firewall on the way lets its port through",
        )
