"""`correlate`: how a score of a study goes with an outcome, by the statistics of `dst.analysis`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dst.analysis.bootstrap import Resampling
from dst.analysis.statistics import Method, correlation, indicators, partial_correlation
from dst.core.errors import InputError
from dst.core.results import Provenance
from dst.core.statistics_results import Correlation
from dst.core.study_results import StudyTable

Unit = Literal["item", "group"]

SHARES = ("dss_causal", "dss_removal", "dss_in_transit", "dss_attribution")
"""Scores that are 1 by definition where prior and context push the same way (METHOD 3a)."""


def correlate(
    table: StudyTable,
    *,
    score: str,
    outcome: str = "error",
    unit: Unit = "item",
    method: Method = "spearman",
    group: str = "group",
    within: str | Sequence[str] | None = None,
    covariates: str | Sequence[str] = (),
    no_conflict: bool = False,
    resampling: Resampling | None = None,
    seed: int = 0,
) -> Correlation:
    """How a score goes with an outcome over the cases of a study, with interval and p-value.

    - ``unit="item"``: a row is a case; cases of one group are drawn together.
    - ``unit="group"``: a row is a group (of each value of ``within``): mean score against mean
      outcome over the very same cases. Ecological: it can be far larger than that of the items.

    Interval: BCa over resamples of groups, then of the rows in them. p: sign-flips of whole
    groups where they hold several rows, else permutation; both inside ``within``.

    Args:
        table: A study, or several stacked (`dst.core.study_results.stack`).
        score: A column; a score's bare name means it at 0.75 of the depth, and the result's
            ``score`` and ``note`` say so.
        outcome: A column; ``error`` is 1 for a hallucination, 0 for a correct answer, undefined
            for neither.
        unit: What a row is.
        method: ``pearson``, ``spearman``, or ``point_biserial``.
        group: The column that says which cases belong together. A case without one stands for
            itself.
        within: A column or some, such as ``model``: their means are removed (a partial
            correlation on them), and nothing is exchanged between their values.
        covariates: Columns to hold fixed, such as ``answer_prob`` and ``prompt_tokens``.
        no_conflict: Keep cases in which prior and context push the same way with the scores of
            `SHARES`, which are 1 there by definition.
        resampling: Numbers of resamples and permutations; by default 10,000 each.
        seed: Seed of everything drawn, where ``resampling`` is not given.

    Returns:
        A `Correlation`; NaN with a reason where it is undefined. Its ``note`` counts the cases
        that were left out.

    Raises:
        InputError: There is no such column, it is no column of numbers, or the unit or the
            method does not exist.

    Source: METHOD 9.
    """
    if unit not in ("item", "group"):
        raise InputError(f"There is no unit {unit!r}", expected="item or group")
    full = table.resolve(score)
    notes = [f"{score} means {full}"] if full != score and "@" not in score else []
    held = (covariates,) if isinstance(covariates, str) else tuple(covariates)
    strata = (within,) if isinstance(within, str) else tuple(within or ())
    data = _Data(
        {name: _numbers(table, name) for name in (full, outcome, *held)},
        _labels(table, (group,), own=True),
        _labels(table, strata) if strata else None,
    )
    if not no_conflict and full.rpartition("@")[0] in SHARES:
        agree = _numbers(table, "no_conflict") == 1
        if agree.any():
            notes.append(f"{int(agree.sum())} cases without conflict left out")
            data = data.rows(~agree)
    defined = data.defined()
    if lost := int((~defined).sum()):
        notes.append(f"{lost} of {len(defined)} cases left out for an undefined value")
        data = data.rows(defined)
    if unit == "group":
        data = data.means()
    made = _correlation(data, full, outcome, unit, method, held, strata, resampling, seed)
    told = "; ".join(part for part in (made.note, *notes) if part)
    return made.replace(note=told, provenance=provenance_of(table, seed))


def _correlation(
    data: _Data,
    score: str,
    outcome: str,
    unit: Unit,
    method: Method,
    held: tuple[str, ...],
    strata: tuple[str, ...],
    resampling: Resampling | None,
    seed: int,
) -> Correlation:
    how: dict[str, Any] = {
        "clusters": data.groups,
        "strata": data.strata,
        "unit": unit,
        "score": score,
        "outcome": outcome,
        "resampling": Resampling(seed=seed) if resampling is None else resampling,
    }
    x, y = data.columns[score], data.columns[outcome]
    if not held and data.strata is None:
        return correlation(x, y, method=method, **how)
    if method not in ("pearson", "spearman"):
        raise InputError(
            f"There is no partial correlation {method!r}", expected="pearson or spearman"
        )
    fixed: dict[str, Any] = {name: data.columns[name] for name in held}
    if data.strata is not None and len(set(data.strata)) > 1:
        fixed[", ".join(strata)] = indicators(data.strata)
    if not fixed:  # there is one stratum only: nothing to remove
        return correlation(x, y, method=method, **how)
    return partial_correlation(x, y, fixed, ranked=method == "spearman", **how)


@dataclass(frozen=True)
class _Data:
    """Columns of numbers, and which rows belong together.

    Attributes:
        columns: Name -> one number per row.
        groups: What is drawn together.
        strata: Between what nothing is exchanged; None for one stratum.
    """

    columns: dict[str, Float[np.ndarray, " row"]]
    groups: list[Hashable]
    strata: list[Hashable] | None

    def defined(self) -> np.ndarray:
        """Rows in which every column has a value."""
        return ~np.isnan(np.stack(list(self.columns.values()))).any(axis=0)

    def rows(self, kept: np.ndarray) -> _Data:
        """Some rows."""
        places = np.flatnonzero(kept)
        return _Data(
            {name: values[kept] for name, values in self.columns.items()},
            [self.groups[i] for i in places],
            None if self.strata is None else [self.strata[i] for i in places],
        )

    def means(self) -> _Data:
        """One row per group and stratum: the means of its rows."""
        strata = self.strata or [()] * len(self.groups)
        members: dict[tuple[Hashable, Hashable], list[int]] = {}
        for row, pair in enumerate(zip(self.groups, strata, strict=True)):
            members.setdefault(pair, []).append(row)
        return _Data(
            {
                name: np.array([values[rows].mean() for rows in members.values()])
                for name, values in self.columns.items()
            },
            [group for group, _ in members],
            None if self.strata is None else [stratum for _, stratum in members],
        )


def _numbers(table: StudyTable, name: str) -> Float[np.ndarray, " row"]:
    values = table.column(name)
    if values.dtype != np.float64:
        raise InputError(f"The column {name!r} is text", expected="a column of numbers")
    return values


def _labels(table: StudyTable, names: Sequence[str], *, own: bool = False) -> list[Hashable]:
    """One label per row of some columns; with ``own``, a row without one is a group of its own."""
    columns = [table.column(name).tolist() for name in names]
    labels: list[Hashable] = []
    for row, values in enumerate(zip(*columns, strict=True)):
        missing = any(value is None or value != value for value in values)
        if missing and not own:
            raise InputError(
                f"Row {row} has no value in {' and '.join(names)}", expected="one in every row"
            )
        alone = ("a case by itself", row)
        labels.append(alone if missing else values[0] if len(names) == 1 else values)
    return labels


def provenance_of(table: StudyTable, seed: int) -> Provenance:
    """What it takes to compute a statistic of a study again."""
    study = table.study
    if not study:
        return Provenance(seed=seed)
    model = study["model"]
    return Provenance(
        model=model["name"],
        revision=model["revision"],
        weights_hash=model["weights_hash"],
        backend=model["backend"],
        dtype=model["dtype"],
        versions=study["versions"],
        settings={"study": study["digest"], **study["settings"]},
        seed=seed,
    )
