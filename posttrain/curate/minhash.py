"""MinHash signatures and their bands: which of many sets may be alike, without comparing each with each.

Source: Broder 1997 (minima of hashed sets), Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3 (bands).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import xxhash
from numpy.typing import NDArray

NUM_HASHES = 128
MAX_MISSED = 0.01
"""Probability that a pair exactly at the threshold shares no band; pairs above it are missed less often."""

Shingles = NDArray[np.uint32]


def shingles(pieces: Sequence[str], n: int) -> Shingles:
    """32-bit hashes of all runs of `n` pieces, sorted, each once; of all pieces together where there are fewer than n."""
    runs = [pieces] if len(pieces) < n else [pieces[start : start + n] for start in range(len(pieces) - n + 1)]
    return np.unique(np.array([xxhash.xxh32_intdigest("\x00".join(run).encode("utf-8", "replace")) for run in runs], np.uint32))


@cache
def _functions(seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    factors, offsets = (rng.integers(0, 2**64, (NUM_HASHES, 1), np.uint64) for _ in range(2))
    return factors, offsets


def signature(hashes: Shingles, seed: int) -> NDArray[np.uint32]:
    """The smallest value of each of 128 random hash functions over the set; two signatures agree in a share like their Jaccard's.

    The functions are (a * x + b) mod 2^64 >> 32 with random a, b: two-universal on 32-bit x (Dietzfelbinger 1996).
    """
    factors, offsets = _functions(seed)
    values = (factors * hashes.astype(np.uint64)[None, :] + offsets) >> np.uint64(32)
    smallest: NDArray[np.uint32] = values.min(axis=1).astype(np.uint32)
    return smallest


@cache
def rows_per_band(threshold: float) -> int:
    """The longest band with which at most MAX_MISSED of the pairs at `threshold` are missed: (1 - t^r)^(128 / r)."""
    fitting = [r for r in range(1, NUM_HASHES + 1) if (1 - threshold**r) ** (NUM_HASHES // r) <= MAX_MISSED]
    return max(fitting, default=1)


def bands(one: NDArray[np.uint32], threshold: float) -> list[bytes]:
    """The signature cut into bands, each with its place: sets that have one in common may be alike."""
    size = rows_per_band(threshold)
    starts = range(0, NUM_HASHES - size + 1, size)
    return [start.to_bytes(2) + one[start : start + size].tobytes() for start in starts]


def jaccard(a: Shingles, b: Shingles) -> float:
    """|a and b| / |a or b| of two sorted sets; 1.0 for two empty ones."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    either = len(a) + len(b) - both
    return both / either if either else 1.0
