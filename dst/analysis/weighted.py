"""Statistics of weighted rows: one number per row of weights, where a weight of 2 is a row twice.

These are what the bootstrap resamples (`dst.analysis.bootstrap`). Each is the plain statistic of
the data in which every row stands as often as its weight says; NaN where that is undefined.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from dst.analysis.bootstrap import Statistic

NO_SPREAD = 1e-12
"""A weighted variance under this share of the variance of all rows is none."""

Weights = Float[np.ndarray, "resample row"]
Values = Float[np.ndarray, " resample"]


class Ranking:
    """Mid-ranks of one column under any weights: ties share the mean of their places."""

    def __init__(self, column: Float[np.ndarray, " row"]) -> None:
        self.order = np.argsort(column, kind="stable")
        ascending = column[self.order]
        new = np.concatenate([[True], ascending[1:] != ascending[:-1]])
        first = np.flatnonzero(new)
        self.tie = np.cumsum(new) - 1
        self.starts = first
        self.last = np.concatenate([first[1:], [len(column)]]) - 1

    def sums(self, weights: Weights) -> Float[np.ndarray, "resample tie"]:
        """Summed weights of the distinct values, ascending."""
        return np.add.reduceat(weights[:, self.order], self.starts, axis=1)

    def centred_ranks(self, weights: Weights) -> Float[np.ndarray, "resample row"]:
        """Ranks minus their weighted mean (N + 1) / 2, in the order of the rows."""
        size = self.sums(weights)
        upto = np.cumsum(size, axis=1)
        middle = upto - size / 2 - upto[:, -1:] / 2
        ranks = np.empty_like(weights)
        ranks[:, self.order] = middle[:, self.tie]
        return ranks


def weighted_pearson(x: Float[np.ndarray, " row"], y: Float[np.ndarray, " row"]) -> Statistic:
    """Pearson's r = cov(x, y) / sqrt(var(x) var(y)), from one product with the weights."""
    u, v = _standard(x), _standard(y)
    columns = np.stack([u, v, u * u, v * v, u * v], axis=1)

    def statistic(weights: Weights) -> Values:
        mean_u, mean_v, uu, vv, uv = (weights @ columns / weights.sum(axis=1, keepdims=True)).T
        return _r(uv - mean_u * mean_v, uu - mean_u**2, vv - mean_v**2, NO_SPREAD)

    return statistic


def weighted_spearman(x: Float[np.ndarray, " row"], y: Float[np.ndarray, " row"]) -> Statistic:
    """Spearman's rho: Pearson's r of mid-ranks, ranked anew under each row of weights."""
    ranking_x, ranking_y = Ranking(x), Ranking(y)

    def statistic(weights: Weights) -> Values:
        u, v = ranking_x.centred_ranks(weights), ranking_y.centred_ranks(weights)
        wu = weights * u
        uv, uu = np.einsum("bn,bn->b", wu, v), np.einsum("bn,bn->b", wu, u)
        vv = np.einsum("bn,bn,bn->b", weights, v, v)
        return _r(uv, uu, vv, 0.0)  # halves and integers: no spread is exactly 0

    return statistic


def weighted_partial(columns: tuple[Float[np.ndarray, " row"], ...], *, ranked: bool) -> Statistic:
    """Partial correlation of the first two columns given the rest.

    From the weighted covariance S of all columns (of their mid-ranks, if ``ranked``):
    S_ab.z = S_ab - S_az S_zz^+ S_zb, and r = S_xy.z / sqrt(S_xx.z S_yy.z). The pseudo-inverse
    lets covariates repeat each other, as indicators of a model and of its family do.
    """
    # Ranking two values is a change of scale, which no correlation sees.
    fixed = [not ranked or len(np.unique(column)) <= 2 for column in columns]
    rankings = [None if plain else Ranking(c) for plain, c in zip(fixed, columns, strict=True)]
    standard = [_standard(column) for column in columns]

    def statistic(weights: Weights) -> Values:
        total = weights.sum(axis=1)
        table = np.empty((*weights.shape, len(columns)))
        for j, ranking in enumerate(rankings):
            if ranking is None:
                mean = weights @ standard[j] / total
                table[:, :, j] = standard[j] - mean[:, None]
            else:
                table[:, :, j] = ranking.centred_ranks(weights) / total[:, None]
        weighted = (weights / total[:, None])[:, :, None] * table
        s = np.swapaxes(weighted, 1, 2) @ table
        # On one scale, so that a tolerance means the same for every covariate.
        spread = np.sqrt(np.einsum("bii->bi", s))
        scale = np.where(spread > NO_SPREAD**0.5, spread, np.inf)
        s = s / (scale[:, :, None] * scale[:, None, :])
        inverse = np.linalg.pinv(s[:, 2:, 2:], rcond=1e-10, hermitian=True)
        left = s[:, :2, :2] - s[:, :2, 2:] @ inverse @ s[:, 2:, :2]
        return _r(left[:, 0, 1], left[:, 0, 0], left[:, 1, 1], 1e-9)

    return statistic


