# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Items that are the same, or look the same, among many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["close_pairs", "correlations", "exact_copies"]

BANDS = 6  # of the 64 bits
BLOCK = 64  # neighbours that a hash of a crowded bucket is compared with
POPULATION = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def exact_copies(hashes: Sequence[str | None]) -> list[list[int]]:
    """Groups of two and more indices with the same hash, in order; None matches nothing."""
    groups: dict[str, list[int]] = {}
    for index, one in enumerate(hashes):
        if one is not None:
            groups.setdefault(one, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def close_pairs(hashes: npt.NDArray[np.uint64], distance: int = 3) -> npt.NDArray[np.int64]:
    """Pairs of indices whose 64-bit hashes differ in at most ``distance`` (up to 3) bits.

    The bits are cut into six bands. A pair that differs in three bits agrees in three bands at least, so hashes are
    sorted by every choice of three bands and compared with those of equal key only. Where more than 64 hashes share
    a key, each is compared with the next 64.

    Args:
        hashes: ``N`` uint64.
        distance: bits.

    Returns:
        ``M 2``, the smaller index first, sorted, each pair once.

    Raises:
        ValueError: for a distance beyond what the bands can find.
    """
    if not 0 <= distance <= BANDS - 3:
        raise ValueError(f"distance must lie in 0..{BANDS - 3}, got {distance}; more bits need more bands")
    bands = np.array_split(np.arange(64, dtype=np.uint64), BANDS)
    masks = [np.uint64(sum(1 << int(bit) for bit in band)) for band in bands]
    count = np.int64(len(hashes))
    found = np.zeros(0, dtype=np.int64)  # first index · count + second: numbers sort faster than pairs
    for chosen in combinations(masks, BANDS - 3):
        mask = np.bitwise_or.reduce(np.array(chosen))
        found = np.union1d(found, _pairs_of_equal(hashes & mask, hashes, distance))
    return np.stack(np.divmod(found, max(count, 1)), axis=1)


def _pairs_of_equal(
    keys: npt.NDArray[np.uint64], hashes: npt.NDArray[np.uint64], distance: int
) -> npt.NDArray[np.int64]:
    """Compare every hash with the next one, the one after that, and so on, as long as any key is still equal."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    found = [np.zeros(0, dtype=np.int64)]
    first = np.arange(len(keys))
    for step in range(1, min(BLOCK, len(keys) - 1) + 1):
        first = first[first + step < len(keys)]
        first = first[keys[first] == keys[first + step]]  # keys are sorted: what differs here differs further on
        if not len(first):
            break
        one, other = order[first], order[first + step]
        differing = POPULATION[(hashes[one] ^ hashes[other])[:, None].view(np.uint8)].sum(axis=1)
        one, other = one[differing <= distance], other[differing <= distance]
        found.append(np.minimum(one, other) * len(keys) + np.maximum(one, other))
    return np.concatenate(found)


def correlations(
    grids: npt.NDArray[np.uint8], pairs: npt.NDArray[np.int64], part: int = 4096
) -> npt.NDArray[np.float64]:
    """Pearson correlation of pictures.

    Args:
        grids: ``N P`` grey values of one size.
        pairs: ``M 2`` indices.
        part: pairs computed at once.

    Returns:
        ``M``; -1 where a picture is constant and has no correlation.
    """
    result = np.full(len(pairs), -1.0)
    for start in range(0, len(pairs), part):
        chosen = pairs[start : start + part]
        one, other = (grids[chosen[:, side]].astype(np.float32) for side in (0, 1))
        one -= one.mean(axis=1, keepdims=True)
        other -= other.mean(axis=1, keepdims=True)
        norm = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
        varied = norm > 0
        result[start : start + part][varied] = (one * other).sum(axis=1)[varied] / norm[varied]
    return result
