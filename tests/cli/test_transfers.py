"""Large updates and weights through the command line, against a node on a real port."""

import io
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import trio
from msgspec import structs
from quorate.chain.content import compute_content_hash
from quorate.chain.task import TensorSpec

from node.commands.weights import EARLIER_HINT
from store.disk import TEMPORARY_SUFFIX
from tests.cli.console import Console, Outcome
from tests.node.cluster import USERS
from tests.node.rpc.serving import Served, make_rpc_config, make_spec, make_task, open_rpc

DIMENSION = 700_000
TENSORS = (TensorSpec("kernel", (DIMENSION - 3,), 16, 12), TensorSpec("bias", (3,), 16, 12))
WEIGHTS = np.arange(DIMENSION, dtype="<i4").tobytes()
UPDATE = np.full(DIMENSION, 5, "<i2")
DOWNLOADS_MAX = 20
"""Until each of the nodes that do not answer has been asked in one and the same of them."""

Run: TypeAlias = Callable[..., Awaitable[Outcome]]


async def open_large_task(served: Served) -> bytes:
    spec = structs.replace(
        make_spec("large"), tensors=TENSORS, initial_weights_root=compute_content_hash(WEIGHTS)
    )
    return bytes.fromhex(await served.send(USERS[0], make_task(spec), WEIGHTS))


def make_run(quorate: Console, served: Served) -> Run:
    """Run a command in a thread, beside the node."""

    async def run(*arguments: object) -> Outcome:
        shared = ("--output", "json", "--node", served.url)
        return await trio.to_thread.run_sync(partial(quorate, *shared, *arguments))

    return run


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


pytestmark = pytest.mark.usefixtures("quiet_node")


@pytest.mark.usefixtures("keyring")
async def test_updates_and_weights_of_any_height(quorate: Console, tmp_path: Path) -> None:
    async with open_rpc(tmp_path, make_rpc_config()) as served:
        await open_large_task(served)
        run = make_run(quorate, served)
        assert (await run("keys", "add", "anna")).code == 0
        assert (await run("participant", "register", "large", "--key", "anna")).code == 0
        before = served.services.executor.position.height
        (tmp_path / "update.bin").write_bytes(UPDATE.tobytes())
        submitted = await run("update", "submit", "large", tmp_path / "update.bin", "--key", "anna")
        assert (submitted.code, submitted.data["status"]) == (0, "decided"), submitted.err

        got = await run("weights", "get", "large", tmp_path / "latest.bin")
        assert got.code == 0, got.err
        assert got.data["verified"] is True
        expected = np.frombuffer(WEIGHTS, "<i4") + 5 * 16
        np.testing.assert_array_equal(np.fromfile(tmp_path / "latest.bin", "<i4"), expected)
        earlier = await run(
            "weights", "get", "large", tmp_path / "then.npz", "--height", before,
            "--from", served.url,
        )  # fmt: skip
        assert earlier.code == 0, earlier.err
        assert earlier.data["height"] == before
        with np.load(tmp_path / "then.npz") as arrays:
            assert list(arrays) == ["kernel", "bias"]
            joined = np.concatenate([arrays["kernel"], arrays["bias"]])
        np.testing.assert_array_equal(joined, np.frombuffer(WEIGHTS, "<i4") / 2**16)
        left = await trio.to_thread.run_sync(list_files, tmp_path)
        assert left == ["latest.bin", "then.npz", "update.bin"]
        for name, height in (("latest.bin", ()), ("then.npz", ("--height", before))):
            verified = await run("weights", "verify", "large", tmp_path / name, *height)
            assert verified.code == 0, verified.err
        other = await run("weights", "verify", "large", tmp_path / "then.npz")
        assert other.code == 4
        assert EARLIER_HINT in " ".join(other.err.split())
        named = await run("weights", "verify", "large", tmp_path / "latest.bin", "--height", before)
        assert (named.code, EARLIER_HINT in " ".join(named.err.split())) == (4, False)
        gone = await run("weights", "get", "large", tmp_path / "x", "--height", 1)
        assert gone.code == 1
        assert "[not_found, HTTP 404]" in gone.sentence


@pytest.mark.usefixtures("keyring")
async def test_a_download_goes_on_where_it_ended(quorate: Console, tmp_path: Path) -> None:
    async with open_rpc(tmp_path, make_rpc_config()) as served:
        await open_large_task(served)
        run = make_run(quorate, served)
        partial_file = tmp_path / "w.partial"
        partial_file.write_bytes(WEIGHTS[: 1 << 20])
        got = await run("weights", "get", "large", tmp_path / "w")
        assert got.code == 0, got.err
        assert got.data["bytes_kept"] == 1 << 20
        assert (tmp_path / "w").read_bytes() == WEIGHTS
        assert not partial_file.exists()
        # For people the line is there only if there is something to tell; programs count on it.
        again = await run("weights", "get", "large", tmp_path / "w", "--output", "text")
        assert f"\nbytes kept    {len(WEIGHTS)}\n" in again.out
        fresh = ("weights", "get", "large", tmp_path / "fresh")
        assert (await run(*fresh)).data["bytes_kept"] == 0
        (tmp_path / "fresh").unlink()
        assert "bytes kept" not in (await run(*fresh, "--output", "text")).out


