"""Results of statistics over many cases: a number, its interval, its p-value, and why any is NaN.

A value, an interval and a p-value are NaN if and only if a reason says why. ``n`` counts rows,
``n_clusters`` what was resampled; rows with NaN were left out and are counted in ``n_dropped``.
"""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from dst.core.results import Provenance, Result, result


def _nan_needs_reason(name: str, value: float, reason: str) -> None:
    if math.isnan(value) != bool(reason):
        raise ValueError(f"{name}: NaN if and only if there is a reason")


@result
class Interval:
    """A confidence interval; both ends NaN with a reason where there is none.

    Attributes:
        low: Lower end.
        high: Upper end.
        level: Share of repetitions that it is meant to cover, such as 0.95.
        method: ``BCa``, ``percentile``, ``DeLong``, ``Fisher z``...
        reason: Why there is none; "" where there is one.
    """

    low: float
    high: float
    level: float
    method: str
    reason: str = ""

    def __post_init__(self) -> None:
        _nan_needs_reason("low", self.low, self.reason)
        _nan_needs_reason("high", self.high, self.reason)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return (
            f"(no interval: {self.reason})" if self.reason else f"[{self.low:.3f}, {self.high:.3f}]"
        )


@result
class Statistic(Result):
    """One number over many cases, by the name of its definition.

    Attributes:
        name: Such as ``mean``, ``auroc``, ``auroc_difference``.
        value: The number.
        interval: BCa interval of the cluster bootstrap.
        percentile: Percentile interval from the same resamples.
        p: Two-sided p-value of the null that ``method`` names.
        n: Rows that were used.
        n_clusters: Clusters that were resampled (= n where rows are independent).
        unit: What a row is, such as ``item`` or ``group``.
        method: How the interval and the p-value came about.
        seed: Seed of the resamples and permutations.
        n_dropped: Rows that were left out for a NaN.
        n_resamples: Bootstrap resamples.
        n_degenerate: Resamples in which the number is undefined.
        reason: Why the value is NaN.
        p_reason: Why the p-value is NaN.
        note: What a reader must know, such as how few clusters there are.
        provenance: What it takes to compute this again.
    """

    name: str
    value: float
    interval: Interval
    percentile: Interval
    p: float
    n: int
    n_clusters: int
    unit: str
    method: str
    seed: int
    n_dropped: int = 0
    n_resamples: int = 0
    n_degenerate: int = 0
    reason: str = ""
    p_reason: str = ""
    note: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        _nan_needs_reason(self.name, self.value, self.reason)
        _nan_needs_reason(f"p of {self.name}", self.p, self.p_reason)

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name} is undefined: {self.reason}"
        among = f" in {self.n_clusters} clusters" if self.n_clusters != self.n else ""
        p = f"no p ({self.p_reason})" if self.p_reason else f"p = {self.p:.4f}"
        return f"{self.name} {self.value:+.3f} {self.interval}, {p}, {self.n} {self.unit}s{among}"

    def to_records(self) -> list[dict[str, Any]]:
        """One row."""
        return [
            {
                "name": self.name,
                "value": self.value,
                "low": self.interval.low,
                "high": self.interval.high,
                "percentile_low": self.percentile.low,
                "percentile_high": self.percentile.high,
                "level": self.interval.level,
                "p": self.p,
                "n": self.n,
                "n_clusters": self.n_clusters,
                "n_dropped": self.n_dropped,
                "n_degenerate": self.n_degenerate,
                "unit": self.unit,
                "method": self.method,
                "seed": self.seed,
                "reason": self.reason or self.interval.reason or self.p_reason,
                "note": self.note,
            }
        ]


@result
class Correlation(Statistic):
    """A correlation of a score with an outcome.

    Attributes:
        score: Name of the score, where it has one.
        outcome: Name of the outcome, such as ``error``.
        covariates: What was held fixed, for a partial correlation.
    """

    score: str = ""
    outcome: str = ""
    covariates: tuple[str, ...] = ()

    def to_records(self) -> list[dict[str, Any]]:
        """One row."""
        (row,) = Statistic.to_records(self)
        names = {"score": self.score, "outcome": self.outcome}
        return [names | row | {"covariates": ", ".join(self.covariates)}]


@result
class EffectMap(Result):
    """Effects over many cases, cell by cell: mean, interval, p against a control, q over the map.

    Attributes:
        axes: What the axes of the map are, such as ("layer", "pos").
        mean: Mean effect over cases.
        control: Mean effect of the control; NaN where there was none.
        low: Lower end of the cluster bootstrap interval of the mean.
        high: Its upper end.
        p: Two-sided p of effect = control (or = 0), by sign-flips; NaN where undefined.
        q: The same after Benjamini-Hochberg over the cells that have a p.
        n: Cases with a value, per cell.
        n_clusters: Clusters with a value, per cell.
        reasons: Why a cell's numbers are NaN, as text; "" where they are not.
        level: Level of the interval.
        method: How interval and p came about.
        seed: Seed of resamples and flips.
        unit: Unit of the effect, such as ``logits``.
        provenance: What it takes to compute this again.
    """

    axes: tuple[str, ...]
    mean: Float[np.ndarray, "*map"]
    control: Float[np.ndarray, "*map"]
    low: Float[np.ndarray, "*map"]
    high: Float[np.ndarray, "*map"]
    p: Float[np.ndarray, "*map"]
    q: Float[np.ndarray, "*map"]
    n: Int[np.ndarray, "*map"]
    n_clusters: Int[np.ndarray, "*map"]
    reasons: Shaped[np.ndarray, "*map"]
    level: float
    method: str
    seed: int
    unit: str = "logits"
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if len(self.axes) != self.mean.ndim:
            raise ValueError("one name per axis of the map is needed")
        undefined = np.isnan(self.mean) | np.isnan(self.low) | np.isnan(self.p)
        if (undefined != (self.reasons != "")).any():
            raise ValueError("a cell is NaN if and only if there is a reason")

    def discoveries(self, q: float = 0.05) -> Bool[np.ndarray, "*map"]:
        """Cells whose q is at most ``q``; a cell without a q is none."""
        return self.q <= q

    def to_records(self) -> list[dict[str, Any]]:
        """One row per cell."""
        columns = ("mean", "control", "low", "high", "p", "q", "n", "n_clusters")
        return [
            dict(zip(self.axes, cell, strict=True))
            | {name: getattr(self, name)[cell].item() for name in columns}
            | {"reason": str(self.reasons[cell])}
            for cell in np.ndindex(self.mean.shape)
        ]


