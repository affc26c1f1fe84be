"""Commitment: the state from which no repair brings the contextual answer back.

A repair of a run is made at every state l in turn. It *works* at l when the repaired run
gives the other answer, and the same repair of a control run does not: what it frees must
be context, not the sign of the base. Source: METHOD 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from dst.analysis.band import LEAST_RUNS, threshold
from dst.analysis.flows import bootstrap_state
from dst.core.results import Mark

REPAIRS = ("de-prime", "replace subject", "restore cue", "remove cue")
"""Repairs by name. ``remove cue`` is the reverse direction: it breaks a success."""


def breaks(name: str) -> bool:
    """Whether the repair is the reverse direction, which is asked of a success."""
    return name == "remove cue"


def works(
    name: str,
    patched: Float[np.ndarray, "*draws state"],
    control: Float[np.ndarray, "*draws state"],
    floor: float,
) -> Bool[np.ndarray, "*draws state"]:
    """Where LD_patched > tau and LD_patched - LD_control > tau (signs turned for a break)."""
    sign = -1.0 if breaks(name) else 1.0
    return (sign * patched > floor) & (sign * (patched - control) > floor)


def commitment(
    name: str,
    contrast: float,
    patched: Float[np.ndarray, "draw state"],
    control: Float[np.ndarray, "draw state"],
    floor: float,
    *,
    seed: int = 0,
) -> Mark:
    """1 + the last state at which a repair works, with its interval over draws.

    Args:
        name: The repair.
        contrast: LD of the run, in logits; under ``floor`` in size it is neither a failure
            nor a success.
        patched: LD of the run repaired at each state.
        control: LD of the control run repaired likewise.
        floor: tau, in logits.
        seed: Seed of the bootstrap.

    Returns:
        A `Mark`; NaN with the reason where there is nothing to repair, or the repair works
        at no state (such runs are counted, not treated as censored). L + 1 cannot occur: at
        the last state no source is read any more.
    """
    n_layers = patched.shape[1] - 1
    definition = f"causal, {name}"
    thresholds = {"floor": floor}
    asked_of_success = breaks(name)
    if abs(contrast) <= floor or (contrast > 0) != asked_of_success:
        reason = (
            "nothing to break: no success" if asked_of_success else "nothing to repair: no failure"
        )
        return Mark("commitment", definition, math.nan, n_layers, reason, thresholds=thresholds)
    both = np.stack([patched, control], axis=-1)

    def rule(pair: Float[np.ndarray, "state two"]) -> tuple[float, str]:
        good = works(name, pair[:, 0], pair[:, 1], floor)
        if not good.any():
            return math.nan, f"not {'breakable' if asked_of_success else 'repairable'} by {name}"
        return 1.0 + float(np.flatnonzero(good)[-1]), ""

    state, reason = rule(both.mean(axis=0))
    low, high = (math.nan, math.nan) if reason else bootstrap_state(both, rule, seed=seed)
    return Mark("commitment", definition, state, n_layers, reason, low, high, thresholds)


def absent(name: str, n_layers: int, reason: str) -> Mark:
    """The mark of a repair that does not exist for a case."""
    return Mark("commitment", f"causal, {name}", math.nan, n_layers, reason)


DOSE_FACTOR = 2.0
"""The least k: a dose of fewer medians of correct runs is not out of the ordinary."""


def dose_commitment(
    doses: Float[np.ndarray, " state"], reference: Sequence[Float[np.ndarray, " state"]]
) -> Mark:
    """First state whose dose exceeds k times the median of correct runs (METHOD 4).

    k is `DOSE_FACTOR`, or more where correct runs vary more: the least k that 5 % of correct
    runs or fewer exceed at any state, each against the median of the others
    (`dst.analysis.band.threshold`; from 19 correct runs on, else the note says so).

    Args:
        doses: Smallest push that turns the answer, per state, as a share of the state's norm;
            NaN (no push turns it) counts as exceeding everything.
        reference: The same of correct runs of the same model. They were pushed the other way;
            k is the same in both directions.

    Returns:
        A `Mark`, NaN "needs correct runs" without a reference.
    """
    n_layers, n = len(doses) - 1, len(reference)
    if not n:
        return absent("dose", n_layers, "needs correct runs")
    usual = np.nan_to_num(np.array(reference, dtype=np.float64), nan=np.inf)
    factor, note = DOSE_FACTOR, f"{n} correct runs are too few to set k by their false alarms"
    if n >= LEAST_RUNS:
        ratios = np.array(
            [_most(usual[i], np.median(np.delete(usual, i, axis=0), axis=0)) for i in range(n)]
        )
        factor = max(DOSE_FACTOR, threshold(ratios))
        note = f"{(ratios > factor).mean():.0%} of {n} correct runs would be marked"
    over = np.nan_to_num(doses, nan=np.inf) > factor * np.median(usual, axis=0)
    state = float(np.argmax(over)) if over.any() else math.nan
    return Mark(
        "commitment",
        "causal, dose",
        state,
        n_layers,
        "" if over.any() else "no state asks for more than correct runs do",
        thresholds={"factor": factor},
        note=note,
    )


def _most(doses: Float[np.ndarray, " state"], median: Float[np.ndarray, " state"]) -> float:
    """The largest ratio of a dose to the median; where none turns either, the ratio is 1."""
    finite = np.isfinite(median)
    ratios = np.where(finite, doses / np.where(finite, median, 1.0), 1.0)
    return float(ratios.max())
