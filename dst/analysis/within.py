"""Scores inside groups, and beside one another: what pooled correlations hide.

Several models together make any score that grows with training go with the error rate. Inside a
model that cannot help; and beside "which checkpoint is it" a pooled correlation must show what it
adds. Both are bootstraps of clusters that are drawn together in every group.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dst.analysis.bootstrap import DEFAULT, Resampling
from dst.analysis.bootstrap import Statistic as WeightedStatistic
from dst.analysis.rows import Labels, Rows, check_binary, complete_rows, constant
from dst.analysis.summary import NO_TEST, measured
from dst.analysis.weighted import weighted_auroc, weighted_pearson, weighted_spearman
from dst.core.errors import InputError
from dst.core.statistics_results import Statistic

Kind = Literal["auroc", "spearman"]
Linear = Literal["pearson", "spearman"]


def within_groups(
    score: Any,
    outcome: Any,
    groups: Labels,
    *,
    statistic: Kind = "auroc",
    beside: Any = None,
    clusters: Labels | None = None,
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """Mean over groups of a score's AUROC (or Spearman's rho) inside the group.

    Groups count alike, however many rows they have; those in which the number is undefined (one
    class only, a constant score) are left out, in every resample anew. With ``beside``, the
    difference from another score's on the same rows of the same resamples.

    Args:
        score: One number per row; for ``auroc`` higher means more likely an error.
        outcome: Error, 0 or 1 (a rate, for ``spearman``).
        groups: Inside which it is measured, such as the model.
        statistic: ``auroc`` or ``spearman``.
        beside: A second score, such as what the model's confidence says of an error.
        clusters: Which rows belong together, across groups too, such as the word.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Returns:
        NaN with a reason where no group defines it. ``note`` counts the groups.

    Raises:
        InputError: Lengths differ, a value is infinite, an AUROC's outcome is not 0 or 1, or the
            statistic has no such name.

    Source: METHOD 9 ("inside each checkpoint at item level").
    """
    if statistic not in ("auroc", "spearman"):
        raise InputError(f"There is no statistic {statistic!r}", expected="auroc or spearman")
    columns = {"the score": score, "the outcome": outcome}
    if beside is not None:
        columns["the other score"] = beside
    rows = complete_rows(columns, clusters, groups)
    if statistic == "auroc":
        check_binary(rows.columns[1], "the outcome")
    name = f"within_{statistic}" + ("" if beside is None else "_difference")
    inside, used = _inside(rows, statistic)
    reason = "" if used else "undefined in every group"
    number = inside if used else None
    found = measured(name, number, rows, NO_TEST, unit, resampling, reason, width=8)
    n = len(np.unique(rows.strata))
    told = f"mean of {used} of {n} groups" + (f"; {found['note']}" if found["note"] else "")
    return Statistic(**(found | {"note": told}))


def _inside(rows: Rows, statistic: Kind) -> tuple[WeightedStatistic, int]:
    """The mean over groups as a statistic of weights, and of how many groups it is."""
    score, outcome, *rest = rows.columns
    parts: list[tuple[np.ndarray, list[WeightedStatistic]]] = []
    for group in np.unique(rows.strata):
        kept = np.flatnonzero(rows.strata == group)
        columns = [column[kept] for column in (score, *rest)]
        if constant(outcome[kept]) or (
            statistic == "spearman" and any(constant(column) for column in columns)
        ):
            continue
        make = _auroc if statistic == "auroc" else weighted_spearman
        parts.append((kept, [make(column, outcome[kept]) for column in columns]))

    def number(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        values = []
        for kept, made in parts:
            own = weights[:, kept]
            first, *others = (part(own) for part in made)
            values.append(first - others[0] if others else first)
        table = np.array(values)
        there = ~np.isnan(table)
        total = np.where(there, table, 0.0).sum(axis=0)
        count = there.sum(axis=0)
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    return number, len(parts)


def _auroc(
    score: Float[np.ndarray, " row"], outcome: Float[np.ndarray, " row"]
) -> WeightedStatistic:
    return weighted_auroc(score, outcome == 1)


def correlation_gain(
    score: Any,
    beside: Any,
    outcome: Any,
    *,
    method: Linear = "pearson",
    clusters: Labels | None = None,
    unit: str = "group",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """How much stronger one score goes with an outcome than another: |r| - |r'|, paired.

    Both correlations are computed in every resample, so that what they share cancels. Signs do not
    count: which way each goes is fixed elsewhere.

    Args:
        score: One number per row.
        beside: What it is compared with, such as the index of the checkpoint.
        outcome: One number per row.
        method: ``pearson`` or ``spearman``.
        clusters: Which rows belong together.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Raises:
        InputError: Lengths differ, a value is infinite, or there is no such method.
    """
    if method not in ("pearson", "spearman"):
        raise InputError(f"There is no correlation {method!r}", expected="pearson or spearman")
    rows = complete_rows(
        {"the score": score, "the other score": beside, "the outcome": outcome}, clusters
    )
    a, b, y = rows.columns
    name = f"{method}_gain"
    flat = [
        n for n, column in (("score", a), ("other score", b), ("outcome", y)) if constant(column)
    ]
    reason = f"{rows.n} complete rows, fewer than 3" if rows.n < 3 else ""
    if not reason and flat:
        reason = f"the {flat[0]} is constant"
    if reason:
        return Statistic(**measured(name, None, rows, NO_TEST, unit, resampling, reason))
    make = weighted_pearson if method == "pearson" else weighted_spearman
    own, other = make(a, y), make(b, y)
    return Statistic(
        **measured(
            name, lambda w: np.abs(own(w)) - np.abs(other(w)), rows, NO_TEST, unit, resampling,
            width=8,
        )
    )  # fmt: skip
