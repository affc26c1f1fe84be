"""A statistic, its intervals, its p-value and its counts, put together in one place."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dst.analysis.bootstrap import Resampling, bootstrap, few, no_interval
from dst.analysis.bootstrap import Statistic as WeightedStatistic
from dst.analysis.permutation import PValue, cluster_sign_flip_test, permutation_test
from dst.analysis.rows import Rows
from dst.core.errors import InputError

Exchange = Literal["items", "clusters"]

KINDS = ("BCa", "percentile")
NO_TEST = PValue(math.nan, "no test", "no null is tested")


def exchange_test(
    a: Float[np.ndarray, " row"],
    b: Float[np.ndarray, " row"],
    rows: Rows,
    exchange: Exchange | None,
    clustered: bool,
    resampling: Resampling,
) -> PValue:
    """The p-value of sum a * b: by items inside strata, or by whole clusters.

    Raises:
        InputError: The exchange has no such name.
    """
    kind = exchange or ("clusters" if clustered and rows.n_clusters < rows.n else "items")
    rng, n = resampling.rng(1), resampling.n_permutations
    if kind == "items":
        return permutation_test(a, b, rows.strata, n, rng)
    if kind == "clusters":
        return cluster_sign_flip_test(a, b, rows.clusters, rows.strata, n, rng)
    raise InputError(f"There is no exchange {kind!r}", expected="items or clusters")


def measured(
    name: str,
    statistic: WeightedStatistic | None,
    rows: Rows,
    test: PValue,
    unit: str,
    resampling: Resampling,
    reason: str = "",
    *,
    width: int = 1,
) -> dict[str, Any]:
    """The fields of a `Statistic`: value, intervals, p and counts; all NaN where a reason says so.

    Args:
        name: Name of the number.
        statistic: What is resampled; None where it is undefined.
        rows: The rows it is of.
        test: Its p-value.
        unit: What a row is.
        resampling: Number of resamples, level, seed.
        reason: Why it is undefined; "" where it is not.
        width: Numbers per weight that the statistic holds at once.
    """
    value, n_degenerate, undefined = math.nan, 0, "the value is undefined"
    bca, percentile = (no_interval(undefined, resampling.level, kind) for kind in KINDS)
    if statistic is not None and not reason:
        boot = bootstrap(statistic, rows.clusters, resampling, width=width)
        value, n_degenerate = float(boot.value), boot.n_degenerate
        bca, percentile = boot.intervals(resampling.level)
        reason = "" if not math.isnan(value) else undefined
    drawn = "rows" if rows.n_clusters == rows.n else "clusters"
    then = ", then items" if rows.n_clusters < rows.n and resampling.items else ""
    return {
        "name": name,
        "value": value,
        "interval": bca,
        "percentile": percentile,
        "p": math.nan if reason else test.p,
        "n": rows.n,
        "n_clusters": rows.n_clusters,
        "unit": unit,
        "method": f"bootstrap of {drawn}{then}; {test.method}",
        "seed": resampling.seed,
        "n_dropped": rows.n_dropped,
        "n_resamples": resampling.n_resamples,
        "n_degenerate": n_degenerate,
        "reason": reason,
        "p_reason": undefined if reason else test.reason,
        "note": few(rows.n_clusters),
    }
