"""Which rows belong together, and how a table is cut so that they stay together."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

__all__ = ["blocks_of", "cut", "row_keys"]

_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def row_keys(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each row (n, d) of float32: the same for equal rows, others by a chance of one in 2^64 per pair."""
    keys = np.full(len(rows), 0xCBF29CE484222325, np.uint64)
    for column in np.asarray(rows, np.float32).T:
        column = np.where(np.isnan(column), np.float32(np.nan), column + np.float32(0.0))  # -0 and 0 are equal
        bits = column.view(np.uint32).astype(np.uint64)
        keys = (keys ^ (bits * _MIX)) * _PRIME
        keys ^= keys >> np.uint64(29)
    return keys


def blocks_of(keys: NDArray[np.uint64], groups: NDArray[np.int64] | None = None) -> NDArray[np.intp]:
    """A block for each row, counted from 0: equal rows are in one block, and so are rows of one group."""
    first = _numbered(keys)
    if groups is None:
        return first
    second = _numbered(groups)
    n_first, n = int(first.max()) + 1, len(keys)
    size = n_first + int(second.max()) + 1
    edges = coo_matrix((np.ones(n, bool), (first, n_first + second)), shape=(size, size))
    labels = connected_components(edges, directed=False)[1]
    return _numbered(labels[first])


def _numbered(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Labels by the order in which they first appear, so that what is done with them does not hang on their values."""
    _, where, inverse = np.unique(labels, return_index=True, return_inverse=True)
    numbers: NDArray[np.intp] = where.argsort().argsort()[inverse]
    return numbers


def cut(blocks: NDArray[np.intp], shares: list[int], seed: int) -> NDArray[np.intp]:
    """Cut rows at random into parts of about some sizes, with no block in two parts: the part of each row.

    Blocks stand in a row in random order, and a block belongs to the part that its middle falls into; those that are
    larger than the smallest part go to the largest. Parts without any are given the smallest blocks of the part that
    has most of them, as long as there are.
    """
    sizes, wanted = np.bincount(blocks), np.array(shares, dtype=np.int64)
    part = np.full(len(sizes), int(wanted.argmax()))
    large = sizes > wanted.min()
    wanted[wanted.argmax()] -= min(wanted.max(), sizes[large].sum())
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~large))
    middles = np.cumsum(sizes[order]) - 0.5 * sizes[order]
    part[order] = np.minimum(np.searchsorted(np.cumsum(wanted), middles), len(shares) - 1)
    for empty in np.setdiff1d(np.arange(len(shares)), part):
        full = np.flatnonzero(part == np.bincount(part).argmax())
        if len(full) > 1:
            part[full[np.argmin(sizes[full])]] = empty
    return part[blocks]
