"""When a mark comes, where some runs end without it: Kaplan-Meier over depth.

A lens mark that is absent at the last state is right-censored there: it did not come by then.
Only lens marks are treated so; a causal mark that is absent was not repairable at all, and is
counted apart (METHOD 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from dst.analysis.bootstrap import DEFAULT, Resampling, bootstrap, bootstrap_intervals
from dst.analysis.rows import Labels, check_binary, complete_rows
from dst.analysis.summary import NO_TEST, measured
from dst.core.errors import InputError
from dst.core.statistics_results import Statistic, Survival


def kaplan_meier(
    time: Any,
    observed: Any,
    *,
    clusters: Labels | None = None,
    name: str = "median depth",
    unit: str = "case",
    resampling: Resampling = DEFAULT,
) -> Survival:
    """Share of cases still without a mark after each depth, and the median depth of the mark.

    S(t) = product over event times s <= t of (1 - d_s / r_s), with d_s marks at s among the r_s
    cases that have neither mark nor end before s. A case censored at t still counts at t. The
    median is the first t with S(t) <= 1/2. Intervals: percentile of the cluster bootstrap for
    the curve, BCa and percentile for the median.

    Args:
        time: Where the mark is, as a depth l / L, or where the run ended without it (1).
        observed: 1 where the mark was there, 0 where the run ended without it.
        clusters: Which cases belong together; by default none.
        name: Name of the median, for the record.
        unit: What a row is.
        resampling: Number of resamples, level, seed.

    Returns:
        The median is NaN with a reason where half of the cases never get the mark.

    Raises:
        InputError: Nothing is observed or censored at all, or ``observed`` is not 0 or 1.

    Source: Kaplan and Meier (1958).
    """
    rows = complete_rows({"the time": time, "observed": observed}, clusters)
    at, seen = rows.columns
    check_binary(seen, "observed")
    if not rows.n:
        raise InputError("There are no complete rows", expected="at least one time")
    times = np.unique(at[seen == 1])
    events = ((at[:, None] == times) & (seen[:, None] == 1)).astype(np.float64)
    at_risk = (at[:, None] >= times).astype(np.float64)

    def curve(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, "resample time"]:
        risk = weights @ at_risk
        return np.cumprod(1 - weights @ events / np.where(risk > 0, risk, 1.0), axis=1)

    def median(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        # A hair over one half, for (1 - 1/4)(1 - 1/3) is not exactly 1/2.
        half = curve(weights) <= 0.5 + 1e-12
        found = half.any(axis=1)
        if not len(times):
            return np.full(len(weights), np.nan)
        return np.where(found, times[half.argmax(axis=1)], np.nan)

    width = 1 + len(times) // rows.n
    absent = np.isnan(median(np.ones((1, rows.n)))[0])
    never = "fewer than half of the cases get the mark" if absent else ""
    boot = bootstrap(curve, rows.clusters, resampling, width=width)
    ends = bootstrap_intervals(boot.value, boot.resamples, boot.jackknife, resampling.level)
    return Survival(
        time=times,
        survival=boot.value,
        low=ends.percentile[0],
        high=ends.percentile[1],
        at_risk=at_risk.sum(axis=0).astype(np.int64),
        events=events.sum(axis=0).astype(np.int64),
        median=Statistic(
            **measured(name, median, rows, NO_TEST, unit, resampling, never, width=width)
        ),
        n=rows.n,
        n_censored=int((seen == 0).sum()),
    )