async def test_nodes_that_chunks_cannot_come_from_are_told(
    quorate: Console, tmp_path: Path
) -> None:
    async with open_rpc(tmp_path, make_rpc_config()) as served:
        await open_large_task(served)
        run = make_run(quorate, served)
        dead = ("--from", "127.0.0.1:1", "--from", "http://127.0.0.1:2")
        left_out = [f"Left out http://127.0.0.1:{port}" for port in (1, 2)]
        # A quick node may have sent all three chunks before each of the others is asked for one;
        # who is not asked is not told.
        for number in range(DOWNLOADS_MAX):
            file = tmp_path / f"w{number}"
            got = await run("weights", "get", "large", file, *dead)
            assert got.code == 0, got.err
            assert await trio.Path(file).read_bytes() == WEIGHTS
            told = sorted(got.err.splitlines())
            assert all("No answer from http://127.0.0.1:" in line for line in told)
            names = [line.split(": ")[0] for line in told]
            assert len(names) == len(set(names))
            assert set(names) <= set(left_out)
            if names == left_out:
                break
        assert names == left_out


@pytest.mark.parametrize(
    ("name", "written"), [("w", "w.partial"), ("w.npz", "w.npz.int32.partial"), ("w.npz", "w.npz")]
)
async def test_a_file_that_takes_no_bytes_is_told_by_its_name(
    quorate: Console, tmp_path: Path, name: str, written: str
) -> None:
    full = tmp_path / (written if written.endswith(".partial") else written + TEMPORARY_SUFFIX)
    await trio.Path(full).symlink_to("/dev/full")
    async with open_rpc(tmp_path, make_rpc_config()) as served:
        await open_large_task(served)
        got = await make_run(quorate, served)("weights", "get", "large", tmp_path / name)
        assert (got.code, got.out) == (1, "")
        assert got.sentence.startswith(f"{full}: "), got.sentence


async def test_a_file_of_another_length_is_told_its_length(
    quorate: Console, tmp_path: Path
) -> None:
    expected = f"{DIMENSION} parameters take {len(WEIGHTS)} as the chain's int32, little-endian"
    async with open_rpc(tmp_path, make_rpc_config()) as served:
        await open_large_task(served)
        run = make_run(quorate, served)
        for data, code in ((WEIGHTS[:-1], 4), (b"", 4), (WEIGHTS + b"\0", 1)):
            file = trio.Path(tmp_path / "weights.pt")
            await file.write_bytes(data)
            refused = await run("weights", "verify", "large", file)
            assert (refused.code, refused.out) == (code, ""), refused.err
            assert refused.sentence.startswith(
                f"The weights are not verified: {file} has {len(data)} bytes; {expected}"
            ), refused.sentence
            assert "With another ending than .npz" in refused.sentence
            # Weights of earlier blocks are as long: their heights are no way out.
            assert EARLIER_HINT not in " ".join(refused.err.split())
        np.savez(tmp_path / "nan.npz", kernel=np.full(DIMENSION - 3, np.nan), bias=np.zeros(3))
        refused = await run("weights", "verify", "large", tmp_path / "nan.npz")
        assert refused.code == 1
        assert refused.sentence.startswith(f"{tmp_path / 'nan.npz'}: tensor 'kernel' contains")


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


async def test_a_terminal_sees_how_far_it_is(
    quorate: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rpc(tmp_path, make_rpc_config()) as served:
        await open_large_task(served)
        run = make_run(quorate, served)
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        got = await run("weights", "get", "large", tmp_path / "w")
        assert got.code == 0
        assert "\rdownload [" in terminal.getvalue()
        assert terminal.getvalue().endswith("100%    2.8 of 2.8 MB\n")


@pytest.mark.usefixtures("keyring")
async def test_a_terminal_sees_that_a_block_is_waited_for(
    quorate: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rpc(tmp_path, make_rpc_config()) as served:
        await open_large_task(served)
        run = make_run(quorate, served)
        assert (await run("keys", "add", "anna")).code == 0
        silent = await run("participant", "register", "large", "--key", "anna")
        assert (silent.code, silent.err) == (0, "")
        await trio.Path(tmp_path / "update.bin").write_bytes(UPDATE.tobytes())
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        submit = ("update", "submit", "large", tmp_path / "update.bin", "--key", "anna")
        submitted = await run(*submit)
        assert (submitted.code, submitted.data["status"]) == (0, "decided")
        _, _, after = terminal.getvalue().partition("100%    1.4 of 1.4 MB\n")
        assert after.startswith("\rwaiting for a block, 0 s")
        assert after.endswith(" s\n")
        terminal.truncate(0)
        await run("task", "pause", "large", "--key", "anna", "--no-wait")
        assert "waiting" not in terminal.getvalue()
