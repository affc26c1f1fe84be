"""The interval of a share: how far a count out of n can be trusted."""

from __future__ import annotations

import math

from scipy.special import ndtri

from dst.core.errors import InputError


def wilson(count: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share: the p with |count/n - p| <= z sqrt(p (1 - p) / n).

    NaN, NaN for n = 0. Source: Wilson (1927).

    Raises:
        InputError: The count is not from 0 to n, or the level not between 0 and 1.
    """
    if not 0 <= count <= n:
        raise InputError(f"{count} of {n} is no share", expected="a count from 0 to n")
    if n == 0:
        return math.nan, math.nan
    z = normal_quantile(level)
    share, weight = count / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    # At the ends one limit is the end itself, which rounding would miss by an ulp.
    return (0.0 if count == 0 else middle - half), (1.0 if count == n else middle + half)


def normal_quantile(level: float) -> float:
    """The z of a two-sided normal interval of that level: 1.959963984540054 at 0.95.

    Raises:
        InputError: The level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"The level is {level}", expected="a share between 0 and 1")
    return float(ndtri((1 + level) / 2))
