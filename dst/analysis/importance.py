"""How far a value lies beyond its control: what importance and position effects are tested with.

Both questions are of one kind: would one more draw of the control have been as far out? Then the
spread of the control counts in full, not its mean's.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit  # scipy.stats would add a second to every start

LEVEL = 0.95
"""Of the interval of an excess."""


def beyond_draws(
    effect: Float[np.ndarray, "*map"], ring: Float[np.ndarray, "draw *map"], rounding: float
) -> Float[np.ndarray, "*map"]:
    """Chance that one more neutral draw had an effect as large, by draws held against each other.

    A p, two-sided. ``effect`` is x against the mean of n draws, ``ring`` draw k against draw k + 1
    (the last against the first). Were x a draw like the others and effects linear in what is
    replaced, ring would have the variance 2 s^2 and effect s^2 (1 + 1 / n):

        t = effect / sqrt(mean(ring^2) / 2 * (1 + 1 / n)),  2 n / 3 degrees of freedom

    (Satterthwaite's, of a quadratic form with the eigenvalues 1 - cos(2 pi j / n); 1 for n = 2.)
    A ring needs n runs where all pairs need n (n - 1). NaN with fewer than two draws.

    Args:
        effect: Mean effect over draws.
        ring: Effect of each draw against the next.
        rounding: What arithmetic alone makes of an effect; s is never taken as less.
    """
    n = len(ring)
    if n < 2:
        return np.full(effect.shape, np.nan)
    s = np.maximum(np.sqrt((ring**2).mean(axis=0) / 2), rounding)
    t = effect / (s * np.sqrt(1 + 1 / n))
    return np.asarray(2 * stdtr(1.0 if n == 2 else 2 * n / 3, -np.abs(t)))


def control_interval(
    value: Float[np.ndarray, "*map"],
    controls: Float[np.ndarray, "control *map"],
    rounding: float,
) -> Float[np.ndarray, "end *map"]:
    """Ends of the 95 % interval of value - control, for one control drawn anew.

    (value - mean) +- t sd sqrt(1 + 1 / n), Student's t with n - 1 degrees of freedom; NaN with
    fewer than two controls.

    Args:
        value: The values, in any unit.
        controls: The same quantity of each control.
        rounding: What arithmetic alone makes of a difference; the sd is never taken as less.
    """
    n = len(controls)
    if n < 2:
        return np.full((2, *value.shape), np.nan)
    sd = np.maximum(controls.std(axis=0, ddof=1), rounding)
    half = stdtrit(n - 1, (1 + LEVEL) / 2) * sd * np.sqrt(1 + 1 / n)
    excess = value - controls.mean(axis=0)
    return np.stack([excess - half, excess + half])
