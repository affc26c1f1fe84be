"""Two AUROCs on the same rows: DeLong's closed form, with clusters, and the paired bootstrap.

Labels and scores run as in `dst.analysis.detection`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dst.analysis.bootstrap import DEFAULT, Resampling, no_interval
from dst.analysis.detection import one_class, too_few
from dst.analysis.permutation import PValue, normal_p
from dst.analysis.proportion import normal_quantile
from dst.analysis.rows import Labels, check_binary, complete_rows
from dst.analysis.statistics import ranks
from dst.analysis.summary import NO_TEST, measured
from dst.analysis.weighted import weighted_auroc
from dst.core.statistics_results import Interval, Statistic


class DeLong(NamedTuple):
    """Two AUROCs on the same rows, their difference, and how sure it is."""

    first: float
    second: float
    difference: float
    se: float
    interval: Interval
    p: float
    reason: str = ""


def delong(
    first: Any, second: Any, labels: Any, *, clusters: Labels | None = None, level: float = 0.95
) -> DeLong:
    """AUROC(first) - AUROC(second) on the same rows, with its standard error in closed form.

    V10 of an error = share of correct answers that it outscores, V01 of a correct answer =
    share of errors that outscore it (ties half); the variance of the difference is that of
    means of the differences of V10 and of V01. Where clusters are given, their sums take the
    place of the rows (Obuchowski), with the covariance of the two kinds in a cluster. p is of a
    normal deviate: it needs some tens of clusters of each class.

    Args:
        first: A score; higher means more likely an error.
        second: Another.
        labels: 1 error, 0 correct. Rows with any NaN are dropped.
        clusters: Which rows belong together; by default none.
        level: Level of the interval.

    Raises:
        InputError: As in `auroc`.

    Source: DeLong, DeLong and Clarke-Pearson (1988); Obuchowski (1997).
    """
    z = normal_quantile(level)
    rows = complete_rows(
        {"the first score": first, "the second score": second, "the labels": labels}, clusters
    )
    a, b, label = rows.columns
    check_binary(label, "the labels")
    error = label == 1
    n1, n0 = int(error.sum()), int((~error).sum())
    reason = "one class only" if not n1 or not n0 else ""
    in_errors, in_correct = np.unique(rows.clusters[error]), np.unique(rows.clusters[~error])
    if not reason and min(len(in_errors), len(in_correct)) < 2:
        reason = "a class stands in one cluster only"
    if reason:
        nothing = no_interval(reason, level, "DeLong")
        return DeLong(math.nan, math.nan, math.nan, math.nan, nothing, math.nan, reason)
    placed = [_placements(score, error) for score in (a, b)]
    of_first, of_second = (float(v[error].mean()) for v in placed)
    difference = of_first - of_second
    away = placed[0] - placed[1] - difference
    up = np.bincount(rows.clusters[error], away[error], minlength=rows.n_clusters)
    down = np.bincount(rows.clusters[~error], away[~error], minlength=rows.n_clusters)
    k1, k0, k = len(in_errors), len(in_correct), rows.n_clusters
    variance = k1 / (k1 - 1) * (up @ up) / n1**2 + k0 / (k0 - 1) * (down @ down) / n0**2
    variance += 2 * k / (k - 1) * (up @ down) / (n1 * n0)
    se = math.sqrt(max(float(variance), 0.0))
    if se <= 1e-12:
        why = "the two scores rank all rows alike" if difference == 0 else "no spread is left"
        nothing = no_interval(why, level, "DeLong")
        return DeLong(of_first, of_second, difference, se, nothing, math.nan, why)
    interval = Interval(difference - z * se, difference + z * se, level, "DeLong")
    return DeLong(of_first, of_second, difference, se, interval, normal_p(difference / se))


def auroc_difference(
    first: Any,
    second: Any,
    labels: Any,
    *,
    clusters: Labels | None = None,
    name: str = "auroc_difference",
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """AUROC(first) - AUROC(second) on the same rows: paired cluster bootstrap, p by `delong`.

    Both AUROCs are computed in every resample, so that what they share cancels.

    Args:
        first: A score; higher means more likely an error.
        second: Another.
        labels: 1 error, 0 correct. Rows with any NaN are dropped and counted.
        clusters: Which rows belong together.
        name: Name of the difference.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Raises:
        InputError: As in `auroc`.
    """
    rows = complete_rows(
        {"the first score": first, "the second score": second, "the labels": labels}, clusters
    )
    a, b, label = rows.columns
    check_binary(label, "the labels")
    reason = too_few(rows) or one_class(label)
    if reason:
        return Statistic(**measured(name, None, rows, NO_TEST, unit, resampling, reason))
    own, other = weighted_auroc(a, label == 1), weighted_auroc(b, label == 1)
    found = delong(a, b, label, clusters=rows.clusters, level=resampling.level)
    test = PValue(found.p, "DeLong with clusters (Obuchowski)", found.reason)
    return Statistic(
        **measured(name, lambda w: own(w) - other(w), rows, test, unit, resampling, width=8)
    )


def _placements(
    scores: Float[np.ndarray, " row"], error: Bool[np.ndarray, " row"]
) -> Float[np.ndarray, " row"]:
    """V10 of each error, the share of correct answers under it; V01 of each correct answer."""
    place = ranks(scores)
    within = np.empty_like(place)
    within[error], within[~error] = ranks(scores[error]), ranks(scores[~error])
    n1, n0 = error.sum(), (~error).sum()
    return np.where(error, (place - within) / n0, 1 - (place - within) / n1)
