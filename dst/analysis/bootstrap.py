"""Cluster bootstrap: what a number could have been had other words been drawn.

A resample is a row of weights: how often each row of data was drawn. A statistic takes such
weights [resample row] and gives one number, or one map of numbers, per resample; the number
itself is the statistic of weights that are all 1. So nothing loops over resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import ndtr, ndtri

from dst.core.errors import InputError
from dst.core.statistics_results import Interval

Statistic = Callable[[Float[np.ndarray, "resample row"]], Float[np.ndarray, "resample *map"]]

DEGENERATE = 0.05
"""Largest share of undefined resamples: above it, an interval would be one of the lucky rest."""

FEW_CLUSTERS = 10
"""Below this many clusters, bootstrap intervals are known to be too short; a note says so."""

BLOCKS = 2000
"""Most jackknife values: more than that many clusters are left out in random blocks."""

CHUNK = 2_000_000
"""Numbers of one array of weights: small enough for a cache, large enough not to loop."""


@dataclass(frozen=True)
class Resampling:
    """How intervals and p-values are drawn; the same settings and rows give the same numbers.

    Attributes:
        n_resamples: Bootstrap resamples; 0 for no interval.
        n_permutations: Permutations or sign-flips; 0 for no p-value.
        items: Whether items are drawn again inside each drawn cluster (METHOD 9), not only
            clusters. Drawing both counts the spread inside clusters twice, so the interval is
            too wide where clusters hardly differ, at most by a factor of sqrt(2); drawing
            clusters alone is the standard choice of survey statistics.
        level: Level of the intervals.
        seed: Seed of everything drawn.
    """

    n_resamples: int = 10_000
    n_permutations: int = 10_000
    items: bool = True
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InputError(f"The level is {self.level}", expected="a share between 0 and 1")
        for name in ("n_resamples", "n_permutations"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}", expected="0 or more")

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator per purpose, so that asking for no p-value changes no interval."""
        return np.random.default_rng([self.seed, purpose])


DEFAULT = Resampling()


