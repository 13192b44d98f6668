"""What a stopped node's home holds, without changing a byte of it.

Owns the summary. Looks at copies wherever opening the original would change it: the log in memory,
databases in a scratch folder that shares their tables. What is damaged becomes a sentence in the
summary and keeps the rest from nobody.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from quorate.chain.block import Block
from quorate.chain.codec import decode
from quorate.chain.errors import QuorateError
from quorate.chain.ids import Height

from node.agreement.height_log import HeightLog
from node.agreement.sign_record import read_sign_record
from node.execution.chain_position import POSITION_DOCUMENT, decode_position
from node.home import Home
from node.key_files import read_validator_key
from node.maintenance.stopped_node import lock_stopped
from node.mempool.journal import JOURNAL_WAY_OUT, count_records
from store.chain_store import ChainStore
from store.database import LevelDatabase
from store.disk import translated_errors
from store.level_snapshot import snapshot_level
from store.payloads import measure_payloads
from store.segment_folder import MemorySegmentFolder, read_segments
from store.witnessed_database import WitnessedDatabase
from store.write_ahead_log import MemoryWriteAheadLog

SCRATCH_PREFIX: Final = "inspect-"
DAMAGED: Final = "problem"
"""The name under which a part of the summary says what is wrong with it."""

Fact: TypeAlias = "str | int | bytes | Sequence[Fact] | Mapping[str, Fact] | None"
Summary: TypeAlias = dict[str, Fact]


def inspect(home: Home) -> Summary:
    """Return a summary of a home: chain, log, payloads, pending transactions, signer.

    Raises
    ------
    HomeError
        If it is no home folder, or its node runs.
    StorageError
        If there is no room for a scratch folder.
    """
    with lock_stopped(home):
        with translated_errors(home.data_folder):
            scratch = tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=home.data_folder)
        with scratch as name:
            folder = Path(name)
            summary: Summary = {"home": str(home.folder)}

            def tell(describe: Callable[[], Summary]) -> Summary:
                return _describe_or_tell(describe, home, folder)

            chain = tell(lambda: _describe_chain(home, folder))
            height = chain.get("height")
            summary["genesis"] = tell(lambda: _describe_genesis(home))
            summary["chain"] = chain
            summary["log"] = tell(
                lambda: _describe_log(home, height if isinstance(height, int) else None)
            )
            summary["mempool"] = tell(lambda: _describe_mempool(home, folder))
            summary["signer"] = tell(lambda: _describe_signer(home))
            summary["reports"] = _list_reports(home)
            return summary


def find_problems(summary: Mapping[str, Fact]) -> list[str]:
    """Return the sentences about damage in a summary."""
    parts = [part for part in summary.values() if isinstance(part, Mapping)]
    return [str(part[DAMAGED]) for part in parts if DAMAGED in part]


def _describe_or_tell(describe: Callable[[], Summary], home: Home, scratch: Path) -> Summary:
    try:
        return describe()
    except QuorateError as error:
        # The copies go, and have the names of what they are copies of.
        return {DAMAGED: str(error).replace(str(scratch), str(home.data_folder))}


def _describe_genesis(home: Home) -> Summary:
    genesis = home.read_genesis()
    return {"chain_id": genesis.chain_id, "genesis_hash": genesis.hash}


def _describe_chain(home: Home, scratch: Path) -> Summary:
    folder = scratch / "blocks"
    snapshot_level(home.blocks_folder, folder)
    database = LevelDatabase(folder)
    try:
        chain = ChainStore(database)
        found: Summary = {
            "initial_height": chain.initial_height,
            "base": chain.base,
            "height": chain.height,
            "can_roll_back": chain.can_roll_back,
        }
        if chain.is_initialized:
            found |= _describe_tip(chain)
        found["payloads"], found["payload_bytes"] = measure_payloads(database, home.payloads_folder)
        return found
    finally:
        database.close()


def _describe_tip(chain: ChainStore) -> Summary:
    found: Summary = {}
    block = chain.load_block(chain.height)
    if block is not None:
        header = decode(Block, block, len(block)).header
        found |= {"block_hash": header.hash, "block_time_ms": header.time_ms}
    position = chain.load_document(POSITION_DOCUMENT)
    if position is not None:
        at = decode_position(position, None)
        found |= {
            "state_root": at.state_root,
            "model_root": at.model_root,
            "validators": len(at.validators),
        }
    return found


def _describe_log(home: Home, height: int | None) -> Summary:
    segments = MemorySegmentFolder(read_segments(home.log_folder))
    found: Summary = {
        "segments": len(segments.get_indices()),
        "bytes": sum(map(segments.get_size, segments.get_indices())),
    }
    if not segments.get_indices():
        return found
    with MemoryWriteAheadLog(segments) as log:
        found |= {"last_mark": log.last_mark, "torn_bytes": log.bytes_cut}
        if height is not None:
            # Reading may mark the end of the height, here in memory alone.
            logged = HeightLog(log).read(Height(height))
            found |= {
                "open_height": height + 1 if logged.inputs else None,
                "inputs": len(logged.inputs),
                "blocks": len(logged.blocks),
            }
    return found


def _describe_mempool(home: Home, scratch: Path) -> Summary:
    folder = scratch / "mempool"
    snapshot_level(home.mempool_folder, folder)
    database = WitnessedDatabase(folder, JOURNAL_WAY_OUT)
    try:
        return {"own_pending_transactions": count_records(database)}
    finally:
        database.close()


def _describe_signer(home: Home) -> Summary:
    is_validator = home.validator_key_file.exists()
    found: Summary = {
        "is_validator": is_validator,
        "address": read_validator_key(home.validator_key_file).address if is_validator else None,
    }
    record = read_sign_record(home.validator_state_file)
    if record is not None:
        found |= {
            "signed_by": record.address,
            "height": record.height,
            "round": record.round,
            "step": record.step.name.lower(),
            "is_locked": bool(record.lock),
        }
    elif is_validator:
        found["record"] = "missing"
    return found


def _list_reports(home: Home) -> list[str]:
    if not home.reports_folder.is_dir():
        return []
    return sorted(path.name for path in home.reports_folder.iterdir())
