"""A check of everything a node needs, with the way out of what is wrong.

Owns which checks there are, their order, and those of the home's own files. Never changes anything,
and never decides more than how a finding is to be taken.
"""

import stat
from collections.abc import Iterator
from typing import Final

from quorate.chain.errors import QuorateError
from quorate.chain.genesis import Genesis

from node.agreement.sign_record import read_sign_record
from node.config import Config, load_config
from node.errors import HomeInUse
from node.home import Home
from node.key_files import read_node_key, read_validator_key
from node.maintenance.findings import Finding, Level, find
from node.maintenance.inspection import DAMAGED, Summary, find_problems, inspect
from node.maintenance.surroundings import (
    check_clock,
    check_disk,
    check_files_limit,
    check_peers,
    check_ports,
)

_MODE_OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def diagnose(home: Home) -> list[Finding]:
    """Check a home and what surrounds it; the node may run, then its data is left alone.

    Returns
    -------
    list of Finding
        All checks, in an order to read; the node can start if none is wrong.
    """
    findings = [find("home", lambda: _check_home(home))]
    if findings[0].level is Level.WRONG:
        return findings
    config, genesis = _try_to_load(home, findings)
    findings += [
        find("node key", lambda: _check_node_key(home)),
        find("validator key", lambda: _check_validator_key(home, genesis)),
    ]
    is_running, summary = False, None
    try:
        summary = inspect(home)
    except HomeInUse as error:
        is_running = True
        findings.append(Finding("data", Level.SKIPPED, f"the node runs ({error})"))
    except QuorateError as error:
        findings.append(Finding("data", Level.WRONG, str(error)))
    if summary is not None:
        findings += _check_data(summary)
        findings.append(find("sign record", lambda: _check_sign_record(home, genesis, summary)))
    findings += _check_surroundings(home, config, genesis, summary, is_running=is_running)
    return findings


def _try_to_load(home: Home, findings: list[Finding]) -> tuple[Config | None, Genesis | None]:
    config, genesis = None, None
    try:
        config = load_config(home)
        findings.append(Finding("settings", Level.GOOD, str(home.config_file)))
    except QuorateError as error:
        findings.append(Finding("settings", Level.WRONG, str(error)))
    try:
        genesis = home.read_genesis()
        findings.append(
            Finding("genesis", Level.GOOD, f"chain {genesis.chain_id}, {genesis.hash.hex()}")
        )
    except QuorateError as error:
        findings.append(Finding("genesis", Level.WRONG, str(error)))
    return config, genesis


def _check_surroundings(
    home: Home,
    config: Config | None,
    genesis: Genesis | None,
    summary: Summary | None,
    *,
    is_running: bool,
) -> Iterator[Finding]:
    chain = summary.get("chain") if summary is not None else None
    time_ms = chain.get("block_time_ms") if isinstance(chain, dict) else None
    genesis_time_ms = genesis.genesis_time_ms if genesis is not None else None
    yield find(
        "clock",
        lambda: check_clock(time_ms if isinstance(time_ms, int) else None, genesis_time_ms),
    )
    yield find("disk", lambda: check_disk(home))
    if config is not None:
        yield find("open files", lambda: check_files_limit(config))
        yield from check_ports(config, is_running=is_running)
        yield from check_peers(config)


# --- the home's own files -------------------------------------------------------------------------


def _check_home(home: Home) -> Finding:
    home.require()
    for folder in (home.folder, home.config_folder, home.data_folder):
        if folder.stat().st_mode & _MODE_OF_OTHERS:
            return Finding(
                "home",
                Level.WARNING,
                f"{folder} is open to other users of the machine: `chmod 700 {folder}`",
            )
    return Finding("home", Level.GOOD, str(home.folder))


def _check_node_key(home: Home) -> Finding:
    return Finding("node key", Level.GOOD, f"peer id {read_node_key(home.node_key_file).peer_id}")


def _check_validator_key(home: Home, genesis: Genesis | None) -> Finding:
    if not home.validator_key_file.exists():
        return Finding("validator key", Level.GOOD, "none: this node follows, and does not vote")
    key = read_validator_key(home.validator_key_file)
    named = "" if genesis is None else ", not in the genesis"
    if genesis is not None and any(v.public_key == key.public_key for v in genesis.validators):
        named = ", in the genesis"
    return Finding("validator key", Level.GOOD, f"address {key.address.hex()}{named}")


def _check_sign_record(home: Home, genesis: Genesis | None, summary: Summary) -> Finding:
    name, path = "sign record", home.validator_state_file
    if not home.validator_key_file.exists():
        return Finding(name, Level.GOOD, "none needed")
    record = read_sign_record(path)
    chain = summary.get("chain")
    height = chain.get("height") if isinstance(chain, dict) else None
    if record is None:
        if not height:
            return Finding(name, Level.GOOD, "none yet: nothing is decided")
        return Finding(
            name,
            Level.WRONG,
            f"{path} is missing: restore it from where the validator ran last; `quorate start "
            "--help` says what can be done when it is lost for good",
        )
    key = read_validator_key(home.validator_key_file)
    if record.address != key.address.hex() or (
        genesis is not None and record.chain_id != genesis.chain_id
    ):
        return Finding(
            name,
            Level.WRONG,
            f"{path} belongs to validator {record.address} on chain {record.chain_id}: put key, "
            "record and genesis of one validator together",
        )
    detail = f"last signed: height {record.height}, round {record.round}"
    if isinstance(height, int) and record.height < height:
        # A validator that was left out of the set, or was silent, is not wrong.
        detail += f", below the chain's {height}; make sure that it is the newest record"
        return Finding(name, Level.WARNING, detail)
    return Finding(name, Level.GOOD, detail)


def _check_data(summary: Summary) -> Iterator[Finding]:
    problems = find_problems(summary)
    chain, log = summary.get("chain"), summary.get("log")
    if not isinstance(chain, dict) or not isinstance(log, dict):
        return
    if DAMAGED in chain:
        yield Finding("database", Level.WRONG, str(chain[DAMAGED]))
    else:
        yield Finding("database", Level.GOOD, f"height {chain['height']}, base {chain['base']}")
    if DAMAGED in log:
        yield Finding("log", Level.WRONG, str(log[DAMAGED]))
    else:
        yield Finding(
            "log",
            Level.GOOD,
            f"{log['segments']} segments, ends with height {log.get('last_mark')}"
            if log["segments"]
            else "none yet",
        )
    shown = {str(part.get(DAMAGED)) for part in (chain, log)}
    for problem in problems:
        if problem not in shown:
            yield Finding("data", Level.WRONG, problem)
