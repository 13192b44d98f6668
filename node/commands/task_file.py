"""Files of arrays that a person trains: weights and updates.

Owns their reading, and the sentences about mistakes in them. Never sends anything, and never
unpickles: arrays are read as numbers or not at all.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from quorate.chain.errors import QuorateError
from quorate.chain.task import TaskSpec
from quorate.errors import EncodingError
from quorate.fixed_point import Array, ModelSchema
from quorate.payload_source import PayloadData
from quorate.update_encoding import encode_update


class InputFileError(QuorateError):
    """A file that a command was given and that cannot be used."""


@contextmanager
def told_by_name(path: Path) -> Iterator[None]:
    """Name the file that arrays come from in what is said about them.

    Raises
    ------
    EncodingError
        The one that is raised within, after the file's name.
    """
    try:
        yield
    except EncodingError as error:
        raise EncodingError(f"{path}: {error}") from error


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a ``.npz`` file by their names, or the one of a ``.npy`` file as "0".

    Raises
    ------
    InputFileError
        If it cannot be read, or holds anything but numbers.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"0": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise InputFileError(f"There is no file {path}.") from None
    # An empty file is numpy's EOFError, and damaged compression zlib's own.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # numpy's ValueErrors advise to unpickle the file, which nothing here ever does.
        reason = "" if isinstance(error, ValueError) else f" ({error})"
        raise InputFileError(
            f"{path} cannot be read as arrays of numbers{reason}: write it with numpy.savez or "
            "numpy.save."
        ) from error


def read_update(path: Path, spec: TaskSpec) -> tuple[PayloadData, int]:
    """Return an update from a file, encoded, and how many of its numbers did not fit.

    Parameters
    ----------
    path : Path
        ``.npz``: the differences by the tensors' names; ``.npy``: all of them in one vector;
        anything else: the bytes of the task's codec, as the chain takes them; those stay in the
        file.
    spec : TaskSpec
        The task's.

    Raises
    ------
    InputFileError, EncodingError
        If the file cannot be used, or does not fit the task.
    """
    schema, layout = ModelSchema.from_spec(spec), spec.update_layout
    if path.suffix not in (".npz", ".npy"):
        size = measure_file(path)
        if size != layout.size:
            raise InputFileError(
                f"{path} has {size} bytes; {layout.dimension} parameters take "
                f"{layout.size} in {layout.codec.name.lower()}. Accepted are .npz with arrays by "
                "tensor, .npy with one vector, and otherwise the codec's own bytes, "
                "little-endian."
            )
        return path, 0
    arrays = read_arrays(path)
    if path.suffix == ".npy" and list(arrays) != ["0"]:
        raise InputFileError(
            f"{path} has the arrays {', '.join(arrays)} by name: call it .npz, or write one "
            "vector with numpy.save."
        )
    with told_by_name(path):
        if path.suffix == ".npy":
            parts = schema.unflatten(arrays["0"].reshape(-1))
        else:
            parts = pick_tensors(path, arrays, schema)
        encoded = encode_update(schema, layout, parts)
    return encoded.data, encoded.saturated


def pick_tensors(path: Path, arrays: dict[str, Array], schema: ModelSchema) -> list[Array]:
    """Return a file's arrays in the order of a task's tensors.

    Raises
    ------
    InputFileError
        If one is missing or too many.
    """
    names = [tensor.name for tensor in schema.tensors]
    if sorted(names) != sorted(arrays):
        raise InputFileError(
            f"{path} has the arrays {', '.join(arrays)}; the task's tensors are {', '.join(names)}."
        )
    return [arrays[name] for name in names]


def measure_file(path: Path) -> int:
    """Return how many bytes a file has.

    Raises
    ------
    InputFileError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:  # A folder has a size, too, and cannot be opened.
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise InputFileError(f"There is no file {path}.") from None
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}.") from error


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Return what a file holds.

    Raises
    ------
    InputFileError
        If it cannot be read or is longer.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise InputFileError(f"There is no file {path}.") from None
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}.") from error
    if len(raw) > bytes_max:
        raise InputFileError(f"{path} has more than {bytes_max} bytes: it is another file.")
    return raw
