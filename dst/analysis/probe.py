"""Fitted predictors, always scored on clusters they were not fitted on: a probe, and confidence.

Needs scikit-learn (the extra ``baselines``).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dst.analysis.bootstrap import DEFAULT, Resampling
from dst.analysis.delong import auroc_difference
from dst.analysis.detection import auroc
from dst.analysis.extras import need
from dst.analysis.rows import Labels, check_binary, codes
from dst.core.errors import InputError
from dst.core.statistics_results import Statistic


class OutOfFold(NamedTuple):
    """Log-odds of an error for each row, by a model fitted without the row's cluster."""

    score: Float[np.ndarray, " row"]
    fold: Int[np.ndarray, " row"]


def linear_probe(
    features: Any,
    labels: Any,
    *,
    clusters: Labels | None = None,
    n_folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
) -> OutOfFold:
    """Logistic regression on standardised features, cross-validated with whole clusters left out.

    Mean and scale come from the training clusters too. Rows of one word never stand on both
    sides: a probe that has seen the word would know its answer. Scores of different folds come
    from different fits, so a pooled AUROC is a little lower than the mean over folds.

    Args:
        features: [row feature] or [row]: states, attention ratios, confidence.
        labels: 1 error, 0 correct. A row with NaN in either gets no score and is in no fit.
        clusters: Which rows belong together; by default each is alone.
        n_folds: Number of folds.
        strength: Inverse of the L2 penalty (C). Fix it before, or choose it on other cases.
        seed: Seed of the folds.

    Returns:
        NaN where a row has none, and fold -1 there.

    Raises:
        InputError: Lengths differ, a value is infinite, labels are not 0 or 1, or a class stands
            in fewer clusters than there are folds.
        CapabilityError: scikit-learn is not installed.
    """
    table, label = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or label.shape != table.shape[:1]:
        raise InputError(
            f"The features have the shape {table.shape} and the labels {label.shape}",
            expected="one row of features per label",
        )
    if np.isinf(table).any():
        raise InputError("A feature is infinite", expected="numbers, or NaN where there is none")
    whole = np.flatnonzero(~np.isnan(table).any(axis=1) & ~np.isnan(label))
    check_binary(label[whole], "the labels")
    group = np.arange(len(label)) if clusters is None else codes(clusters)
    if len(group) != len(label):
        raise InputError(f"There are {len(group)} cluster labels for {len(label)} rows")
    least = max(n_folds, 2)
    for kind in (0.0, 1.0):
        found = len(np.unique(group[whole][label[whole] == kind]))
        if found < least:
            raise InputError(
                f"Rows with the label {kind:g} stand in {found} clusters",
                expected=f"{least} or more, for {n_folds} folds",
            )
    linear = need("sklearn.linear_model", "scikit-learn")
    split = need("sklearn.model_selection", "scikit-learn").StratifiedGroupKFold(
        n_folds, shuffle=True, random_state=seed
    )
    # In an order of their own, so that the given order changes nothing.
    keys = [*table[whole].T[::-1], label[whole], group[whole]]
    order = whole[np.lexsort(keys)]
    score, fold = np.full(len(label), np.nan), np.full(len(label), -1)
    for i, (train, test) in enumerate(split.split(order, label[order], group[order])):
        fit, held = order[train], order[test]
        if len(np.unique(label[fit])) < 2:
            continue  # unscored: no model of errors can come from one class
        mean, spread = table[fit].mean(axis=0), table[fit].std(axis=0)
        scale = np.where(spread > 1e-12, spread, np.inf)
        model = linear.LogisticRegression(C=strength, max_iter=5000)
        model.fit((table[fit] - mean) / scale, label[fit])
        score[held] = model.decision_function((table[held] - mean) / scale)
        fold[held] = i
    return OutOfFold(score, fold)


class Gain(NamedTuple):
    """What a score adds to confidence: AUROC with it, without it, and the difference."""

    with_score: Statistic
    confidence_alone: Statistic
    difference: Statistic


def delta_auroc(
    score: Any,
    confidence: Any,
    labels: Any,
    *,
    clusters: Labels | None = None,
    n_folds: int = 5,
    seed: int = 0,
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> Gain:
    """Delta-AUROC: what a score adds to output confidence, out of fold.

    Two logistic regressions on the same folds, one of ``confidence`` alone and one of it with
    the score, each scored on clusters it was not fitted on; the difference with a paired cluster
    bootstrap and clustered DeLong. The bootstrap resamples the out-of-fold scores and does not
    refit, so the spread of the fits themselves is not in it. A useless score gives a difference
    a little under 0, for its weight is fitted to noise.

    Args:
        score: One number per row.
        confidence: [row] or [row feature]: max p, entropy, the size of LD.
        labels: 1 error, 0 correct.
        clusters: Which rows belong together.
        n_folds: Number of folds.
        seed: Seed of the folds.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Raises:
        InputError, CapabilityError: As in `linear_probe`.
    """
    own = np.asarray(score, dtype=np.float64)
    known = np.asarray(confidence, dtype=np.float64)
    known = known[:, None] if known.ndim == 1 else known
    both = np.column_stack([known, own])
    # The same rows for both: those that have everything.
    label = np.where(np.isnan(both).any(axis=1), math.nan, np.asarray(labels, dtype=np.float64))
    with_score, alone = (
        linear_probe(table, label, clusters=clusters, n_folds=n_folds, seed=seed).score
        for table in (both, known)
    )
    options: dict[str, Any] = {"clusters": clusters, "unit": unit, "resampling": resampling}
    return Gain(
        auroc(with_score, label, **options),
        auroc(alone, label, **options),
        auroc_difference(with_score, alone, label, name="delta_auroc", **options),
    )
