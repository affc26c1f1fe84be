"""Correlations over many cases, with intervals and p-values that know which cases belong together.

A row is an item or a group. Rows of one cluster (a word, say) are drawn together in the bootstrap;
rows are exchanged only inside a stratum (a model on a task, say). Whatever is undefined is NaN
with the reason. Source: METHOD 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dst.analysis.bootstrap import DEFAULT, Resampling
from dst.analysis.rows import Labels, check_binary, codes, complete_rows, constant
from dst.analysis.summary import NO_TEST, Exchange, exchange_test, measured
from dst.analysis.weighted import weighted_partial, weighted_pearson, weighted_spearman
from dst.core.errors import InputError
from dst.core.statistics_results import Correlation

Method = Literal["pearson", "spearman", "point_biserial"]


def correlation(
    x: Any,
    y: Any,
    *,
    method: Method = "spearman",
    clusters: Labels | None = None,
    strata: Labels | None = None,
    exchange: Exchange | None = None,
    unit: str = "item",
    score: str = "",
    outcome: str = "",
    resampling: Resampling = DEFAULT,
) -> Correlation:
    """How a score goes with an outcome: r or rho, its intervals and its p-value.

    - ``pearson``: cov(x, y) / sqrt(var(x) var(y)).
    - ``spearman``: the same of mid-ranks.
    - ``point_biserial``: Pearson's r where y is 0 or 1 (an error, say).

    Interval: BCa over resamples of the clusters, then of the items in them; the percentile
    interval beside it. p: by default, where ``clusters`` are given, sign-flips of whole clusters'
    contributions (`cluster_sign_flip_test`), otherwise permutation of items (`permutation_test`);
    both centre inside strata, so the null is "no relation inside any stratum".

    Args:
        x: The score, one number per row. NaN rows are dropped and counted.
        y: The outcome, one number per row.
        method: Which correlation.
        clusters: Which rows belong together; by default none.
        strata: Between which rows nothing is exchanged; by default one stratum.
        exchange: ``items`` or ``clusters``, to choose the p-value against the default. Items of
            a cluster that are alike beyond their stratum make ``items`` too small a p.
        unit: What a row is, for the record: ``item`` or ``group``. Correlations of groups are
            ecological: they can be far larger than those of the items in them.
        score: Name of x, for the record.
        outcome: Name of y, for the record.
        resampling: Numbers of resamples and permutations, level, seed.

    Returns:
        NaN with a reason for fewer than 3 complete rows or a constant column.

    Raises:
        InputError: Lengths differ, a value is infinite, a label is missing, or the outcome of
            ``point_biserial`` is not 0 or 1.

    Source: Efron (1987) for BCa; Davison and Hinkley (1997), 3.8, for the two-stage bootstrap.
    """
    rows = complete_rows({"the score": x, "the outcome": y}, clusters, strata)
    a, b = rows.columns
    if method == "point_biserial":
        check_binary(b, "the outcome")
    names: dict[str, Any] = {"score": score, "outcome": outcome}
    if reason := undefined_pair(a, b):
        nothing = measured(method, None, rows, NO_TEST, unit, resampling, reason)
        return Correlation(**nothing, **names)
    if method == "spearman":
        statistic, width = weighted_spearman(a, b), 4
        a, b = ranks(a), ranks(b)
    elif method in ("pearson", "point_biserial"):
        statistic, width = weighted_pearson(a, b), 1
    else:
        raise InputError(
            f"There is no correlation {method!r}", expected="pearson, spearman or point_biserial"
        )
    test = exchange_test(a, b, rows, exchange, clusters is not None, resampling)
    found = measured(method, statistic, rows, test, unit, resampling, width=width)
    return Correlation(**found, **names)


def partial_correlation(
    x: Any,
    y: Any,
    covariates: Mapping[str, Any],
    *,
    ranked: bool = True,
    clusters: Labels | None = None,
    strata: Labels | None = None,
    exchange: Exchange | None = None,
    unit: str = "item",
    score: str = "",
    outcome: str = "",
    resampling: Resampling = DEFAULT,
) -> Correlation:
    """What of a correlation is left when covariates are held fixed: confidence, length, model.

    The correlation of what least squares leave of x and of y after the covariates. With
    ``ranked`` all columns are mid-ranks first (partial Spearman), in every resample anew. With
    the `indicators` of a group as covariates, it is the correlation inside groups, their means
    removed.

    p is of the residuals, exchanged as in `correlation`: exact for known regressions, close for
    estimated ones (Kennedy's permutation).

    Args:
        x: The score.
        y: The outcome.
        covariates: Name -> one number per row, or [row column] such as `indicators` gives.
        ranked: Whether columns are ranked.
        clusters: As in `correlation`; so are the other arguments.
        strata: Between which rows nothing is exchanged.
        exchange: ``items`` or ``clusters``.
        unit: What a row is.
        score: Name of x.
        outcome: Name of y.
        resampling: Numbers of resamples and permutations, level, seed.

    Returns:
        NaN with a reason where there are too few rows, a column is constant, or the covariates
        explain x or y completely.

    Raises:
        InputError: As in `correlation`, or there are no covariates.

    Source: METHOD 9; Kim (2015) for the formula from the inverse correlation matrix.
    """
    if not covariates:
        raise InputError("There are no covariates", do="Use correlation(), which needs none")
    columns = {"the score": x, "the outcome": y}
    for name, given in covariates.items():
        table = np.asarray(given)
        if table.ndim == 2:
            columns |= {f"{name} {j}": table[:, j] for j in range(table.shape[1])}
        else:
            columns[name] = given
    rows = complete_rows(columns, clusters, strata)
    method = "partial_spearman" if ranked else "partial_pearson"
    names: dict[str, Any] = {
        "score": score,
        "outcome": outcome,
        "covariates": tuple(covariates),
    }
    reason = undefined_pair(*rows.columns[:2], least=len(columns) + 1)
    if not reason:
        statistic = weighted_partial(rows.columns, ranked=ranked)
        if math.isnan(statistic(np.ones((1, rows.n)))[0]):
            reason = "the covariates explain the score or the outcome completely"
    if reason:
        nothing = measured(method, None, rows, NO_TEST, unit, resampling, reason)
        return Correlation(**nothing, **names)
    a, b = residuals(rows.columns, ranked=ranked)
    test = exchange_test(a, b, rows, exchange, clusters is not None, resampling)
    width = 2 * len(columns) + 2
    found = measured(method, statistic, rows, test, unit, resampling, width=width)
    return Correlation(**found, **names)


# -- parts that other statistics use too ------------------------------------------------------


def ranks(column: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Mid-ranks from 1: ties share the mean of their places."""
    _, code, count = np.unique(column, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[code.reshape(-1)]


def residuals(
    columns: tuple[Float[np.ndarray, " row"], ...], *, ranked: bool
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """What least squares on the other columns (and a constant) leave of the first two."""
    table = np.stack([ranks(c) if ranked else c for c in columns], axis=1)
    table = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-300)
    design = np.column_stack([np.ones(len(table)), table[:, 2:]])
    fitted = design @ np.linalg.lstsq(design, table[:, :2], rcond=None)[0]
    left = table[:, :2] - fitted
    return left[:, 0], left[:, 1]


def undefined_pair(
    x: Float[np.ndarray, " row"], y: Float[np.ndarray, " row"], *, least: int = 3
) -> str:
    """Why two columns have no correlation; "" where they have one."""
    if len(x) < least:
        return f"{len(x)} complete rows, fewer than {least}"
    if constant(x):
        return "the score is constant"
    return "the outcome is constant" if constant(y) else ""


# -- groups -----------------------------------------------------------------------------------


def indicators(labels: Labels) -> Float[np.ndarray, "row level"]:
    """One 0/1 column per label but the first: a group as covariates."""
    code = codes(labels, name="labels")
    return (code[:, None] == np.arange(1, code.max(initial=0) + 1)).astype(np.float64)


def remove_group_means(values: Any, groups: Labels) -> Float[np.ndarray, " row"]:
    """Each value minus the mean of its group (over the group's values that are not NaN)."""
    numbers, code = np.asarray(values, dtype=np.float64), codes(groups, name="groups")
    seen = ~np.isnan(numbers)
    count = np.bincount(code, seen)
    total = np.bincount(code, np.where(seen, numbers, 0.0))
    return numbers - np.where(count > 0, total / np.maximum(count, 1), np.nan)[code]


class LeftOut(NamedTuple):
    """A statistic without one group, and on that group alone."""

    group: Any
    n: int
    without: float
    alone: float


def leave_one_group_out(
    statistic: Callable[[Bool[np.ndarray, " row"]], float], groups: Labels
) -> tuple[LeftOut, ...]:
    """Whether one group carries a result: the statistic without each group, and inside it.

    Args:
        statistic: From a mask of rows to a number (NaN where it is undefined), such as
            ``lambda rows: correlation(x[rows], y[rows], resampling=none).value``.
        groups: One label per row: its model, say, or its task.
    """
    code = codes(groups, name="groups")
    found = []
    for i in range(code.max(initial=-1) + 1):
        inside = code == i
        label = groups[int(np.flatnonzero(inside)[0])]
        found.append(
            LeftOut(label, int(inside.sum()), float(statistic(~inside)), float(statistic(inside)))
        )
    return tuple(found)
