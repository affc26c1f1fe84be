"""p-values by exchange: what a product sum could have been had nothing been related.

Every test here is of T = sum of a * b over rows: Pearson's r, Spearman's rho (a, b ranks) and
AUROC (a ranks, b labels) are T up to constants that an exchange leaves as they are. Two-sided,
p = (1 + number of |T*| >= |T|) / (1 + number drawn): never 0, and valid for any number drawn.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr

CHUNK = 2_000_000
"""Numbers of one array of permuted values."""


class PValue(NamedTuple):
    """A p-value, or NaN with the reason, and how it came about."""

    p: float
    method: str
    reason: str = ""


def centred(
    values: Float[np.ndarray, " row"], strata: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " row"]:
    """Values minus the mean of their stratum."""
    size = np.maximum(np.bincount(strata), 1)
    return values - (np.bincount(strata, values) / size)[strata]


def permutation_test(
    a: Float[np.ndarray, " row"],
    b: Float[np.ndarray, " row"],
    strata: Int[np.ndarray, " row"],
    n_permutations: int,
    rng: np.random.Generator,
) -> PValue:
    """Exact test that b is exchangeable inside each stratum, whatever a is.

    b is permuted inside strata; T = sum of (a - its stratum's mean) b, so that T* has mean 0.
    NaN where nothing can change: every stratum has one row, or a constant in it. Where items of
    one word resemble each other and the word is not a stratum, they are not exchangeable and p
    is too small: see `cluster_sign_flip_test`.

    Source: Pitman (1937); Phipson and Smyth (2010) for the 1 + .
    """
    method = f"permutation of items inside strata, {n_permutations} drawn"
    a = centred(a, strata)
    order = np.argsort(strata, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)
    parts = [part for part in parts if np.ptp(a[part]) > 0 and np.ptp(b[part]) > 0]
    if not parts:
        return PValue(math.nan, method, "no stratum has two rows that differ")
    if not n_permutations:
        return PValue(math.nan, method, "no permutations were asked for")
    total = sum(float(a[part] @ b[part]) for part in parts)
    drawn = np.zeros(n_permutations)
    for part in parts:
        chunk = max(1, CHUNK // len(part))
        for done in range(0, n_permutations, chunk):
            n = min(chunk, n_permutations - done)
            shuffled = rng.permuted(np.tile(b[part], (n, 1)), axis=1)
            drawn[done : done + n] += shuffled @ a[part]
    rounding = 1e-12 * math.sqrt(float(a @ a) * float(b @ b))
    hits = int((np.abs(drawn) >= abs(total) - rounding).sum())
    return PValue((1 + hits) / (1 + n_permutations), method)


def cluster_sign_flip_test(
    a: Float[np.ndarray, " row"],
    b: Float[np.ndarray, " row"],
    clusters: Int[np.ndarray, " row"],
    strata: Int[np.ndarray, " row"],
    n_flips: int,
    rng: np.random.Generator,
) -> PValue:
    """Test that a and b are uncorrelated inside strata, where items of a cluster may be alike.

    Each cluster adds S_g = sum over its rows of a * b, both centred inside strata. Were there no
    correlation, each S_g could as well have had the other sign. An approximation that needs some
    twenty clusters (the centring is estimated), but no equal sizes.

    Source: Kline and Santos (2012), the wild score bootstrap with Rademacher weights.
    """
    added = np.bincount(clusters, centred(a, strata) * centred(b, strata))
    return sign_flip_test(added, n_flips, rng, what="whole clusters' scores")


def sign_flip_test(
    added: Float[np.ndarray, " cluster"],
    n_flips: int,
    rng: np.random.Generator,
    *,
    what: str = "whole clusters",
) -> PValue:
    """Two-sided test that independent contributions are symmetric around 0.

    All 2^n patterns of signs are tried where they are no more than ``n_flips``: p is then exact.
    """
    p, method = sign_flip_p(added[:, None], n_flips, rng)
    method = method.replace("sign-flips", f"sign-flips of {what}")
    if len(added) < 2:
        return PValue(math.nan, method, "one cluster")
    if not n_flips:
        return PValue(math.nan, method, "no permutations were asked for")
    return PValue(float(p[0]), method)


def sign_flip_p(
    added: Float[np.ndarray, "cluster cell"], n_flips: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " cell"], str]:
    """The p of `sign_flip_test` for many cells, with the same signs in all of them."""
    n, cells = added.shape
    total = np.abs(added.sum(axis=0))
    rounding = 1e-12 * np.abs(added).sum(axis=0)
    hits = np.zeros(cells)
    # A pattern and its opposite give the same |T|: half of them are enough.
    exact = n_flips > 0 and 2 ** min(n - 1, 60) <= n_flips
    if exact:
        patterns = itertools.product((1.0, -1.0), repeat=n - 1)
        signs = np.array([(1.0, *pattern) for pattern in patterns])
        hits = (np.abs(signs @ added) >= total - rounding).sum(axis=0)
        return hits / len(signs), f"all {2 * len(signs)} sign-flips"
    chunk = max(1, CHUNK // max(n, cells))
    for done in range(0, n_flips, chunk):
        size = (min(chunk, n_flips - done), n)
        signs = rng.integers(2, size=size) * 2.0 - 1.0
        hits += (np.abs(signs @ added) >= total - rounding).sum(axis=0)
    return (1 + hits) / (1 + n_flips), f"{n_flips} sign-flips"


def normal_p(z: float) -> float:
    """Two-sided p of a standard normal deviate; NaN for NaN."""
    return float(2 * ndtr(-abs(z)))
