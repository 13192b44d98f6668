"""The uploads of the fake node: payloads that come chunk by chunk."""

from dataclasses import dataclass, field

import msgpack
from quorate.chain.content import (
    compute_chunk_hash,
    compute_content_hash,
    count_chunks,
    get_chunk_size,
)
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root_of_hashes

CHUNK = 1 << 20


@dataclass
class Upload:
    """A payload on its way."""

    size: int
    hashes: list[bytes]
    chunks: dict[int, bytes] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        return [index for index in range(len(self.hashes)) if index not in self.chunks]


class FakePayloads:
    """What was uploaded, and what is being."""

    def __init__(self) -> None:
        self.uploads: dict[bytes, Upload] = {}
        self.stored: dict[bytes, bytes] = {}
        self.tasks: list[bytes | None] = []
        self.chunks_put = 0

    def put(self, data: bytes) -> None:
        self.stored[compute_content_hash(data)] = data

    def begin(self, content: bytes) -> dict[str, object]:
        size, hashes, task = msgpack.unpackb(content)
        assert len(hashes) == count_chunks(size)
        self.tasks.append(task)
        payload_hash = compute_root_of_hashes([Hash(each) for each in hashes])
        if payload_hash not in self.stored:
            self.uploads.setdefault(payload_hash, Upload(size, hashes))
        shown = self.show(payload_hash)
        assert shown is not None
        return shown

    def show(self, payload_hash: bytes) -> dict[str, object] | None:
        if payload_hash in self.stored:
            return {
                "payload_hash": payload_hash,
                "size": len(self.stored[payload_hash]),
                "missing": (),
                "is_complete": True,
                "announced_power": 10,
                "total_power": 40,
            }
        upload = self.uploads.get(payload_hash)
        if upload is None:
            return None
        missing = upload.missing
        return {
            "payload_hash": payload_hash,
            "size": upload.size,
            "missing": missing,
            "is_complete": False,
        }

    def take(self, payload_hash: bytes, index: int, chunk: bytes) -> str | None:
        """Take a chunk; the code of what is wrong with it otherwise."""
        if payload_hash in self.stored:
            return None
        upload = self.uploads.get(payload_hash)
        if upload is None:
            return "not_found"
        assert len(chunk) == get_chunk_size(upload.size, index)
        if compute_chunk_hash(chunk) != upload.hashes[index]:
            return "payload_mismatch"
        self.chunks_put += 1
        upload.chunks[index] = chunk
        if not upload.missing:
            self.put(b"".join(upload.chunks[i] for i in range(len(upload.hashes))))
            del self.uploads[payload_hash]
        return None