@result
class MixedLogit(Result):
    """A logit model of error with random intercepts.

    Attributes:
        terms: ``intercept`` and the fixed effects, in order.
        estimate: Posterior mean per term, in log-odds per unit of the score as given.
        sd: Posterior standard deviation.
        low: Lower end of the 95 % interval.
        high: Its upper end.
        random_sd: Standard deviation of each group's intercepts, in log-odds.
        n_groups: Number of groups behind each.
        n: Rows that were used.
        n_dropped: Rows that were left out for a NaN.
        method: Estimator, priors, and what it approximates.
        reason: Why everything is NaN; "" where it is not.
        note: What a reader must know.
        provenance: What it takes to compute this again.
    """

    terms: tuple[str, ...]
    estimate: Float[np.ndarray, " term"]
    sd: Float[np.ndarray, " term"]
    low: Float[np.ndarray, " term"]
    high: Float[np.ndarray, " term"]
    random_sd: Mapping[str, float]
    n_groups: Mapping[str, int]
    n: int
    n_dropped: int
    method: str
    reason: str = ""
    note: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if len(self.terms) != len(self.estimate):
            raise ValueError("one name per term is needed")
        for name, value in zip(self.terms, self.estimate, strict=True):
            _nan_needs_reason(name, float(value), self.reason)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per fixed effect and per kind of random intercept."""
        fixed = [
            {
                "term": term,
                "estimate": float(self.estimate[i]),
                "low": float(self.low[i]),
                "high": float(self.high[i]),
                "n": self.n,
                "reason": self.reason,
            }
            for i, term in enumerate(self.terms)
        ]
        random = [
            {"term": f"sd({name})", "estimate": sd, "n": self.n_groups[name]}
            for name, sd in self.random_sd.items()
        ]
        return fixed + random


@result
class Survival(Result):
    """Kaplan-Meier curve of marks, those that never come being right-censored.

    Attributes:
        time: Distinct times of events, ascending, such as depths l / L.
        survival: Share of cases without the mark after each time.
        low: Lower end of its cluster bootstrap interval (percentile).
        high: Its upper end.
        at_risk: Cases without mark and not censored before each time.
        events: Marks at each time.
        median: First time at which at most half are without the mark, with its interval.
        n: Cases.
        n_censored: Cases without the mark.
        provenance: What it takes to compute this again.
    """

    time: Float[np.ndarray, " time"]
    survival: Float[np.ndarray, " time"]
    low: Float[np.ndarray, " time"]
    high: Float[np.ndarray, " time"]
    at_risk: Int[np.ndarray, " time"]
    events: Int[np.ndarray, " time"]
    median: Statistic
    n: int
    n_censored: int
    provenance: Provenance = field(default_factory=Provenance)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per time."""
        columns = ("time", "survival", "low", "high", "at_risk", "events")
        return [
            {name: getattr(self, name)[i].item() for name in columns} for i in range(len(self.time))
        ]


@result
class CircularityAudit(Result):
    """A score beside the same score under conditions that cannot know what it claims to measure.

    Attributes:
        statistic: ``auroc`` or ``spearman``, signed so that larger is better.
        score: The score itself, under its own name.
        conditions: Each condition's own value.
        differences: Score minus condition on the rows that both have, paired.
        beaten: Whether the interval of the difference lies above 0.
        missing: Conditions of the audit that were not run.
        provenance: What it takes to compute this again.
    """

    statistic: str
    score: Statistic
    conditions: tuple[Statistic, ...]
    differences: tuple[Statistic, ...]
    beaten: tuple[bool, ...]
    missing: tuple[str, ...]
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if not len(self.conditions) == len(self.differences) == len(self.beaten):
            raise ValueError("one difference and one verdict per condition are needed")

    def to_records(self) -> list[dict[str, Any]]:
        """One row for the score, then one per condition with its paired difference."""
        rows = [{"condition": self.score.name} | _brief(self.score)]
        for own, difference, beaten in zip(
            self.conditions, self.differences, self.beaten, strict=True
        ):
            rows.append(
                {"condition": own.name}
                | _brief(own)
                | {f"difference_{key}": value for key, value in _brief(difference).items()}
                | {"beaten": beaten}
            )
        return rows


def _brief(statistic: Statistic) -> dict[str, Any]:
    return {
        "value": statistic.value,
        "low": statistic.interval.low,
        "high": statistic.interval.high,
        "n": statistic.n,
        "reason": statistic.reason or statistic.interval.reason,
    }
