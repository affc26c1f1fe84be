"""When a flow reaches a role and leaves it; whether it is redundant or cancelled.

A flow is a table of LD effects, [state role] or [draw state role], in logits. *Removal* N
says "only here": what is lost when the role's residual is replaced. *Insertion* D says
"has arrived": what is gained when it is put into the run that lacks it. Source: METHOD 2a.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit  # scipy.stats would add a second to every start

from dst.core.results import Estimate, Mark

LEAST_FLOOR = 0.05
"""tau in logits where draws agree exactly or there is one draw: less is never an effect."""

HALF = 0.5
"""Share of a flow's total at which it has arrived."""

HANDOVER = 0.9
"""Share of a flow's total at which it is handed over to the answer position."""

REDUNDANT = 0.9
"""Removals that add up to less than this share of the total are redundant."""


def estimate(draws: Float[np.ndarray, " draw"]) -> Estimate:
    """Mean over draws with its 95 % interval (Student t); NaN ends for a single draw."""
    draws = np.asarray(draws, dtype=np.float64)
    mean, n = float(draws.mean()), len(draws)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(stdtrit(n - 1, 0.975) * draws.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def floor_of(quantity: Estimate) -> float:
    """tau: half the width of the interval, at least `LEAST_FLOOR`; under it is no effect."""
    half = (quantity.high - quantity.low) / 2
    return LEAST_FLOOR if math.isnan(half) else max(half, LEAST_FLOOR)


def arrival_at_answer(insertion: Float[np.ndarray, " state"], floor: float) -> tuple[float, str]:
    """First state l with sign(T) D[l', i*] >= |T| / 2 for all l' >= l, T = D[L, i*].

    Returns:
        The state, or NaN and the reason: the total T is under the floor.
    """
    total = float(insertion[-1])
    if abs(total) < floor:
        return math.nan, _under(total, floor)
    return _settles(insertion * np.sign(total) >= HALF * abs(total)), ""


def arrival_at_source(removal: Float[np.ndarray, " state"], floor: float) -> tuple[float, str]:
    """First state with |N| at half of its maximum or more; NaN where the maximum is under tau."""
    size = np.abs(removal)
    if size.max() < floor:
        return math.nan, "never carries this flow (its removal stays under the floor)"
    return float(np.argmax(size >= HALF * size.max())), ""


def departure(removal: Float[np.ndarray, " state"], floor: float) -> tuple[float, str]:
    """First state from which |N| stays under half of its maximum; NaN if it never leaves."""
    size = np.abs(removal)
    if size.max() < floor:
        return math.nan, "never carries this flow (its removal stays under the floor)"
    state = _settles(size < HALF * size.max())
    return state, "" if not math.isnan(state) else "still carries it at the last state"


def handover(insertion: Float[np.ndarray, " state"], floor: float) -> tuple[float, str]:
    """First state at which the answer position holds .9 of the flow's total (METHOD 4)."""
    total = float(insertion[-1])
    if abs(total) < floor:
        return math.nan, _under(total, floor)
    return float(np.argmax(insertion / total >= HANDOVER)), ""


def redundant(
    removal: Float[np.ndarray, "state role"], total: float, floor: float
) -> Bool[np.ndarray, " state"]:
    """States at which the removals add up to less than .9 of the total: no one role is needed."""
    if abs(total) < floor:
        return np.zeros(len(removal), dtype=bool)
    return removal.sum(axis=1) / total < REDUNDANT


def cancelled(insertion: Float[np.ndarray, "state role"], total: float, floor: float) -> bool:
    """Whether the total is under the floor although some insertion is not."""
    return bool(abs(total) < floor < np.abs(insertion).max())


def bootstrap_state(
    draws: Float[np.ndarray, "draw state"],
    rule: Callable[[Float[np.ndarray, " state"]], tuple[float, str]],
    *,
    n_boot: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of a mark over draws: the rule on means of resampled draws.

    NaN, NaN for a single draw, or where the mark is absent in more than a twentieth of
    the resamples: then the interval would hide how often there is no mark.
    """
    if len(draws) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    picks = np.sort(rng.integers(len(draws), size=(n_boot, len(draws))), axis=1)
    kinds, kind = np.unique(picks, axis=0, return_inverse=True)  # few draws make few of them
    states = np.array([rule(mean)[0] for mean in draws[kinds].mean(axis=1)])[kind]
    present = states[~np.isnan(states)]
    if len(present) < 0.95 * n_boot:
        return math.nan, math.nan
    low, high = np.quantile(present, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def flow_marks(
    flow: str,
    removal: Float[np.ndarray, "draw state role"],
    insertion: Float[np.ndarray, "draw state role"],
    roles: tuple[str, ...],
    floor: float,
    *,
    seed: int = 0,
) -> tuple[Mark, ...]:
    """Arrival at every role, departure from every source, and handover of one flow.

    At the answer the arrival is that of the insertion, whose last state is the flow's total;
    elsewhere it is that of the removal.
    """
    n_layers = removal.shape[1] - 1
    thresholds = {"floor": floor, "half": HALF, "handover": HANDOVER}

    def mark(
        name: str, where: str, draws: np.ndarray, rule: Callable[..., tuple[float, str]]
    ) -> Mark:
        state, reason = rule(draws.mean(axis=0))
        low, high = bootstrap_state(draws, rule, seed=seed) if not reason else (math.nan, math.nan)
        return Mark(name, f"{flow} flow at {where}", state, n_layers, reason, low, high, thresholds)

    marks = []
    for i, role in enumerate(roles):
        if role == "answer":
            at = insertion[:, :, i]
            marks.append(mark("arrival", role, at, lambda d: arrival_at_answer(d, floor)))
            marks.append(mark("handover", role, at, lambda d: handover(d, floor)))
        else:
            at = removal[:, :, i]
            marks.append(mark("arrival", role, at, lambda d: arrival_at_source(d, floor)))
            marks.append(mark("departure", role, at, lambda d: departure(d, floor)))
    return tuple(marks)


def _under(total: float, floor: float) -> str:
    return f"the total is under the floor ({abs(total):.2f} < {floor:.2f} logits)"


def _settles(holds: Bool[np.ndarray, " state"]) -> float:
    """First state from which ``holds`` is true to the end; NaN if it is not true at the end."""
    if not holds[-1]:
        return math.nan
    return 0.0 if holds.all() else float(len(holds) - np.argmin(holds[::-1]))
