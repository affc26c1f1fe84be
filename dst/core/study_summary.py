"""What a study says at a glance: outcomes, every score against the errors, marks, failures."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dst.core.results import Provenance, Result, result
from dst.core.statistics_results import Statistic


@result
class StudySummary(Result):
    """The statistics of a study table, each with its interval.

    Attributes:
        outcomes: ``correct``, ``hallucination``, ``neither``, ``failed``.
        counts: Cases of each.
        groups: The groups of the cases, such as words.
        error_rate: Hallucinations over answered cases, per group; NaN where none was answered.
        group_size: Answered cases per group.
        scores: Names of the scores.
        depths: The shares of depth at which they were read.
        auroc: Per score and depth, row by row: how well a low score tells an error.
        over_confidence: The same minus what the maximum probability tells, on the same rows.
        spearman: The score's rank correlation with the error.
        confidence: AUROC of one minus the maximum probability.
        shown: The score and depth whose group means follow: the largest AUROC among the scores
            that were read before the end.
        group_score: Its mean per group; NaN where it is undefined throughout.
        marks: Names of the marks.
        in_failing: Failing runs in which each mark was found.
        in_correct: Correct runs in which it was.
        reasons: Why cases failed, the most frequent first.
        reason_counts: How many failed so.
        models: The models of the cases.
        provenance: What it takes to compute this again.
    """

    outcomes: tuple[str, ...]
    counts: Int[np.ndarray, " outcome"]
    groups: tuple[str, ...]
    error_rate: Float[np.ndarray, " group"]
    group_size: Int[np.ndarray, " group"]
    scores: tuple[str, ...]
    depths: Float[np.ndarray, " depth"]
    auroc: tuple[Statistic, ...]
    over_confidence: tuple[Statistic, ...]
    spearman: tuple[Statistic, ...]
    confidence: Statistic
    shown: str
    group_score: Float[np.ndarray, " group"]
    marks: tuple[str, ...]
    in_failing: Int[np.ndarray, " mark"]
    in_correct: Int[np.ndarray, " mark"]
    reasons: tuple[str, ...]
    reason_counts: Int[np.ndarray, " reason"]
    models: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        cells = len(self.scores) * len(self.depths)
        for name in ("auroc", "over_confidence", "spearman"):
            if len(getattr(self, name)) != cells:
                raise ValueError(f"{name}: one statistic per score and depth")

    def count(self, outcome: str) -> int:
        """Cases that ended so."""
        return int(self.counts[self.outcomes.index(outcome)]) if outcome in self.outcomes else 0

    def at(self, score: str, depth: float) -> int:
        """Where a score's statistics at a depth stand in the three tuples."""
        place = int(np.flatnonzero(np.isclose(self.depths, depth))[0])
        return self.scores.index(score) * len(self.depths) + place

    def to_records(self) -> list[dict[str, Any]]:
        """One row per score and depth."""
        rows = []
        for i, score in enumerate(self.scores):
            for j, depth in enumerate(self.depths):
                place = i * len(self.depths) + j
                row: dict[str, Any] = {"score": score, "depth": float(depth)}
                for name in ("auroc", "over_confidence", "spearman"):
                    found: Statistic = getattr(self, name)[place]
                    row |= {
                        name: found.value,
                        f"{name}.low": found.interval.low,
                        f"{name}.high": found.interval.high,
                        f"{name}.reason": found.reason,
                    }
                rows.append(row)
        return rows
