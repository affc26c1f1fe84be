"""The band of correct runs: what a margin looks like where the answer comes out right.

An onset is a departure from it. How deep a departure must be is set on the correct runs
themselves, so that a new one of their kind has an onset in 5 % of cases or fewer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dst.analysis.flows import LEAST_FLOOR
from dst.analysis.markers import deepest_slip

COVERED = 0.95
"""Share of correct runs inside the band at each state, between its two ends."""

FALSE_ALARMS = 0.05
"""Share of correct runs that may have the mark."""

LEAST_RUNS = math.ceil(1 / FALSE_ALARMS) - 1
"""With fewer correct runs than this, no threshold keeps the false alarms under 5 %."""


@dataclass(frozen=True)
class Band:
    """The lower end of what correct runs do, and how far below it is too far.

    Attributes:
        low: 2.5 % quantile of the correct runs' margins, in logits.
        delta: Depth under it, in logits, that 5 % of correct runs or fewer reach.
        n: Correct runs.
        false_alarms: Share of them with an onset, each judged by the others' band.
    """

    low: Float[np.ndarray, " state"]
    delta: float
    n: int
    false_alarms: float


def band_of(margins: Float[np.ndarray, "run state"]) -> Band | None:
    """The band of correct runs; None for fewer than `LEAST_RUNS`.

    Each run's deepest slip is taken against the band of the others; delta lies just above the
    k-th smallest of these n depths, k = ceil(.95 (n + 1)). A new run that is exchangeable with
    them is then marked with probability 5 % at the most, whatever the margins' distribution
    (split-conformal bound, with the one run more or less in the band neglected).

    Args:
        margins: Lens margins of correct runs, in logits.
    """
    n = len(margins)
    if n < LEAST_RUNS:
        return None
    depths = np.array(
        [deepest_slip(margins[i], _low(np.delete(margins, i, axis=0))) for i in range(n)]
    )
    delta = max(threshold(depths), LEAST_FLOOR)
    return Band(_low(margins), delta, n, float((depths >= delta).mean()))


def threshold(values: Float[np.ndarray, " run"]) -> float:
    """The least number that a new value reaches with probability `FALSE_ALARMS` at the most.

    Just above the k-th smallest of n, k = ceil(.95 (n + 1)); infinite where k > n.
    """
    k = math.ceil((1 - FALSE_ALARMS) * (len(values) + 1))
    return float(np.nextafter(np.sort(values)[k - 1], np.inf)) if k <= len(values) else math.inf


def _low(margins: Float[np.ndarray, "run state"]) -> Float[np.ndarray, " state"]:
    return np.quantile(margins, (1 - COVERED) / 2, axis=0)
