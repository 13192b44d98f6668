"""A node that computes something else than the network has decided: it stops and says why."""

import json
from pathlib import Path

import pytest
from quorate.chain.block import Block
from quorate.chain.codec import decode
from quorate.chain.errors import InvariantError
from quorate.chain.vote import Commit

from ledger.tree import compute_bucket
from node.execution.divergence import REDACTED, DivergenceReports
from node.storage import NodeStorage
from store import layout
from store.chain_store import ChainStore
from store.database import Batch
from tests.node.cluster import USERS
from tests.node.durability.file_cluster import FileCluster, FileMember, open_file_cluster


def corrupt_executor(monkeypatch: pytest.MonkeyPatch, victim: FileMember) -> None:
    """Let one node of several compute another state root, as a wrong program would."""
    state = victim.running.services.executor.state
    compute = state.compute_patch

    def compute_wrongly(writes: dict[bytes, bytes | None]) -> object:
        return compute(writes | {b"\x7fwrong": b"1"})

    monkeypatch.setattr(state, "compute_patch", compute_wrongly)


async def run_until_it_diverges(
    cluster: FileCluster, monkeypatch: pytest.MonkeyPatch
) -> tuple[FileMember, str]:
    for member in cluster.members:
        await cluster.start(member)
    await cluster.wait_for_height(2)
    victim = cluster.members[3]
    corrupt_executor(monkeypatch, victim)
    failure = await cluster.fail(victim)
    assert isinstance(failure, InvariantError)
    return victim, str(failure)


async def test_a_node_that_diverges_stops_and_writes_what_it_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_cluster(tmp_path, 4) as cluster:
        victim, sentence = await run_until_it_diverges(cluster, monkeypatch)
        height = victim.height + 1
        (folder,) = victim.home.reports_folder.iterdir()
        assert str(folder) in sentence
        assert "decided by the network but is invalid when executed here (state_root" in sentence
        await cluster.wait_for_height(height + 1, cluster.members[:3])
        decided = cluster.members[0].running.services.storage.chain
        report = json.loads((folder / "report.json").read_text())
        assert report["height"] == height
        block = (folder / "block.bin").read_bytes()
        assert block == decided.load_block(height)
        header = decode(Block, block, len(block)).header
        assert report["header"]["state_root"] == header.state_root.hex()
        assert report["computed_here"]["state_root"] != header.state_root.hex()
        assert report["computed_here"]["receipts_root"] == header.receipts_root.hex()
        assert report["before"]["height"] == height - 1
        assert report["versions"]["python"]
        commit = decode(Commit, (folder / "commit.bin").read_bytes(), 10_000)
        assert commit.block_id.hash == header.hash
        assert (folder / "receipts.bin").read_bytes() == decided.load_receipts(height)
        assert json.loads((folder / "state_writes.json").read_text())
        everything = b"".join(path.read_bytes() for path in folder.iterdir())
        assert victim.key is not None
        assert victim.key.seed.hex().encode() not in everything
        assert b"[consensus]" in everything


async def test_after_a_divergence_the_node_stops_again_until_it_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_file_cluster(tmp_path, 4) as cluster:
        victim, _ = await run_until_it_diverges(cluster, monkeypatch)
        (folder,) = victim.home.reports_folder.iterdir()
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        await cluster.start(victim)
        assert str(folder) in str(await cluster.fail(victim))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        # What the sentence says helps: the right program, and a log without the wrong verdict.
        victim.home.log_folder.rename(tmp_path / "moved-away")
        await cluster.start(victim)
        await cluster.wait_for_height(max(m.height for m in cluster.members[:3]) + 2)


async def test_state_that_was_changed_in_the_database_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    def change_a_balance(storage: NodeStorage) -> None:
        chain: ChainStore = storage.chain
        key = next(k for _, k, _ in chain.iterate_state() if USERS[0].address in k)
        bucket = compute_bucket(key, 256)
        value = chain.get_state(bucket, key)
        assert value is not None
        batch = Batch()
        stored = layout.STATE + bucket.to_bytes(layout.BUCKET_BYTES, "big") + key
        batch.put(stored, value[:-1] + bytes([value[-1] ^ 1]))
        chain._database.write(batch, sync=True)

    async with open_file_cluster(tmp_path) as cluster:
        member = cluster.members[0]
        await cluster.start(member)
        await cluster.wait_for_height(2)
        await cluster.stop(member)
        with pytest.raises(Exception, match=r"the stored state has root .* restore the data"):
            await cluster.start(member, adapt=change_a_balance)


def test_settings_that_look_like_secrets_are_left_out(tmp_path: Path) -> None:
    settings = 'moniker = "x"\nadmin_token = "abc"\n[rpc]\n  Password_file = "p"\npassword="q"\n'
    reports = DivergenceReports(tmp_path, settings)
    assert "abc" not in reports._settings
    assert '"q"' not in reports._settings
    assert f'admin_token = "{REDACTED}"' in reports._settings
    assert 'moniker = "x"' in reports._settings
