"""Representational drift: how far a word's state moves with its context, beyond chance.

Two runs share most of their words. Where both read the same word, any difference of its states
comes from the context. The angle between two states is measured after the mean of ordinary
states is taken off (raw states of one layer all point nearly the same way), as it is and after
whitening (so that a few large dimensions do not decide). What is ordinary drift is known from
runs that mean the same, held against one another; z counts in their standard deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
"""Share of runs without drift in which no cell anywhere exceeds the critical z."""

LEAST_ROWS = 5
"""Runs that mean the same, at the least: any two of them leave three pairs of others."""

LEAST_PAIRS = 3
"""Pairs of the null that a cell needs for a standard deviation."""

RESOLUTION = 1e-6
"""Least standard deviation of 1 - cos: under it lies what float32 states can differ by."""

LEAST_CRITICAL = float(ndtri(LEVEL))
"""The critical z of one normal cell: that of a maximum over cells cannot be less."""

LEAST_SHARE = 0.1
"""Least standard deviation of some pairs of the null, as a share of that of all of them: a few
pairs that happen to agree to the last digit would make any other infinitely far from them."""

SAME_RUN = "the two runs have read the same words up to here"


@dataclass(frozen=True)
class StateSpace:
    """What is ordinary at one state: mean and covariance of many tokens' states.

    The covariance is shrunk, C = (1 - rho) S + rho (tr S / d) I, so that it can be inverted when
    there are fewer tokens than dimensions; rho is Ledoit and Wolf's.

    Attributes:
        mean: [d_model].
        directions: Principal directions of the states, [k d_model].
        scale: 1 / sqrt of the eigenvalue of C along each, [k].
        rest: The same along every other direction; NaN where the states do not vary.
        shrinkage: rho.
    """

    mean: Float[np.ndarray, " d_model"]
    directions: Float[np.ndarray, "k d_model"]
    scale: Float[np.ndarray, " k"]
    rest: float
    shrinkage: float

    def centred(self, states: Float[np.ndarray, "... d_model"]) -> Float[np.ndarray, "... d_model"]:
        """States less the mean."""
        return states - self.mean

    def whitened(
        self, states: Float[np.ndarray, "... d_model"]
    ) -> Float[np.ndarray, "... d_model"]:
        """The same times C^(-1/2)."""
        away = self.centred(states)
        along = away @ self.directions.T
        return self.rest * away + (along * (self.scale - self.rest)) @ self.directions


MEASURES = ("centred", "whitened")
"""How states are seen before their angle is taken; methods of `StateSpace` by name."""


def fit_space(states: Float[np.ndarray, "token d_model"]) -> StateSpace:
    """Mean and shrunk covariance of ordinary states.

    With x_k the centred states, S = mean x_k x_k', m = tr(S) / d, rho = min(b, a) / a, where
    a = |S - m I|^2 and b = mean |x_k x_k' - S|^2 / n (Frobenius norms).

    Source: Ledoit and Wolf (2004).
    """
    states = np.asarray(states, dtype=np.float64)
    n, d = states.shape
    mean = states.mean(axis=0)
    away = states - mean
    _, singular, directions = np.linalg.svd(away, full_matrices=False)
    values = singular**2 / n
    trace, squared = float(values.sum()), float((values**2).sum())
    if trace == 0:
        return StateSpace(mean, directions, np.full(len(values), np.nan), math.nan, math.nan)
    apart = squared - trace**2 / d
    norms = (away**2).sum(axis=1)
    through = ((away @ directions.T) ** 2) @ values  # x_k' S x_k
    noise = float((norms**2 - 2 * through + squared).mean()) / n
    rho = min(max(noise, 0.0), apart) / apart if apart > 0 else 1.0
    rest = rho * trace / d
    with np.errstate(divide="ignore"):  # no shrinkage: what never varies has no scale
        scale = 1 / np.sqrt((1 - rho) * values + rest)
    return StateSpace(mean, directions, scale, 1 / math.sqrt(rest) if rest else math.nan, rho)


def angle_distance(
    one: Float[np.ndarray, "*shape d_model"], two: Float[np.ndarray, "*shape d_model"]
) -> Float[np.ndarray, "*shape"]:
    """1 - cos of two vectors, as |u - v|^2 / 2 of their unit vectors: exactly 0 where they agree.

    NaN where one of them is 0 and has no direction.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        u = one / np.linalg.norm(one, axis=-1, keepdims=True)
        v = two / np.linalg.norm(two, axis=-1, keepdims=True)
    return ((u - v) ** 2).sum(axis=-1) / 2


