"""`summarize`: the statistics of a study at a glance, each with its interval and its baseline."""

from __future__ import annotations

from typing import Any

import numpy as np

from dst.analysis.bootstrap import Resampling
from dst.analysis.coherence import DEFINITIONS
from dst.analysis.within import within_groups
from dst.core.errors import InputError
from dst.core.statistics_results import Statistic
from dst.core.study_results import StudyTable
from dst.core.study_summary import StudySummary
from dst.studies.correlate import provenance_of
from dst.studies.rows import DEPTHS, MARKS

RESAMPLES = 2000


def summarize(
    table: StudyTable, *, group: str = "group", resamples: int = RESAMPLES, seed: int = 0
) -> StudySummary:
    """Outcomes, every score against the errors at every depth, marks in failing and correct runs.

    AUROC: how well a low score tells a hallucination from a correct answer, inside models (their
    mean, where the study is of several), beside the same of the maximum probability on the same
    rows. Answers that are neither are counted apart (METHOD 8). Intervals: BCa, groups drawn
    together.

    Args:
        table: A study, or several stacked.
        group: The column that says which cases belong together.
        resamples: Bootstrap resamples of each number.
        seed: Their seed.

    Raises:
        InputError: The table has no case, or no such column.
    """
    if not len(table):
        raise InputError("The study has no cases", expected="one or more rows")
    status, outcome = table.column("status"), table.column("outcome")
    answered = table.where((status == "ok") & np.isin(outcome, ("correct", "hallucination")))
    error = answered.column("error")
    names = [str(value) for value in answered.column(group)]
    confidence = answered.column("answer_prob")
    how: dict[str, Any] = {
        "clusters": names,
        "resampling": Resampling(n_resamples=resamples, n_permutations=0, seed=seed),
    }
    models = [str(name) for name in answered.column("model")]

    def of(values: np.ndarray, **more: Any) -> Statistic:
        return within_groups(values, error, models, **more, **how)

    scores = tuple(name for name in DEFINITIONS if name in table.scores)
    read = [answered.column(f"{score}@{depth:g}") for score in scores for depth in DEPTHS]
    auroc = tuple(of(-values) for values in read)
    shown = _best(scores, auroc)
    groups = tuple(dict.fromkeys(names))
    means = answered.column(shown) if shown else np.full(len(error), np.nan)
    members = [np.array([name == one for name in names]) for one in groups]
    outcomes, reasons = table.outcomes(), table.failures()
    marks = [f"{name} ({definition})" for name, definition in MARKS]
    marks = [name for name in marks if name in table.names]
    found = {name: ~np.isnan(answered.column(name)) for name in marks}
    return StudySummary(
        outcomes=tuple(outcomes),
        counts=np.array([*outcomes.values()], dtype=np.int64),
        groups=groups,
        error_rate=np.array([error[rows].mean() for rows in members]),
        group_size=np.array([rows.sum() for rows in members], dtype=np.int64),
        scores=scores,
        depths=np.array(DEPTHS),
        auroc=auroc,
        over_confidence=tuple(of(-values, beside=-confidence) for values in read),
        spearman=tuple(of(values, statistic="spearman") for values in read),
        confidence=of(-confidence),
        shown=shown,
        group_score=np.array([_mean(means[rows]) for rows in members]),
        marks=tuple(marks),
        in_failing=np.array([found[n][error == 1].sum() for n in marks], dtype=np.int64),
        in_correct=np.array([found[n][error == 0].sum() for n in marks], dtype=np.int64),
        reasons=tuple(str(reason) for reason in reasons),
        reason_counts=np.array([*reasons.values()], dtype=np.int64),
        models=tuple(dict.fromkeys(str(name) for name in table.column("model"))),
        provenance=provenance_of(table, seed),
    )


def _best(scores: tuple[str, ...], auroc: tuple[Statistic, ...]) -> str:
    """The score and depth before the last state with the largest AUROC; "" if none is defined."""
    early = {
        f"{score}@{depth:g}": auroc[i * len(DEPTHS) + j].value
        for i, score in enumerate(scores)
        for j, depth in enumerate(DEPTHS)
        if depth < 1 and not np.isnan(auroc[i * len(DEPTHS) + j].value)
    }
    return max(early, key=lambda name: early[name], default="")


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
