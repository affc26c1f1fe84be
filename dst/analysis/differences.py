"""Differences of two runs with intervals: of means over draws, of functions of draws, of marks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from dst.analysis.coherence import dss_causal
from dst.analysis.flows import LEAST_FLOOR, arrival_at_answer
from dst.core.comparison_results import Difference
from dst.core.results import Estimate, Mark, Pathways

RESAMPLES = 500
"""Bootstrap resamples of the draws."""

UNSTABLE = 0.05
"""Share of resamples without a value from which there is no interval."""

NAN = math.nan


def exact(name: str, group: str, unit: str, a: float, b: float) -> Difference:
    """The difference of two numbers that no draw has a part in."""
    value = a - b
    return Difference(name, group, unit, a, a, a, b, b, b, value, value, value, "exact")


def of_means(name: str, a: Estimate | None, b: Estimate | None) -> Difference:
    """Difference of two means over draws, in logits, with Welch's 95 % interval.

    d = mean_a - mean_b, half-width t sqrt(s_a^2 + s_b^2), s the standard error of each mean (its
    own half-width over its own t), t Student's at Welch and Satterthwaite's degrees of freedom. The
    half-width is `LEAST_FLOOR` at least: less is never an effect.

    Args:
        name: The quantity.
        a: A's estimate; None where it was not measured.
        b: B's.
    """
    method = "Welch over draws"
    if a is None or b is None:
        return _missing(name, "sum", "logits", method, _absent(a, b, "was not measured"))
    value = a.mean - b.mean
    both = (a.mean, a.low, a.high, b.mean, b.low, b.high)
    if a.n < 2 or b.n < 2:
        why = _absent(a if a.n > 1 else None, b if b.n > 1 else None, "has one draw only")
        return Difference(name, "sum", "logits", *both, value, NAN, NAN, method, why)
    errors = [((one.high - one.low) / 2 / float(stdtrit(one.n - 1, 0.975))) ** 2 for one in (a, b)]
    half = LEAST_FLOOR
    if sum(errors) > 0:
        freedom = sum(errors) ** 2 / sum(
            error**2 / (one.n - 1) for error, one in zip(errors, (a, b), strict=True)
        )
        half = max(half, float(stdtrit(freedom, 0.975)) * math.sqrt(sum(errors)))
    return Difference(name, "sum", "logits", *both, value, value - half, value + half, method)


def of_marks(name: str, group: str, a: Mark, b: Mark) -> Difference:
    """Difference of two marks as shares of depth; between the far ends of their intervals."""
    method = "far ends of the two intervals"
    one, two = (
        [value / mark.n_layers for value in (mark.state, mark.low, mark.high)] for mark in (a, b)
    )
    reasons = [
        f"{which}: {mark.reason or 'no interval over draws'}"
        for which, mark in (("A", a), ("B", b))
        if mark.reason or math.isnan(mark.low)
    ]
    low, high = (NAN, NAN) if reasons else (one[1] - two[2], one[2] - two[1])
    return Difference(
        name, group, "share of depth",
        one[0], one[1], one[2], two[0], two[1], two[2],
        one[0] - two[0], low, high, method, "; ".join(reasons),
    )  # fmt: skip


def over_draws(
    a: Pathways | None, b: Pathways | None, depths: Sequence[float], *, seed: int = 0
) -> tuple[Difference, ...]:
    """Arrival of both flows at the answer (share of depth), and DSS*: total and at some depths.

    Each is computed on the means of resampled draws of A and of B; the interval is the 2.5 % and
    97.5 % percentile of A* - B*. Where flows have as many draws they are resampled together:
    draw i of both holds the same neutral prompt.

    Args:
        a: A's flows; None where they were not measured.
        b: B's.
        depths: Shares of depth for DSS*.
        seed: Seed of the resamples.
    """
    method = f"bootstrap over draws, {RESAMPLES} resamples"
    kinds = [
        ("arrival of the contextual flow", "arrival", "share of depth"),
        ("arrival of the associative flow", "arrival", "share of depth"),
        *((f"dss_causal at {depth:.0%} of depth", "score", "share") for depth in depths),
        ("dss_causal, total", "score", "share"),
    ]
    kinds = [(name.replace("%", " %"), group, unit) for name, group, unit in kinds]
    if a is None or b is None:
        why = _absent(a, b, "has no pathways")
        return tuple(_missing(name, group, unit, method, why) for name, group, unit in kinds)
    rng = np.random.default_rng(seed)
    values = [_quantities(*_mean(one), one, depths) for one in (a, b)]
    drawn = [_resampled(one, depths, rng) for one in (a, b)]
    found = []
    for i, (name, group, unit) in enumerate(kinds):
        ends = [_interval(drawn[side][:, i]) for side in (0, 1)]
        low, high = _interval(drawn[0][:, i] - drawn[1][:, i])
        why = "; ".join(
            f"{which}: {_why(one, value[i], end)}"
            for which, one, value, end in zip("AB", (a, b), values, ends, strict=True)
            if math.isnan(value[i]) or math.isnan(end[0])
        )
        if not why and math.isnan(low):
            why = "not in every resample of the draws"
        if why:
            low, high = NAN, NAN
        one, two = float(values[0][i]), float(values[1][i])
        found.append(
            Difference(name, group, unit, one, *ends[0], two, *ends[1], one - two, low, high,
                       method, why)
        )  # fmt: skip
    return tuple(found)


def _why(paths: Pathways, value: float, ends: tuple[float, float]) -> str:
    """Why a quantity of one run has no value, or no interval."""
    if min(paths.total_effect.n, paths.prior.n) < 2:
        return "one draw only"
    return "has none" if math.isnan(value) else "not in every resample of the draws"


def _quantities(
    context: Float[np.ndarray, " state"],
    association: Float[np.ndarray, " state"],
    paths: Pathways,
    depths: Sequence[float],
) -> Float[np.ndarray, " quantity"]:
    """Both arrivals as shares of depth, DSS* at the depths, and its total."""
    floors = (paths.contextual_floor, paths.associative_floor)
    n_layers = len(context) - 1
    arrivals = [
        arrival_at_answer(flow, floor)[0] / n_layers
        for flow, floor in zip((context, association), floors, strict=True)
    ]
    score = dss_causal(context, association, floors)
    return np.array([*arrivals, *(score.at(depth) for depth in depths), score.total])


def _resampled(
    paths: Pathways, depths: Sequence[float], rng: np.random.Generator
) -> Float[np.ndarray, "resample quantity"]:
    """The quantities of every resample of the draws; NaN throughout for a single draw."""
    context, association = _draws(paths)
    if min(len(context), len(association)) < 2:
        return np.full((RESAMPLES, len(depths) + 3), NAN)
    picks = rng.integers(len(context), size=(RESAMPLES, len(context)))
    if len(association) == len(context):
        picks = np.sort(picks, axis=1)  # few draws make few different means
        kinds, kind = np.unique(picks, axis=0, return_inverse=True)
        pairs = zip(kinds, kinds, strict=True)
    else:
        others = rng.integers(len(association), size=(RESAMPLES, len(association)))
        kind, pairs = np.arange(RESAMPLES), zip(picks, others, strict=True)
    values = [
        _quantities(context[one].mean(axis=0), association[two].mean(axis=0), paths, depths)
        for one, two in pairs
    ]
    return np.array(values)[kind.ravel()]


def _draws(paths: Pathways) -> tuple[np.ndarray, np.ndarray]:
    """Insertion at the answer of both flows, [draw state]."""
    answer = paths.roles.index("answer")
    return paths.contextual_insertion[:, :, answer], paths.associative_insertion[:, :, answer]


def _mean(paths: Pathways) -> tuple[np.ndarray, np.ndarray]:
    context, association = _draws(paths)
    return context.mean(axis=0), association.mean(axis=0)


def _interval(values: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    """Percentiles of what is defined; NaN where more than `UNSTABLE` is not."""
    known = values[~np.isnan(values)]
    if len(known) < (1 - UNSTABLE) * len(values):
        return NAN, NAN
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _absent(a: object | None, b: object | None, what: str) -> str:
    """Which of the two has none."""
    names = [name for name, one in (("A", a), ("B", b)) if one is None]
    return " and ".join(f"{name} {what}" for name in names)


def _missing(name: str, group: str, unit: str, method: str, why: str) -> Difference:
    return Difference(name, group, unit, *(NAN,) * 9, method, why)