def drift_published(
    run: Float[np.ndarray, "pos d_model"], other: Float[np.ndarray, "pos2 d_model"]
) -> float:
    """1 - mean_i cos(h_i, h'_i) over the first min(T, T') positions, as the published code has it.

    Raw states, positions cut to the shorter run and not matched, the first token (in many models
    like no other) included, and nothing to compare with. Source: METHOD 1b.
    """
    n = min(len(run), len(other))
    return float(angle_distance(run[:n], other[:n]).mean())


def z_scores(
    drift: Float[np.ndarray, "*cells"],
    null: Float[np.ndarray, "pair *cells"],
    least: Float[np.ndarray, "*cells"] | float = RESOLUTION,
) -> Float[np.ndarray, "*cells"]:
    """(drift - mean of the null) / its standard deviation, which is at least ``least``.

    NaN where fewer than `LEAST_PAIRS` pairs of the null have the cell.
    """
    mean, sd, n = _moments(null)
    z: np.ndarray = (drift - mean) / np.maximum(sd, least)
    return np.where(n >= LEAST_PAIRS, z, np.nan)


def critical_z(
    distance: Float[np.ndarray, "row row *cells"], scored: Bool[np.ndarray, "*cells"]
) -> tuple[float, str]:
    """The z that the largest of all cells exceeds in 5 % of runs without drift.

    Every pair of the null's rows is scored as the run is, by z over the pairs that share no row
    with it (whose standard deviation counts as at least `LEAST_SHARE` of that of all), and its
    largest z over all cells taken: one maximum per pair, M. Maxima are skewed, so it is their
    logarithm (of 1 at least) that is taken as normal: one more pair stays with 95 % under
    exp(m + t s sqrt(1 + 1/n)), m and s mean and standard deviation of log M, t Student's quantile
    with n - 1 degrees of freedom, n the rows (pairs share rows, so they are not that many). So
    neither many cells nor few rows make drift by chance.

    Args:
        distance: The null's rows against one another, NaN where a pair lacks the cell.
        scored: Cells that the run is scored at.

    Returns:
        The critical z, or NaN and the reason.
    """
    n = len(distance)
    if n < LEAST_ROWS:
        return math.nan, f"the null has {n} runs, and {LEAST_ROWS} are needed"
    if not scored.any():
        return math.nan, "no cell is scored"
    first, second = np.triu_indices(n, 1)
    null = distance[first, second][:, scored]  # [pair cell]
    least = np.maximum(LEAST_SHARE * _moments(null)[1], RESOLUTION)
    maxima = []
    for i, j, pair in zip(first, second, null, strict=True):
        apart = (first != i) & (first != j) & (second != i) & (second != j)
        z = z_scores(pair, null[apart], least)
        if not np.isnan(z).all():
            maxima.append(math.log(max(float(np.nanmax(z)), 1.0)))
    if len(maxima) < LEAST_PAIRS:
        return math.nan, f"only {len(maxima)} pairs of the null can be scored"
    spread = stdtrit(n - 1, LEVEL) * np.std(maxima, ddof=1) * math.sqrt(1 + 1 / n)
    return max(float(np.exp(np.mean(maxima) + spread)), LEAST_CRITICAL), ""


def drift_onset(z: Float[np.ndarray, "state cell"], critical: float) -> tuple[float, str]:
    """First state at which some cell's z exceeds the critical one; NaN and why there is none."""
    if math.isnan(critical) or np.isnan(z).all():
        return math.nan, "no cell is scored"
    over = np.flatnonzero((z > critical).any(axis=1))
    if not len(over):
        return math.nan, f"no z exceeds {critical:.1f}, as chance does in 5 % of runs"
    return float(over[0]), ""


def null_pairs(
    distance: Float[np.ndarray, "row row *cells"],
) -> Float[np.ndarray, "pair *cells"]:
    """Each two different rows once."""
    pairs: np.ndarray = distance[np.triu_indices(len(distance), 1)]
    return pairs


def mean_over(
    values: Float[np.ndarray, "*shape pos"], positions: Bool[np.ndarray, " pos"]
) -> Float[np.ndarray, "*shape"]:
    """Mean over some positions, of those that are defined; NaN where none is."""
    mean, _, _ = _moments(np.moveaxis(values[..., positions], -1, 0))
    return mean


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation (n - 1) and number along the first axis, of what is not NaN."""
    known = ~np.isnan(values)
    n = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=0) / n
        squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
        return mean, np.sqrt(squares / np.maximum(n - 1, 0)), n
