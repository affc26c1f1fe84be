"""Effects over many cases: mean, interval and p against a control, for one number or a map.

For anything that is one effect per case and cell, such as the recovery of a patch by layer and
position beside the same patch from a random donor. Source: METHOD 4, 9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dst.analysis.bootstrap import DEFAULT, Resampling, bootstrap, bootstrap_intervals, few
from dst.analysis.multiple import benjamini_hochberg
from dst.analysis.permutation import sign_flip_p
from dst.analysis.rows import Labels, codes
from dst.core.errors import InputError
from dst.core.statistics_results import EffectMap, Interval, Statistic

Flip = Literal["clusters", "items"]

CELLS = 4_000_000
"""Numbers of resamples held at once: maps are done in blocks of cells."""


def effect_map(
    effects: Float[np.ndarray, "case *map"],
    *,
    control: Float[np.ndarray, "case *map"] | None = None,
    clusters: Labels | None = None,
    flip: Flip = "clusters",
    axes: Sequence[str] = ("layer", "pos"),
    unit: str = "logits",
    resampling: Resampling = DEFAULT,
) -> EffectMap:
    """Mean effect per cell of a map over many cases, its interval, and where it is no accident.

    mean = sum over cases / number of cases with a value in that cell. Interval: BCa of the
    cluster bootstrap, with the same resamples in every cell. p: paired sign-flips of effect -
    control (of the effect itself without control): were there no difference, effect and control
    could be swapped, in all cases of a cluster at once or (``flip="items"``) in each case. q:
    Benjamini-Hochberg over the cells that have a p.

    Args:
        effects: One map per case; NaN where a case has no value (no such position, say).
        control: The same of a control, such as a random donor, several draws averaged. A cell
            then counts the cases that have both.
        clusters: Which cases belong together; by default none.
        flip: What is swapped as one: a cluster, or a case (only where the cases of a cluster
            are no more alike than others).
        axes: Names of the map's axes.
        unit: Unit of the effects.
        resampling: Numbers of resamples and flips, level, seed.

    Returns:
        A cell is NaN with its reason where fewer than 2 clusters have a value; its interval
        alone where the resamples show no spread.

    Raises:
        InputError: Shapes differ, a value is infinite, or there are no cases.
    """
    cases = _cases(effects, control, clusters, tuple(axes))
    block = max(1, CELLS // max(resampling.n_resamples, len(cases.clusters)))
    n_cells = cases.effects.shape[1]
    parts = [
        _cells(cases.of(slice(start, start + block)), flip, resampling)
        for start in range(0, n_cells, block)
    ]
    column: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts]).reshape(cases.shape)
        for name in ("mean", "control", "low", "high", "p", "n", "n_clusters", "reasons")
    }
    return EffectMap(
        axes=tuple(axes),
        q=benjamini_hochberg(column["p"]),
        level=resampling.level,
        method=_method(cases, flip, control is not None, resampling),
        seed=resampling.seed,
        unit=unit,
        **column,
    )


def mean_effect(
    effects: Any,
    *,
    control: Any = None,
    clusters: Labels | None = None,
    flip: Flip = "clusters",
    name: str = "mean",
    unit: str = "case",
    resampling: Resampling = DEFAULT,
) -> Statistic:
    """Mean of one effect per case, its intervals, and p of effect = control: one `effect_map` cell.

    Args:
        effects: One effect per case; NaN where there is none.
        control: One control effect per case. The value is still the mean effect.
        clusters: Which cases belong together; by default none.
        flip: As in `effect_map`.
        name: Name of the number.
        unit: What a row is.
        resampling: Numbers of resamples and flips, level, seed.

    Raises:
        InputError: As in `effect_map`.
    """
    cases = _cases(effects, control, clusters, ())
    cell = {key: column[0] for key, column in _cells(cases, flip, resampling).items()}
    mean, p = float(cell["mean"]), float(cell["p"])
    reason, undefined = str(cell["reasons"]), "the value is undefined"

    def why(number: float) -> str:
        return "" if not math.isnan(number) else undefined if math.isnan(mean) else reason

    def interval(kind: str, prefix: str = "") -> Interval:
        low, high = float(cell[prefix + "low"]), float(cell[prefix + "high"])
        return Interval(low, high, resampling.level, kind, why(low))

    n, n_clusters = int(cell["n"]), int(cell["n_clusters"])
    return Statistic(
        name=name,
        value=mean,
        interval=interval("BCa"),
        percentile=interval("percentile", "percentile_"),
        p=p,
        n=n,
        n_clusters=n_clusters,
        unit=unit,
        method=_method(cases, flip, control is not None, resampling),
        seed=resampling.seed,
        n_dropped=len(cases.clusters) - n,
        n_resamples=resampling.n_resamples,
        n_degenerate=int(cell["n_degenerate"]),
        reason=reason if math.isnan(mean) else "",
        p_reason=why(p),
        note=few(n_clusters),
    )


class _Cases(NamedTuple):
    """Cases in an order of their own, the map flattened."""

    effects: Float[np.ndarray, "case cell"]
    control: Float[np.ndarray, "case cell"] | None
    clusters: Int[np.ndarray, " case"]
    shape: tuple[int, ...]

    def of(self, cells: slice) -> _Cases:
        """The same cases, some cells."""
        control = None if self.control is None else self.control[:, cells]
        return self._replace(effects=self.effects[:, cells], control=control)


def _cases(effects: Any, control: Any, clusters: Labels | None, axes: tuple[str, ...]) -> _Cases:
    values = _numbers(effects, "the effects")
    if values.ndim != 1 + len(axes):
        raise InputError(
            f"The effects have {values.ndim} axes", expected=" by ".join(("case", *axes))
        )
    n, shape = len(values), values.shape[1:]
    if not n:
        raise InputError("There are no cases", expected="one effect or map per case")
    tables = [values.reshape(n, -1)]
    if control is not None:
        against = _numbers(control, "the control")
        if against.shape != values.shape:
            raise InputError(
                f"The control has the shape {against.shape}", expected=f"{values.shape}"
            )
        tables.append(against.reshape(n, -1))
    group = np.arange(n) if clusters is None else codes(clusters)
    if len(group) != n:
        raise InputError(f"There are {len(group)} cluster labels", expected=f"one per case, {n}")
    # Sorted, so that the order in which cases were given changes no number.
    keys = [column for table in tables for column in table.T]
    order = np.lexsort(keys if clusters is None else [*keys, group])
    if clusters is not None:
        group = np.unique(group[order], return_inverse=True)[1].reshape(-1)
    sorted_tables = [table[order] for table in tables]
    return _Cases(sorted_tables[0], (*sorted_tables, None)[1], group, shape)


def _cells(cases: _Cases, flip: Flip, resampling: Resampling) -> dict[str, np.ndarray]:
    if flip not in ("clusters", "items"):
        raise InputError(f"There is no flip {flip!r}", expected="clusters or items")
    effects, control, clusters = cases.effects, cases.control, cases.clusters
    present = ~np.isnan(effects) if control is None else ~np.isnan(effects + control)
    n = present.sum(axis=0)
    values = np.where(present, effects, 0.0)
    against = np.zeros_like(values) if control is None else np.where(present, control, 0.0)
    counted = present.astype(np.float64)

    def mean(weights: Float[np.ndarray, "resample case"]) -> Float[np.ndarray, "resample cell"]:
        count = weights @ counted
        return np.where(count > 0, weights @ values / np.where(count > 0, count, 1.0), np.nan)

    boot = bootstrap(mean, clusters, resampling, width=1 + effects.shape[1] // len(effects))
    found = bootstrap_intervals(boot.value, boot.resamples, boot.jackknife, resampling.level)

    per_cluster = np.zeros((clusters[-1] + 1, effects.shape[1]))
    np.add.at(per_cluster, clusters, counted)
    n_clusters = (per_cluster > 0).sum(axis=0)
    added = values - against
    if flip == "clusters":
        added = np.zeros_like(per_cluster)
        np.add.at(added, clusters, values - against)
    p, _ = sign_flip_p(added, resampling.n_permutations, resampling.rng(1))

    reasons = found.bca_reason.astype(object)
    if not resampling.n_permutations:
        p = np.full(len(n), np.nan)
        reasons[reasons == ""] = "no permutations were asked for"
    one, none = n_clusters == 1, n == 0
    reasons[one], reasons[none] = "one cluster", "no case has a value"
    p = np.where(one | none, np.nan, p)
    bca = np.where(one | none, np.nan, found.bca)
    percentile = np.where(one | none, np.nan, found.percentile)
    return {
        "mean": boot.value,
        "control": np.full(len(n), np.nan)
        if control is None
        else np.where(none, np.nan, against.sum(axis=0) / np.maximum(n, 1)),
        "low": bca[0],
        "high": bca[1],
        "percentile_low": percentile[0],
        "percentile_high": percentile[1],
        "p": p,
        "n": n,
        "n_clusters": n_clusters,
        "n_degenerate": np.isnan(boot.resamples).sum(axis=0),
        "reasons": reasons.astype(str),
    }


def _method(cases: _Cases, flip: Flip, paired: bool, resampling: Resampling) -> str:
    clustered = cases.clusters[-1] + 1 < len(cases.clusters)
    drawn = "clusters, then items" if resampling.items else "clusters"
    # Signs of n things: 2^n patterns, all of them where that is no more than were asked for.
    return (
        f"bootstrap of {drawn if clustered else 'cases'}; at most {resampling.n_permutations} "
        f"sign-flips of {flip if clustered else 'cases'}, "
        f"{'effect minus control' if paired else 'effect against 0'}"
    )


def _numbers(values: Any, name: str) -> Float[np.ndarray, "..."]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} are no array of numbers", expected="one map per case") from None
    if np.isinf(numbers).any():
        raise InputError(
            f"An infinity is in {name}", expected="numbers, or NaN where there is none"
        )
    return numbers
