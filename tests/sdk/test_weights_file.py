"""The file of a download: what of it counts as there already."""

import os
from pathlib import Path

import pytest
from quorate.chain.content import compute_chunk_hashes
from quorate.weights_file import PARTIAL_SUFFIX, PartialFile

CHUNK = 1 << 20
DATA = bytes(CHUNK) + os.urandom(CHUNK) + bytes(5)
"""A chunk of zeros, which a file looks like wherever nothing has been written, one of noise, and
five zeros."""
HASHES = compute_chunk_hashes(DATA)


def open_partial(folder: Path) -> PartialFile:
    return PartialFile(folder / "w", len(DATA), HASHES)


def test_a_fresh_file_keeps_nothing(tmp_path: Path) -> None:
    with open_partial(tmp_path) as file:
        assert file.find_missing() == [0, 1, 2]
        assert not file.write(1, bytes(CHUNK))
        assert file.find_missing() == [0, 1, 2]
        # From the first chunk on what the file holds is looked at.
        assert file.write(1, DATA[CHUNK : 2 * CHUNK])
        assert 1 not in file.find_missing()


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (b"", [0, 1, 2]),
        (DATA[:CHUNK], [1]),
        (DATA[:-5], []),
        (DATA, []),
        (DATA[:CHUNK] + bytes(CHUNK + 5), [1]),
        (b"\1" * len(DATA) + b"more", [0, 1, 2]),
    ],
    ids=["empty", "one chunk", "two chunks", "all", "holes", "others"],
)
def test_what_an_earlier_attempt_left_is_kept(
    tmp_path: Path, found: bytes, missing: list[int]
) -> None:
    (tmp_path / f"w{PARTIAL_SUFFIX}").write_bytes(found)
    with open_partial(tmp_path) as file:
        assert file.find_missing() == missing