def resample_weights(
    clusters: Int[np.ndarray, " row"],
    n_resamples: int,
    rng: np.random.Generator,
    *,
    items: bool = True,
    width: int = 1,
) -> Iterator[Float[np.ndarray, "resample row"]]:
    """How often each row is drawn: clusters with replacement, then as many items in each.

    Args:
        clusters: Code of each row's cluster, ascending from 0.
        n_resamples: How many resamples, given in chunks.
        rng: What draws.
        items: Whether the items of a drawn cluster are drawn again, with replacement.
        width: Numbers per weight that the statistic holds at once: chunks shrink by it.
    """
    n, size = len(clusters), np.bincount(clusters)
    n_clusters, start = len(size), np.concatenate([[0], np.cumsum(size)[:-1]])
    chunk = max(1, CHUNK // (n * width))
    for done in range(0, n_resamples, chunk):
        b = min(chunk, n_resamples - done)
        chosen = rng.integers(n_clusters, size=(b, n_clusters))
        if items and size.max() > 1:
            drawn = size[chosen]
            sizes = drawn.ravel()
            each = np.repeat(sizes, sizes)
            row = np.repeat(start[chosen].ravel(), sizes)
            row += (rng.random(len(row)) * each).astype(np.int64)
            flat = np.repeat(np.arange(b) * n, drawn.sum(axis=1)) + row
            yield np.bincount(flat, minlength=b * n).reshape(b, n).astype(np.float64)
        else:
            flat = (np.arange(b)[:, None] * n_clusters + chosen).ravel()
            counts = np.bincount(flat, minlength=b * n_clusters).reshape(b, n_clusters)
            yield counts[:, clusters].astype(np.float64)


def jackknife_weights(
    clusters: Int[np.ndarray, " row"], rng: np.random.Generator, *, width: int = 1
) -> Iterator[Float[np.ndarray, "block row"]]:
    """Weights that leave out one cluster each; with very many, one of `BLOCKS` random blocks."""
    n_blocks = int(clusters[-1]) + 1
    block = clusters
    if n_blocks > BLOCKS:
        block = (rng.permutation(n_blocks) % BLOCKS)[clusters]
        n_blocks = BLOCKS
    chunk = max(1, CHUNK // (len(clusters) * width))
    for done in range(0, n_blocks, chunk):
        left_out = np.arange(done, min(done + chunk, n_blocks))
        yield (block[None, :] != left_out[:, None]).astype(np.float64)


class Bootstrap(NamedTuple):
    """A statistic on resamples and without each cluster; NaN where it is undefined."""

    value: Float[np.ndarray, "*map"]
    resamples: Float[np.ndarray, "resample *map"]
    jackknife: Float[np.ndarray, "cluster *map"]

    @property
    def n_degenerate(self) -> int:
        """Resamples in which the statistic is undefined (anywhere, for a map)."""
        cells = tuple(range(1, self.resamples.ndim))
        return int(np.isnan(self.resamples).any(axis=cells).sum())

    def intervals(self, level: float) -> tuple[Interval, Interval]:
        """BCa and percentile interval of a single number."""
        cells = [part.reshape(-1, 1) for part in (self.resamples, self.jackknife)]
        found = bootstrap_intervals(np.reshape(self.value, 1), cells[0], cells[1], level)
        return (
            _interval(found.bca[:, 0], level, "BCa", str(found.bca_reason[0])),
            _interval(found.percentile[:, 0], level, "percentile", str(found.reason[0])),
        )


def _interval(ends: Float[np.ndarray, " end"], level: float, method: str, reason: str) -> Interval:
    return Interval(float(ends[0]), float(ends[1]), level, method, reason)


def bootstrap(
    statistic: Statistic,
    clusters: Int[np.ndarray, " row"],
    resampling: Resampling = DEFAULT,
    *,
    width: int = 1,
) -> Bootstrap:
    """A statistic on all rows, on resamples of the clusters, and without each cluster.

    Args:
        statistic: Takes weights [resample row], gives values [resample *map].
        clusters: Code of each row's cluster, ascending from 0.
        resampling: How many, how, and from which seed.
        width: Numbers per weight that the statistic holds at once.
    """
    value = np.asarray(statistic(np.ones((1, len(clusters))))[0])
    weights = resample_weights(
        clusters, resampling.n_resamples, resampling.rng(0), items=resampling.items, width=width
    )
    rng = resampling.rng(2)
    none = np.empty((0, *np.shape(value)))
    resamples = [statistic(chunk) for chunk in weights]
    left_out = (
        [statistic(chunk) for chunk in jackknife_weights(clusters, rng, width=width)]
        if resampling.n_resamples
        else []
    )
    return Bootstrap(value, np.concatenate([none, *resamples]), np.concatenate([none, *left_out]))


class Intervals(NamedTuple):
    """Intervals of several numbers at once, each NaN with a reason where there is none."""

    bca: Float[np.ndarray, "2 cell"]
    percentile: Float[np.ndarray, "2 cell"]
    bca_reason: Shaped[np.ndarray, " cell"]
    reason: Shaped[np.ndarray, " cell"]


def bootstrap_intervals(
    value: Float[np.ndarray, " cell"],
    resamples: Float[np.ndarray, "resample cell"],
    jackknife: Float[np.ndarray, "cluster cell"],
    level: float,
) -> Intervals:
    """BCa and percentile intervals from resamples, cell by cell.

    Percentile: the (1 - level)/2 and (1 + level)/2 quantiles of the resamples. BCa: quantiles
    at Phi(z0 + (z0 + z) / (1 - a (z0 + z))), with z0 = Phi^-1(share of resamples under the
    value, ties half) and a = sum d^3 / (6 (sum d^2)^1.5), d = mean of the jackknife minus it.
    Undefined resamples are left out. There is no interval for one cluster, with more than
    `DEGENERATE` undefined resamples, or where all resamples agree: a bootstrap that sees no
    spread has not seen certainty.

    Source: Efron (1987); Efron and Tibshirani (1993), chapter 14.
    """
    n, cells = resamples.shape
    reason = np.full(cells, "", dtype=object)
    count = n - np.isnan(resamples).sum(axis=0)
    ordered = np.sort(resamples, axis=0)  # NaN last
    last = np.maximum(count - 1, 0)
    low = ordered[0] if n else np.full(cells, np.nan)
    high = np.take_along_axis(ordered, last[None, :], axis=0)[0] if n else low
    scale = np.maximum(np.abs(low), np.abs(high))
    reason[~(high - low > 1e-12 * scale)] = "every resample gives the same value"
    many = count < (1 - DEGENERATE) * n
    for cell in np.flatnonzero(many):
        reason[cell] = f"{n - count[cell]} of {n} resamples are degenerate"
    if len(jackknife) < 2:
        reason[:] = "one cluster"
    if n == 0:
        reason[:] = "no resamples were asked for"
    reason[np.isnan(value)] = "the value is undefined"

    z = ndtri([(1 - level) / 2, (1 + level) / 2])[:, None]
    percentile = _quantiles(ordered, count, np.broadcast_to(ndtr(z), (2, cells)))
    percentile[:, reason != ""] = np.nan

    bca_reason = reason.copy()
    tie = np.abs(resamples - value) <= 1e-12 * np.maximum(scale, np.abs(value))
    under = ((resamples < value) & ~tie).sum(axis=0) + tie.sum(axis=0) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        z0 = ndtri(under / np.maximum(count, 1))
        away = jackknife.mean(axis=0) - jackknife if len(jackknife) else np.zeros((1, cells))
        cubes, squares = (away**3).sum(axis=0), (away**2).sum(axis=0)
        a = np.where(squares > 0, cubes / (6 * squares**1.5), 0.0)
        bend = 1 - a * (z0 + z)
        share = ndtr(z0 + (z0 + z) / bend)
    new = bca_reason == ""
    bca_reason[new & np.isinf(z0)] = "the value lies outside its resamples"
    new = bca_reason == ""
    bca_reason[new & np.isnan(a)] = "undefined without one of the clusters"
    new = bca_reason == ""
    bca_reason[new & (bend <= 0).any(axis=0)] = "the acceleration is too large"
    bca = _quantiles(ordered, count, np.where(np.isnan(share), 0.5, share))
    bca[:, bca_reason != ""] = np.nan
    return Intervals(bca, percentile, bca_reason.astype(str), reason.astype(str))


def _quantiles(
    ordered: Float[np.ndarray, "resample cell"],
    count: Int[np.ndarray, " cell"],
    share: Float[np.ndarray, "2 cell"],
) -> Float[np.ndarray, "2 cell"]:
    """Linearly interpolated quantiles of the first ``count`` sorted values of each cell."""
    if not len(ordered):
        return np.full(share.shape, np.nan)
    at = share * np.maximum(count - 1, 0)
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    left, right = (np.take_along_axis(ordered, index, axis=0) for index in (below, above))
    return left + (at - below) * (right - left)


def few(n_clusters: int) -> str:
    """The note on few clusters; "" where there are enough."""
    if not 1 < n_clusters < FEW_CLUSTERS:
        return ""
    return f"{n_clusters} clusters: intervals from so few are usually too short"


def no_interval(reason: str, level: float, method: str = "BCa") -> Interval:
    """An interval that does not exist, with its reason."""
    return Interval(math.nan, math.nan, level, method, reason)
