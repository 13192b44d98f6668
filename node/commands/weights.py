"""``weights``: download and verification of finalized weights.

Owns where they are written and how a verification is told. Never trusts a node for what the
chain's validators have signed.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from quorate.chain.errors import QuorateError
from quorate.chain.genesis import Genesis
from quorate.chain.weights import WEIGHT_BYTES
from quorate.client import Client
from quorate.errors import VerificationError, VerificationStep
from quorate.fixed_point import ModelSchema
from quorate.genesis_file import read_genesis
from quorate.procedures import get_weights_proof
from quorate.progress import ProgressBar
from quorate.verification import VerifiedWeights, verify_weights
from quorate.weights_file import StoredWeights, file_named

from node.commands.printing import Printer, Value
from node.commands.settings import (
    NodeOption,
    OutputOption,
    get_node_url,
    get_printer,
    open_client,
)
from node.commands.task_file import (
    InputFileError,
    measure_file,
    pick_tensors,
    read_arrays,
    read_bytes,
    told_by_name,
)
from node.commands.tasks import TaskArgument
from node.failures import describe_failure
from store.disk import TEMPORARY_SUFFIX

BEHIND_SECONDS_MAX: Final = 30.0
"""How long the node that is asked for the commit may be behind the other."""

RAW_SUFFIX: Final = ".int32"
"""The end of the name of what is downloaded for an archive, until that is written."""

EARLIER_HINT: Final = (
    "The file was compared with the latest weights: if it holds earlier ones, name the block that "
    "`quorate weights get` told as their height, with --height."
)

app = typer.Typer(no_args_is_help=True, help="Download and verify finalized weights.")

GenesisOption = Annotated[
    Path | None,
    typer.Option(
        "--genesis",
        metavar="FILE",
        help="The genesis document to trust.  [default: the one of the other node]",
    ),
]
CommitFromOption = Annotated[
    str | None,
    typer.Option("--commit-from", metavar="URL", help="Another node's RPC, to ask for the commit."),
]


HeightOption = Annotated[
    int | None,
    typer.Option("--height", min=1, help="The weights as of this block.  [default: the latest]"),
]
FromOption = Annotated[
    list[str] | None,
    typer.Option(
        "--from", metavar="URL", help="A further node's RPC to take chunks from; may be repeated."
    ),
]


@app.command()
def get(
    context: typer.Context,
    task: TaskArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Where to: .npz as arrays by tensor, else the chain's int32."
        ),
    ],
    *,
    height: HeightOption = None,
    others: FromOption = None,
    commit_from: CommitFromOption = None,
    genesis: GenesisOption = None,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Download weights and verify them.

    The finalized ones of a task; more than two thirds of the validators' power must have signed
    the block that they are in. An interrupted download goes on where it ended. A node that fails
    is told on standard error, and the others go on.
    """
    printer, failed = get_printer(context, output), dict[str, QuorateError]()
    file = file.expanduser()
    is_archive = file.suffix == ".npz"
    raw = file.with_name(file.name + RAW_SUFFIX) if is_archive else file
    with ExitStack() as stack:
        client, source = stack.enter_context(_connect(get_node_url(context, node), commit_from))
        # After the bar's line has ended, and however the download ends.
        stack.callback(_tell_left_out, printer, failed)
        bar = stack.enter_context(ProgressBar())
        stored = client.download_weights(
            task,
            raw,
            height=height,
            trusted=(trusted := _get_trusted(genesis, source)),
            commit_from=source,
            others=[stack.enter_context(open_client(url)) for url in others or ()],
            progress=bar.show,
            left_out=failed.setdefault,
        )
    if is_archive:
        _write_archive(file, stored)
        raw.unlink()
    record = _describe(stored, trusted, file)
    if stored.bytes_kept or printer.is_json:  # Programs find the same keys each time.
        record["bytes_kept"] = stored.bytes_kept
    printer.print_record(record)


