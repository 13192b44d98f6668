"""Bucketing: the updates become the means of small random groups (pre-aggregation).

Owns the permutation, the buckets, and their means. Never draws a random number: the permutation
follows from a seed, which the chain takes from a block before the one that aggregates.

Formula::

    pi  = the indexes 0..n-1, ordered by SHA-256("quorate-bucketing" | seed | i as 4 bytes)
    y_k = round( mean of u_pi(s k), ..., u_pi(min(s k + s, n) - 1) ),  k = 0..ceil(n / s) - 1

Symbols: n updates, s = `bucket_size` (2 if that is 0), halves rounded away from 0. The last bucket
may be smaller; its sum is divided by the number of updates in it, not by s, which would shrink it.

At most f buckets hold a hostile update, so what follows sees n' = ceil(n / s) updates of which f
may be hostile.

Bounds: |u| < 2^15 and s <= 2^12, so sums stay below 2^27 in int32.

Precondition: that of the stages behind it, for n'.

Source: Karimireddy, He, Jaggi, arXiv:2006.09365, Algorithm 1.
"""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from aggregation.columns import BlockRoom, ColumnSource
from aggregation.trimmed_mean import compute_rows_mean

BUCKET_SIZE_DEFAULT = 2
_DOMAIN = b"quorate-bucketing"


class BucketedSource:
    """The means of the buckets of a source's updates."""

    def __init__(self, source: ColumnSource, buckets: Sequence[Sequence[int]]) -> None:
        """Wrap a source.

        Parameters
        ----------
        source : ColumnSource
        buckets : sequence of sequences of int
            The indexes of each bucket's updates.
        """
        self.n_updates = len(buckets)
        self.rows_read = source.rows_read
        self.dimension = source.dimension
        self._source = source
        self._buckets = buckets
        self._room = BlockRoom()

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return columns start..stop of the buckets' means; see `ColumnSource.read`."""
        rows = self._source.read(start, stop)
        block = self._room.view(self.n_updates, stop - start)
        for mean, bucket in zip(block, self._buckets, strict=True):
            mean[:] = compute_rows_mean([rows[index] for index in bucket])
        return block


def bucket_updates(
    source: ColumnSource, bucket_size: int, seed: bytes
) -> tuple[ColumnSource, list[int]]:
    """Return a source of the buckets' means, and each update's bucket.

    Parameters
    ----------
    source : ColumnSource
    bucket_size : int
        s, or 0 for `BUCKET_SIZE_DEFAULT`.
    seed : bytes
        What nobody could choose.

    Returns
    -------
    bucketed : ColumnSource
    places : list of int, (n,)
    """
    size = bucket_size or BUCKET_SIZE_DEFAULT
    order = compute_permutation(source.n_updates, seed)
    buckets = [order[start : start + size] for start in range(0, len(order), size)]
    places = [0] * len(order)
    for place, bucket in enumerate(buckets):
        for index in bucket:
            places[index] = place
    return BucketedSource(source, buckets), places


def compute_permutation(n_updates: int, seed: bytes) -> list[int]:
    """Return the indexes 0..n-1 in the order that a seed gives them; see the module's formula."""
    return sorted(
        range(n_updates), key=lambda i: sha256(_DOMAIN + seed + i.to_bytes(4, "big")).digest()
    )


def compute_bucket_count(n_updates: int, bucket_size: int) -> int:
    """Return n' = ceil(n / s)."""
    return -(-n_updates // (bucket_size or BUCKET_SIZE_DEFAULT))


def compute_members_min(bucket_count: int, bucket_size: int) -> int:
    """Return the smallest n for which there are so many buckets."""
    return (bucket_count - 1) * (bucket_size or BUCKET_SIZE_DEFAULT) + 1
