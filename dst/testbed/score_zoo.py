"""Grade measures on models that were trained: against the greedy outcome, and exact patching.

Nothing is planted here, so there is no true number. Two things are known of every case: what the
model answers, and what every patch does when it is made. A score is held against the first, an
estimate of patching against the second.

    print(table(score_zoo(["l4-w96-s0-0640"], per_kind=10)))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dst.analysis.bootstrap import Resampling
from dst.analysis.detection import auroc
from dst.analysis.proportion import wilson
from dst.core.case import Case
from dst.core.errors import DSTError
from dst.core.results import Coherence
from dst.models.backend import Backend
from dst.studies.explain import outcome_of
from dst.studies.measure import coherence, measure
from dst.testbed import world, zoo
from dst.testbed.card import WITH_CUE
from dst.tracing.attribution_patching import attribution_patch
from dst.tracing.progress import progress

DEPTH = 0.75
"""Scores are read at this share of depth: at the last state some of them are the output itself."""

MIDDLE = {"share": 0.5}
"""The value that sides with neither answer, by a score's unit; 0 for all others."""


@dataclass(frozen=True)
class ScoreGrade:
    """A coherence score against the greedy outcome, correct or hallucinated.

    Attributes:
        measure: Name of the score.
        kind: Kind of case, or ``all``.
        n: Cases with a defined score and one of the two outcomes.
        undefined: Cases whose score is NaN.
        agrees: Share of n in which the score's side is the outcome's.
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end.
        auroc: Probability that a hallucination has the lower score; NaN with one outcome only.
    """

    measure: str
    kind: str
    n: int
    undefined: int
    agrees: float
    low: float
    high: float
    auroc: float


@dataclass(frozen=True)
class RankGrade:
    """An estimate of patching against exact patching of every cell of the grid.

    Attributes:
        estimate: Its name, such as ``atp``.
        kind: Kind of case, or ``all``.
        n: Cases.
        spearman: Mean over cases of the rank agreement over all cells, layer by role.
        worst: The lowest of them.
    """

    estimate: str
    kind: str
    n: int
    spearman: float
    worst: float


@dataclass(frozen=True)
class ZooScores:
    """Every grade, and the cases that could not be measured with their reasons."""

    checkpoints: tuple[str, ...]
    scores: tuple[ScoreGrade, ...]
    ranks: tuple[RankGrade, ...]
    failures: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Row:
    """What one case gave."""

    kind: str
    outcome: str
    values: Mapping[str, tuple[float, float]]  # score, and the value that sides with neither
    ranks: Mapping[str, float]


def score_zoo(
    names: Sequence[str] = (), *, per_kind: int = 10, seed: int = 0, show_progress: bool = False
) -> ZooScores:
    """Grade every coherence score and every estimate of patching on checkpoints of the zoo.

    Args:
        names: Checkpoints; all by default.
        per_kind: Minority-sense cases of the test split, of each kind.
        seed: Of the cases.
        show_progress: Draw a line with the time left on the error stream.

    Returns:
        `ZooScores`. A case that cannot be measured is a failure with its reason.

    Raises:
        InputError, ModelError: There is no zoo, or no such checkpoint.
    """
    chosen = tuple(names) or tuple(zoo.names())
    for name in chosen:
        zoo.folder(name)
    cases = world.cases("test", n=per_kind * len(WITH_CUE), seed=seed, kinds=WITH_CUE)
    rows: list[_Row] = []
    failures: list[str] = []
    with progress("zoo", len(chosen) * len(cases), unit="case", show=show_progress) as tick:
        for name in chosen:
            model = zoo.load(name)
            for case in cases:
                try:
                    rows.append(_row(model, case))
                except DSTError as error:
                    failures.append(f"{name}, {case.case_id}: {error}")
                tick(1)
    return ZooScores(chosen, _score_grades(rows), _rank_grades(rows), tuple(failures))


def _row(model: Backend, case: Case) -> _Row:
    run = measure(model, case)
    found: Coherence = coherence(model, case, measured=run)
    estimated = attribution_patch(
        model, case, donor="neutral", by="role", sample=None, show_progress=False
    )
    return _Row(
        kind=world.kind_of(case),
        outcome=outcome_of(run.seen, int(run.seen.logits.argmax())),
        values={s.name: (s.at(DEPTH), MIDDLE.get(s.unit, 0.0)) for s in found.scores},
        ranks={one.estimate: one.spearman for one in estimated.agreement},
    )


def _by_kind(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
    kinds = {"all": list(rows)}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return kinds


def _score_grades(rows: Sequence[_Row]) -> tuple[ScoreGrade, ...]:
    grades = []
    for kind, mine in _by_kind(rows).items():
        told = [row for row in mine if row.outcome != "neither"]
        for name in dict.fromkeys(name for row in told for name in row.values):
            given = [(row, *row.values[name]) for row in told if name in row.values]
            there = [(row, value, middle) for row, value, middle in given if not math.isnan(value)]
            right = sum(
                (value > middle) == (row.outcome == "correct") for row, value, middle in there
            )
            n = len(there)
            low, high = wilson(right, n)
            wrong = [row.outcome == "hallucination" for row, _, _ in there]
            ranked = math.nan
            if 0 < sum(wrong) < n:
                quick = Resampling(n_resamples=1, n_permutations=1)
                ranked = auroc([-value for _, value, _ in there], wrong, resampling=quick).value
            share = right / n if n else math.nan
            grades.append(ScoreGrade(name, kind, n, len(given) - n, share, low, high, ranked))
    return tuple(grades)


def _rank_grades(rows: Sequence[_Row]) -> tuple[RankGrade, ...]:
    grades = []
    for kind, mine in _by_kind(rows).items():
        for name in dict.fromkeys(name for row in mine for name in row.ranks):
            values = np.array([row.ranks[name] for row in mine if name in row.ranks])
            values = values[~np.isnan(values)]
            if len(values):
                mean, least = float(values.mean()), float(values.min())
                grades.append(RankGrade(name, kind, len(values), mean, least))
    return tuple(grades)


def table(found: ZooScores) -> str:
    """The grades as two tables in Markdown that read as text."""
    kinds = list(dict.fromkeys(grade.kind for grade in found.scores))
    lines = [
        f"{len(found.checkpoints)} checkpoints. Score's side = greedy outcome at depth {DEPTH}, "
        "share of cases (AUROC of hallucination):",
        "",
        "| score | " + " | ".join(kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    for name in dict.fromkeys(grade.measure for grade in found.scores):
        by_kind = {grade.kind: grade for grade in found.scores if grade.measure == name}
        cells = [_cell(by_kind.get(kind)) for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Rank agreement with exact patching of every cell, layer by role (mean, lowest):",
        "",
        "| estimate | " + " | ".join(kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    for name in dict.fromkeys(grade.estimate for grade in found.ranks):
        ranked = {grade.kind: grade for grade in found.ranks if grade.estimate == name}
        cells = [
            f"{ranked[kind].spearman:.2f}, {ranked[kind].worst:.2f}" if kind in ranked else ""
            for kind in kinds
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if found.failures:
        lines += ["", f"{len(found.failures)} cases could not be measured:", *found.failures[:5]]
    return "\n".join(lines)


def _cell(grade: ScoreGrade | None) -> str:
    if grade is None or not grade.n:
        return "undefined"
    ranked = "" if math.isnan(grade.auroc) else f" ({grade.auroc:.2f})"
    return f"{grade.agrees:.2f} of {grade.n}{ranked}"
