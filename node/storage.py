"""The stores of a home folder, opened together.

Owns which there are, and the order in which they are opened and closed. Never looks at what is in
them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from node.config import Config, render_config
from node.execution.divergence import DivergenceReports
from node.home import Home
from node.mempool.journal import JOURNAL_WAY_OUT
from store.chain_store import ChainStore
from store.database import Database, LevelDatabase
from store.payload_contract import Payloads
from store.payloads import PayloadStore
from store.segmented_log import SegmentedLog
from store.witnessed_database import WitnessedDatabase
from store.write_ahead_log import WriteAheadLog


@dataclass(frozen=True, slots=True)
class NodeStorage:
    """Where a node keeps what must survive it.

    Attributes
    ----------
    chain : ChainStore
        Decided blocks, state, indexes.
    payloads : Payloads
        Payloads, weights, optimizer states.
    log : SegmentedLog
        The write-ahead log of consensus.
    journal : Database
        Own users' pending transactions, and the queue of released payloads.
    reports : DivergenceReports or None
        What this node saw when the network decided something else.
    """

    chain: ChainStore
    payloads: Payloads
    log: SegmentedLog
    journal: Database
    reports: DivergenceReports | None = None


@contextmanager
def open_storage(home: Home, config: Config) -> Iterator[NodeStorage]:
    """Open the stores of a home folder that this process has locked; closed on leaving.

    Raises
    ------
    StorageError
        If one cannot be opened; the message says the way out.
    """
    with ExitStack() as stack:
        database = LevelDatabase(home.blocks_folder)
        stack.callback(database.close)
        journal = WitnessedDatabase(home.mempool_folder, JOURNAL_WAY_OUT)
        stack.callback(journal.close)
        payloads = PayloadStore(
            database,
            home.payloads_folder,
            inline_bytes_max=config.storage.payload_inline_bytes_max,
            total_bytes_max=config.storage.payload_bytes_max,
        )
        log = WriteAheadLog(
            home.log_folder, segment_bytes_max=config.consensus.log_segment_bytes_max
        )
        stack.callback(log.close)
        reports = DivergenceReports(home.reports_folder, render_config(config))
        yield NodeStorage(ChainStore(database), payloads, log, journal, reports)
