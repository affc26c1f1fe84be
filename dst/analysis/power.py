"""What n rows can say of a correlation: its interval, the power, and the n for a given power."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, ndtri

from dst.analysis.proportion import normal_quantile
from dst.core.errors import InputError
from dst.core.statistics_results import Interval


def fisher_interval(r: float, n: int, *, level: float = 0.95) -> Interval:
    """Interval of Pearson's r from r and n alone: tanh(atanh r -+ z / sqrt(n - 3)).

    For n independent rows from a bivariate normal; a published r without data gets this one.
    Source: Fisher (1921).

    Raises:
        InputError: r is outside -1..1, or the level not between 0 and 1.
    """
    _check_r(r)
    half = normal_quantile(level)
    if n < 4:
        return Interval(math.nan, math.nan, level, "Fisher z", f"{n} rows, fewer than 4")
    if abs(r) == 1:
        return Interval(math.nan, math.nan, level, "Fisher z", "r is -1 or 1: no spread is left")
    half /= math.sqrt(n - 3)
    low, high = (math.tanh(math.atanh(r) + sign * half) for sign in (-1, 1))
    return Interval(low, high, level, "Fisher z")


def correlation_power(r: float, n: float, *, alpha: float = 0.05) -> float:
    """Probability that a two-sided test finds a true correlation r in n independent rows.

    Phi(sqrt(n - 3) |atanh r| - z) + Phi(-sqrt(n - 3) |atanh r| - z), z = the 1 - alpha/2
    quantile; NaN for n <= 3. For clustered rows give `effective_n`.

    Raises:
        InputError: r is outside -1..1, or alpha not between 0 and 1.
    """
    _check_r(r)
    z = normal_quantile(1 - alpha)
    if n <= 3:
        return math.nan
    if abs(r) == 1:
        return 1.0
    shift = math.sqrt(n - 3) * abs(math.atanh(r))
    return float(ndtr(shift - z) + ndtr(-shift - z))


def correlation_sample_size(r: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest n of independent rows at which a true correlation r is found with that power.

    The n of `correlation_power`, rounded up; NaN for r = 0, which no n finds more often than
    alpha.

    Raises:
        InputError: r is outside -1..1, or alpha or power not between 0 and 1.
    """
    _check_r(r)
    if not 0 < power < 1:
        raise InputError(f"The power is {power}", expected="a share between 0 and 1")
    z = normal_quantile(1 - alpha)
    if r == 0:
        return math.nan
    if abs(r) == 1 or power <= alpha:
        return 4.0
    # Without the far tail, which only makes n smaller: start there and step down.
    n = math.ceil(3 + ((z + float(ndtri(power))) / abs(math.atanh(r))) ** 2)
    while n > 4 and correlation_power(r, n - 1, alpha=alpha) >= power:
        n -= 1
    return float(max(n, 4))


def effective_n(n: float, cluster_size: float, intraclass: float) -> float:
    """Independent rows that n clustered ones are worth: n / (1 + (m - 1) ICC).

    ``cluster_size`` m is the mean number of rows in a cluster, ``intraclass`` the correlation of
    two rows of one cluster. Source: Kish (1965), the design effect.

    Raises:
        InputError: The intraclass correlation is not from 0 to 1, or a cluster under one row.
    """
    if not 0 <= intraclass <= 1 or cluster_size < 1:
        raise InputError(
            f"Clusters of {cluster_size} rows with intraclass correlation {intraclass}",
            expected="1 or more rows, and a correlation from 0 to 1",
        )
    return n / (1 + (cluster_size - 1) * intraclass)


def _check_r(r: float) -> None:
    if not -1 <= r <= 1 or np.isnan(r):
        raise InputError(f"The correlation is {r}", expected="a number from -1 to 1")
