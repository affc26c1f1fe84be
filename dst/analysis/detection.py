"""How well a score tells errors from correct answers: AUROC, AUPRC, PRR and ECE.

Conventions: a label is 1 for an error and 0 for a correct answer (NaN for an invalid answer, which
is dropped and counted), and a higher score means "more likely an error". A score that runs the
other way (coherence, confidence) is negated by the caller, before any label is seen. Source:
METHOD 9.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dst.analysis.bootstrap import DEFAULT, Resampling
from dst.analysis.rows import Labels, Rows, check_binary, complete_rows, constant
from dst.analysis.statistics import ranks
from dst.analysis.summary import NO_TEST, Exchange, exchange_test, measured
from dst.analysis.weighted import (
    weighted_auroc,
    weighted_average_precision,
    weighted_calibration_error,
    weighted_prr,
)
from dst.core.errors import InputError
from dst.core.statistics_results import Statistic


def auroc(
    scores: Any,
    labels: Any,
    *,
    clusters: Labels | None = None,
    strata: Labels | None = None,
    exchange: Exchange | None = None,
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """Probability that an error scores higher than a correct answer, ties counting half.

    AUROC = (sum of the errors' mid-ranks - n1 (n1 + 1) / 2) / (n1 n0); 1/2 is chance. Intervals
    and p as in `dst.analysis.statistics.correlation`; the p is of the rank sum.

    Args:
        scores: Higher means more likely an error.
        labels: 1 error, 0 correct.
        clusters: Which rows belong together; by default none.
        strata: Between which rows nothing is exchanged.
        exchange: ``items`` or ``clusters``.
        unit: What a row is.
        resampling: Numbers of resamples and permutations, level, seed.

    Returns:
        NaN with a reason where there is only one class, or a constant score.

    Raises:
        InputError: Lengths differ, a score is infinite, or a label is not 0 or 1.
    """
    rows, reason = _labelled(scores, labels, clusters, strata)
    score, label = rows.columns
    if reason:
        return Statistic(**measured("auroc", None, rows, NO_TEST, unit, resampling, reason))
    test = exchange_test(ranks(score), label, rows, exchange, clusters is not None, resampling)
    return Statistic(
        **measured(
            "auroc", weighted_auroc(score, label == 1), rows, test, unit, resampling, width=4
        )
    )


def average_precision(
    scores: Any,
    labels: Any,
    *,
    clusters: Labels | None = None,
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """Area under precision against recall (AUPRC), without interpolation.

    AP = sum over thresholds, high to low, of (recall gained) * precision. Chance is the share of
    errors, not 1/2, so values of data sets with other error rates do not compare.

    Args:
        scores: Higher means more likely an error.
        labels: 1 error, 0 correct.
        clusters: Which rows belong together.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Returns:
        NaN with a reason where there is only one class, or a constant score.

    Raises:
        InputError: As in `auroc`.
    """
    rows, reason = _labelled(scores, labels, clusters)
    score, label = rows.columns
    statistic = None if reason else weighted_average_precision(score, label == 1)
    return Statistic(
        **measured("average_precision", statistic, rows, NO_TEST, unit, resampling, reason, width=4)
    )


def prr(
    uncertainty: Any,
    quality: Any,
    *,
    clusters: Labels | None = None,
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """Prediction rejection ratio: how much of the best possible gain by rejecting a score buys.

    PRR = (A_score - A_random) / (A_oracle - A_random), A = mean quality of what is kept, averaged
    over keeping the k = 1..n least uncertain answers. 1 is as good as knowing, 0 is chance,
    under 0 is worse. Ties are kept in random order (their expectation).

    Args:
        uncertainty: Higher is rejected earlier.
        quality: Of each answer, any scale; 1 - error for labels.
        clusters: Which rows belong together.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Returns:
        NaN with a reason where quality or uncertainty is constant.

    Raises:
        InputError: Lengths differ or a value is infinite.

    Source: METHOD 13; Malinin and Gales (2021).
    """
    rows = complete_rows({"the uncertainty": uncertainty, "the quality": quality}, clusters)
    doubt, good = rows.columns
    reason = too_few(rows)
    if not reason and constant(good):
        reason = "the quality is constant"
    if not reason and constant(doubt):
        reason = "the uncertainty is constant"
    statistic = None if reason else weighted_prr(doubt, good)
    return Statistic(**measured("prr", statistic, rows, NO_TEST, unit, resampling, reason, width=6))


def calibration_error(
    probability: Any,
    labels: Any,
    *,
    n_bins: int = 10,
    binning: Literal["width", "mass"] = "width",
    clusters: Labels | None = None,
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """Expected calibration error: how far stated probabilities are from observed rates.

    ECE = sum over bins of (rows in bin / n) |mean label - mean probability|, in probability.
    Bins are fixed before resampling: equal widths on [0, 1], or equal numbers of rows (ties
    stay together). ECE is never under 0 and grows with the number of bins even under perfect
    calibration, so an interval that excludes 0 is no evidence.

    Args:
        probability: Stated probability of an error.
        labels: 1 error, 0 correct.
        n_bins: Number of bins.
        binning: ``width`` or ``mass``.
        clusters: Which rows belong together.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Raises:
        InputError: A probability is outside 0..1, there are no bins, or as in `auroc`.

    Source: Naeini et al. (2015); Guo et al. (2017).
    """
    rows = complete_rows({"the probability": probability, "the labels": labels}, clusters)
    stated, label = rows.columns
    check_binary(label, "the labels")
    if n_bins < 1:
        raise InputError(f"There are {n_bins} bins", expected="1 or more")
    if ((stated < 0) | (stated > 1)).any():
        raise InputError("A probability lies outside 0..1", do="Turn the score into one first")
    if binning == "width":
        bins = np.minimum(np.floor(stated * n_bins), n_bins - 1)
    elif binning == "mass":
        bins = np.floor((ranks(stated) - 0.5) / max(rows.n, 1) * n_bins)
    else:
        raise InputError(f"There is no binning {binning!r}", expected="width or mass")
    reason = too_few(rows)
    statistic = None if reason else weighted_calibration_error(stated, label == 1, bins)
    return Statistic(**measured("ece", statistic, rows, NO_TEST, unit, resampling, reason))


# -- shared -------------------------------------------------------------------------------------


def _labelled(
    scores: Any, labels: Any, clusters: Labels | None, strata: Labels | None = None
) -> tuple[Rows, str]:
    rows = complete_rows({"the score": scores, "the labels": labels}, clusters, strata)
    score, label = rows.columns
    check_binary(label, "the labels")
    reason = too_few(rows) or one_class(label)
    if not reason and constant(score):
        reason = "the score is constant"
    return rows, reason


def too_few(rows: Rows) -> str:
    """Why there are too few rows; "" where there are enough."""
    return f"{rows.n} complete rows, fewer than 3" if rows.n < 3 else ""


def one_class(label: Float[np.ndarray, " row"]) -> str:
    """Why labels of one class can't be told apart; "" where there are two."""
    return "one class only" if label.min() == label.max() else ""
