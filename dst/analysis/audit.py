"""The circularity audit: does a score know more than conditions that cannot know it?

A score that restates the output, the noun, the word list or the geometry of the unembedding
correlates with errors too. The audit scores the same cases under conditions that keep one of
these and nothing else; the claim stands only if the score beats them (METHOD 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dst.analysis.bootstrap import DEFAULT, Resampling
from dst.analysis.bootstrap import Statistic as WeightedStatistic
from dst.analysis.rows import Labels, Rows, check_binary, complete_rows, constant
from dst.analysis.statistics import ranks
from dst.analysis.summary import NO_TEST, exchange_test, measured
from dst.analysis.weighted import weighted_auroc, weighted_spearman
from dst.core.errors import InputError
from dst.core.statistics_results import CircularityAudit, Statistic

CONDITIONS = {
    "neutral_only": "The score of the neutral prompt alone: it knows the noun, not the context.",
    "shuffled_words": "Word lists of other cases: it knows that there are lists, not which.",
    "random_weights": "The same model with random weights: it knows the architecture alone.",
    "last_layer": "The score at the last state, which restates the output.",
    "answer_projected_out": "The answer's direction removed from the states: all but the answer.",
}
"""The conditions of the audit, and what each can and cannot know."""


def circularity_audit(
    score: Any,
    conditions: Mapping[str, Any],
    outcome: Any,
    *,
    statistic: Literal["auroc", "spearman"] = "auroc",
    higher_means_error: bool = True,
    clusters: Labels | None = None,
    unit: str = "item",
    resampling: Resampling = DEFAULT,
) -> CircularityAudit:
    """A score beside its audit conditions: each value, and the paired difference with its interval.

    AUROC (outcome 0 or 1) or Spearman's rho (outcome a rate), signed so that larger is better in
    the direction fixed beforehand: a condition that predicts in the wrong direction counts as
    bad, not as good. A condition with several draws (of shuffled lists, of random weights) has
    the mean of its draws' values, in every resample. Differences are over the rows that have the
    score and the condition, in the same resamples; "beaten" means that the BCa interval lies
    above 0.

    ``last_layer`` and ``answer_projected_out`` are conditions of another kind: the first is what
    the score must not merely echo, the second what should be left of it. Read their values, not
    only whether they are beaten.

    Args:
        score: One number per row.
        conditions: Name (see `CONDITIONS`) -> [row] or [draw row].
        outcome: Error, one number per row.
        statistic: ``auroc`` or ``spearman``.
        higher_means_error: Direction, fixed on development cases.
        clusters: Which rows belong together.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Returns:
        The conditions in the order given; those of `CONDITIONS` that were not given as missing.

    Raises:
        InputError: Lengths differ, a value is infinite, an AUROC's outcome is not 0 or 1, there
            is no condition, or the statistic has no such name.
    """
    if not conditions:
        raise InputError("The audit has no conditions", expected=f"some of {', '.join(CONDITIONS)}")
    if statistic not in ("auroc", "spearman"):
        raise InputError(f"There is no statistic {statistic!r}", expected="auroc or spearman")
    own = np.asarray(score, dtype=np.float64)[None]
    sign = 1.0 if higher_means_error else -1.0

    def one(name: str, draws: Float[np.ndarray, "draw row"]) -> Statistic:
        rows, reason = _rows([("the score", draws)], outcome, clusters, statistic)
        number = None if reason else _mean_of(rows, slice(0, -1), statistic)
        test = NO_TEST
        if not reason and len(draws) == 1:
            a, b = (ranks(column) for column in rows.columns)
            test = exchange_test(a, b, rows, None, clusters is not None, resampling)
        return Statistic(**measured(name, number, rows, test, unit, resampling, reason, width=8))

    def paired(name: str, draws: Float[np.ndarray, "draw row"]) -> Statistic:
        rows, reason = _rows([("the score", own), (name, draws)], outcome, clusters, statistic)
        first, second = (_mean_of(rows, part, statistic) for part in (slice(0, 1), slice(1, -1)))
        name = f"score - {name}"
        number = _minus(first, second)
        return Statistic(**measured(name, number, rows, NO_TEST, unit, resampling, reason, width=8))

    drawn = {
        name: sign * (values[None] if values.ndim == 1 else values)
        for name, values in ((n, np.asarray(v, dtype=np.float64)) for n, v in conditions.items())
    }
    own = sign * own
    differences = tuple(paired(name, draws) for name, draws in drawn.items())
    return CircularityAudit(
        statistic=statistic,
        score=one("score", own),
        conditions=tuple(one(name, draws) for name, draws in drawn.items()),
        differences=differences,
        beaten=tuple(bool(found.interval.low > 0) for found in differences),
        missing=tuple(name for name in CONDITIONS if name not in conditions),
    )


def _rows(
    parts: list[tuple[str, Float[np.ndarray, "draw row"]]],
    outcome: Any,
    clusters: Labels | None,
    statistic: str,
) -> tuple[Rows, str]:
    columns: dict[str, Any] = {}
    for name, draws in parts:
        columns |= {f"{name} (draw {i})": draw for i, draw in enumerate(draws)}
    rows = complete_rows(columns | {"the outcome": outcome}, clusters)
    error = rows.columns[-1]
    if statistic == "auroc":
        check_binary(error, "the outcome")
    if rows.n < 3:
        return rows, f"{rows.n} complete rows, fewer than 3"
    if constant(error):
        return rows, "one class only" if statistic == "auroc" else "the outcome is constant"
    for name, column in zip(columns, rows.columns, strict=False):
        if constant(column):
            return rows, f"{name} is constant"
    return rows, ""


def _minus(first: WeightedStatistic, second: WeightedStatistic) -> WeightedStatistic:
    return lambda weights: first(weights) - second(weights)


def _mean_of(rows: Rows, draws: slice, statistic: str) -> WeightedStatistic:
    error = rows.columns[-1]
    parts = [
        weighted_auroc(column, error == 1)
        if statistic == "auroc"
        else weighted_spearman(column, error)
        for column in rows.columns[draws]
    ]
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)