def weighted_auroc(
    scores: Float[np.ndarray, " row"], positive: Bool[np.ndarray, " row"]
) -> Statistic:
    """P(score of a positive > score of a negative) + P(equal) / 2 over pairs of rows."""
    ranking = Ranking(scores)

    def statistic(weights: Weights) -> Values:
        up, down = ranking.sums(weights * positive), ranking.sums(weights * ~positive)
        below = np.cumsum(down, axis=1) - down / 2
        pairs = up.sum(axis=1) * down.sum(axis=1)
        return _ratio((up * below).sum(axis=1), pairs)

    return statistic


def weighted_average_precision(
    scores: Float[np.ndarray, " row"], positive: Bool[np.ndarray, " row"]
) -> Statistic:
    """Sum over thresholds, high to low, of precision times the gain in recall."""
    ranking = Ranking(-scores)

    def statistic(weights: Weights) -> Values:
        up, all_ = ranking.sums(weights * positive), ranking.sums(weights)
        precision = _ratio(np.cumsum(up, axis=1), np.cumsum(all_, axis=1), undefined=0.0)
        return _ratio((precision * up).sum(axis=1), up.sum(axis=1))

    return statistic


def weighted_prr(
    uncertainty: Float[np.ndarray, " row"], quality: Float[np.ndarray, " row"]
) -> Statistic:
    """Prediction rejection ratio (A_score - A_random) / (A_oracle - A_random).

    A = mean over k = 1..N of the mean quality of the k rows that are kept when the most uncertain
    are rejected first; rows of equal uncertainty are kept in random order (their expectation).
    The oracle rejects by quality, the random order keeps the mean quality throughout.
    """
    by_score, by_quality = Ranking(uncertainty), Ranking(-quality)

    def area(ranking: Ranking, weights: Weights, harmonic: Float[np.ndarray, " k"]) -> Values:
        size, gain = ranking.sums(weights), ranking.sums(weights * quality)
        upto, gained = np.cumsum(size, axis=1), np.cumsum(gain, axis=1)
        before = (upto - size).astype(np.int64)
        mean = _ratio(gain, size, undefined=0.0)
        # In a tie of m after K rows of summed quality S: sum_j (S + j mean) / (K + j), j = 1..m.
        rest = gained - gain - before * mean
        steps = harmonic[upto.astype(np.int64)] - harmonic[before]
        return (size * mean + rest * steps).sum(axis=1) / upto[:, -1]

    def statistic(weights: Weights) -> Values:
        total = weights.sum(axis=1)
        counts = np.arange(1, int(total.max()) + 1)
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / counts)])
        random = weights @ quality / total
        oracle = area(by_quality, weights, harmonic) - random
        # Rounding alone separates the oracle from chance where all are equally good.
        oracle = np.where(oracle > 1e-12 * (1 + np.abs(random)), oracle, 0.0)
        return _ratio(area(by_score, weights, harmonic) - random, oracle)

    return statistic


def weighted_calibration_error(
    probability: Float[np.ndarray, " row"],
    positive: Bool[np.ndarray, " row"],
    bins: Float[np.ndarray, " row"],
) -> Statistic:
    """ECE: sum over bins of |sum of (label - probability)| / N."""
    _, code = np.unique(bins, return_inverse=True)
    gap = np.zeros((len(probability), code.max() + 1))
    gap[np.arange(len(probability)), code.reshape(-1)] = positive - probability
    return lambda weights: np.abs(weights @ gap).sum(axis=1) / weights.sum(axis=1)


def _standard(column: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Mean 0 and variance 1, so that moments lose no digits; a constant becomes 0."""
    away = column - column.mean()
    spread = np.sqrt(np.mean(away**2))
    return away / spread if spread > 0 else away


def _r(xy: Values, xx: Values, yy: Values, least: float) -> Values:
    defined = (xx > least) & (yy > least)
    size = np.sqrt(np.where(defined, xx * yy, 1.0))
    return np.where(defined, np.clip(xy / size, -1.0, 1.0), np.nan)


def _ratio(
    above: Float[np.ndarray, "..."], below: Float[np.ndarray, "..."], undefined: float = np.nan
) -> Float[np.ndarray, "..."]:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), undefined)
