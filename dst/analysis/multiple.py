"""Many tests at once: Holm for a few claims, Benjamini-Hochberg for a map of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from dst.core.errors import InputError


def holm(p: Any) -> Float[np.ndarray, "*map"]:
    """p-values adjusted so that all claims hold together: the family-wise error stays under alpha.

    adjusted of the i-th smallest = max over j <= i of (m - j + 1) p_j, at most 1. NaN stays NaN
    and counts as no test. Valid under any dependence. Source: Holm (1979).

    Raises:
        InputError: A p-value is outside 0..1.
    """
    values, place, shape = _sorted(p)
    m = len(values)
    adjusted = np.minimum(np.maximum.accumulate(values * np.arange(m, 0, -1)), 1.0)
    return _back(adjusted, place, shape)


def benjamini_hochberg(p: Any) -> Float[np.ndarray, "*map"]:
    """q-values: the smallest false discovery rate at which a cell would be among the finds.

    q of the i-th smallest = min over j >= i of m p_j / j. NaN cells stay NaN and count as no
    test. Valid for independent and positively dependent tests.
    Source: Benjamini and Hochberg (1995).

    Raises:
        InputError: A p-value is outside 0..1.
    """
    values, place, shape = _sorted(p)
    m = len(values)
    raised = values * (m / np.arange(1, m + 1))
    return _back(np.minimum.accumulate(raised[::-1])[::-1], place, shape)


def _sorted(p: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    values = np.asarray(p, dtype=np.float64)
    flat = values.ravel()
    tested = np.flatnonzero(~np.isnan(flat))
    outside = flat[tested][(flat[tested] < 0) | (flat[tested] > 1)]
    if len(outside):
        raise InputError(f"A p-value is {outside[0]:g}", expected="a number from 0 to 1, or NaN")
    place = tested[np.argsort(flat[tested], kind="stable")]
    return flat[place], place, values.shape


def _back(adjusted: np.ndarray, place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    whole = np.full(shape, np.nan)
    whole.reshape(-1)[place] = adjusted
    return whole
