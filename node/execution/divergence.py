"""What is written down when this node computes another result than the network has decided.

Owns the folder of such reports, one for each block, and what stands in them: enough to find the
cause elsewhere, and no secret. Never decides what follows: the node stops.
"""

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec
from quorate.chain.block import APP_VERSION, BLOCK_VERSION, Block
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, StorageError
from quorate.chain.vote import Commit

from ledger.result import ExecutionResult
from node.execution.chain_position import ChainPosition
from node.views import to_view
from store.disk import TEMPORARY_SUFFIX, make_folder, replace_file, sync_folder, translated_errors

REDACTED: Final = "[redacted]"
_PACKAGES: Final = ("quorate-node", "quorate", "numpy", "msgspec", "msgpack", "pynacl", "plyvel")
_SECRET_SETTING: Final = re.compile(
    r"^(\s*\w*(?:token|secret|password|passphrase|seed)\w*\s*=).*$", re.MULTILINE
)
_HASH_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class Divergence:
    """A decided block that is invalid here.

    Attributes
    ----------
    commit : Commit
        The network's proof.
    position : ChainPosition
        Where the chain stands here: what the block was executed on.
    raw : bytes or None
        The block, if its parts are here.
    reason : str
        Why it is invalid here.
    result : ExecutionResult or None
        What executing it came to, if it came to its end.
    """

    commit: Commit
    position: ChainPosition
    raw: bytes | None
    reason: str
    result: ExecutionResult | None


class DivergenceReports:
    """A folder with a report for each divergence.

    Parameters
    ----------
    folder : Path
        Created with the first report.
    settings : str
        The node's settings, as in its file; what is named like a secret is left out.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self._folder = folder
        self._settings = _SECRET_SETTING.sub(rf'\1 "{REDACTED}"', settings)

    def write(self, divergence: Divergence) -> Path:
        """Write a report, durably, and return its folder; one that is there already is kept.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        commit = divergence.commit
        name = f"divergence-{commit.height}-{commit.block_id.hash.hex()[:_HASH_CHARS]}"
        target = self._folder / name
        if target.exists():
            return target
        make_folder(self._folder)
        unfinished = target.with_name(name + TEMPORARY_SUFFIX)
        with translated_errors(unfinished):
            shutil.rmtree(unfinished, ignore_errors=True)
        make_folder(unfinished)
        for file_name, content in self._render(divergence).items():
            replace_file(unfinished / file_name, content)
        with translated_errors(target):
            unfinished.rename(target)
            sync_folder(self._folder)
        return target

    def _render(self, divergence: Divergence) -> dict[str, bytes]:
        files = {
            "report.json": _to_json(_describe(divergence)),
            "commit.bin": encode(divergence.commit),
            "config.toml": self._settings.encode(),
        }
        if divergence.raw is not None:
            files["block.bin"] = divergence.raw
        result = divergence.result
        if result is not None:
            files["receipts.bin"] = encode(result.receipts)
            files["receipts.json"] = _to_json(to_view(result.receipts))
            writes = {
                key.hex(): None if value is None else value.hex()
                for key, value in sorted(result.writes.items())
            }
            files["state_writes.json"] = _to_json(writes)
        return files


def get_versions() -> dict[str, str]:
    """Return the versions of everything that a result may depend on."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Run from its folder, without being installed.
            found[package] = "unpackaged"
    return found


def _describe(divergence: Divergence) -> Mapping[str, object]:
    position, result, commit = divergence.position, divergence.result, divergence.commit
    return {
        "reason": divergence.reason,
        "height": commit.height,
        "round": commit.round,
        "block_id": to_view(commit.block_id),
        "header": _read_header(divergence.raw),
        "computed_here": None
        if result is None
        else {
            "state_root": result.state_root.hex(),
            "receipts_root": result.receipts_root.hex(),
            "model_root": result.model_root.hex(),
        },
        "before": {
            "height": position.height,
            "state_root": position.state_root.hex(),
            "model_root": position.model_root.hex(),
            "validators_root": position.validators.root.hex(),
        },
        "versions": get_versions() | {"block": str(BLOCK_VERSION), "app": str(APP_VERSION)},
    }


def _read_header(raw: bytes | None) -> object:
    if raw is None:
        return None
    try:
        return to_view(decode(Block, raw, len(raw)).header)
    except DecodeError as error:
        return str(error)


def _to_json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_report(reports: DivergenceReports | None, divergence: Divergence) -> str:
    """Write a report if there is a place for it, and return a sentence that says where it is."""
    if reports is None:
        return "Keep the data folder for a report."
    try:
        return f"What this node saw is in {reports.write(divergence)}: send it with your report."
    except StorageError as error:
        # The divergence is what the operator must hear of; that no report was written comes second.
        return f"No report could be written ({error}); keep the data folder."