@app.command()
def verify(
    context: typer.Context,
    task: TaskArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that `quorate weights get` wrote.")
    ],
    *,
    height: HeightOption = None,
    commit_from: CommitFromOption = None,
    genesis: GenesisOption = None,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Verify a file of weights.

    It must hold the finalized weights of a task, as the validators have signed them.
    """
    printer = get_printer(context, output)
    with _connect(get_node_url(context, node), commit_from) as (client, source):
        found = client.task(task)
        trusted = _get_trusted(genesis, source)
        data = _read(file.expanduser(), ModelSchema.from_spec(found.spec))
        proof = client.run(
            get_weights_proof(client.endpoint, source.endpoint, found, height, BEHIND_SECONDS_MAX),
            others=(source,),
        )
        try:
            verified = verify_weights(data, proof, trusted, task_id=found.task_id)
        except VerificationError as error:
            if error.step is VerificationStep.WEIGHTS and height is None:
                printer.note(EARLIER_HINT)
            raise
    printer.print_record(_describe(verified, trusted, file))


@contextmanager
def _connect(url: str, commit_from: str | None) -> Iterator[tuple[Client, Client]]:
    """Yield the node that is asked for weights, and the one that is asked for the commit."""
    with ExitStack() as stack:
        client = stack.enter_context(open_client(url))
        if commit_from is None:
            yield client, client
        else:
            yield client, stack.enter_context(open_client(commit_from))


def _tell_left_out(printer: Printer, failed: Mapping[str, QuorateError]) -> None:
    """Tell of each node that chunks were not taken from any more, and why."""
    for url, reason in failed.items():
        printer.note(f"Left out {url}: {describe_failure(reason)}")


def _get_trusted(genesis: Path | None, source: Client) -> Genesis:
    return source.genesis() if genesis is None else read_genesis(genesis.expanduser())


def _write_archive(file: Path, stored: StoredWeights) -> None:
    """Write weights as real numbers, by tensor, one tensor in memory at a time."""
    schema = ModelSchema.from_spec(stored.spec)
    temporary = file.with_name(file.name + TEMPORARY_SUFFIX)
    try:
        with (
            file_named(temporary),
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for tensor, integers in zip(schema.tensors, stored.arrays, strict=True):
                array = np.ldexp(integers, -tensor.weight_fraction_bits)
                with archive.open(f"{tensor.name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _read(file: Path, schema: ModelSchema) -> bytes:
    """Return the chain's form of weights in a file; float64 holds it without loss.

    Raises
    ------
    VerificationError, InputFileError, EncodingError
        If the file is too short; if it is too long or cannot be read; if its arrays do not fit.
    """
    if file.suffix == ".npz":
        arrays = read_arrays(file)
        with told_by_name(file):
            return schema.encode_weights(pick_tensors(file, arrays, schema)).data
    size = WEIGHT_BYTES * schema.dimension
    found = measure_file(file)
    if found > size:  # It may be anything, and is not read.
        raise InputFileError(
            f"The weights are not verified: {_describe_length(file, found, schema)}."
        )
    data = read_bytes(file, size)
    if len(data) < size:
        raise VerificationError(VerificationStep.WEIGHTS, _describe_length(file, len(data), schema))
    return data


def _describe_length(file: Path, found: int, schema: ModelSchema) -> str:
    return (
        f"{file} has {found} bytes; {schema.dimension} parameters take "
        f"{WEIGHT_BYTES * schema.dimension} as the chain's int32, little-endian. With another "
        "ending than .npz a file holds those, as `quorate weights get` writes them"
    )


def _describe(
    verified: VerifiedWeights | StoredWeights, trusted: Genesis, file: Path
) -> dict[str, Value]:
    return {
        "verified": True,
        "task_id": verified.task_id,
        "weights_root": verified.weights_root,
        "chain_id": verified.chain_id,
        "height": verified.height,
        "block_hash": verified.block_hash,
        "genesis_hash": trusted.hash,
        "file": str(file),
    }
