"""How far an estimate agrees with the exact effect, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from dst.core.path_results import Agreement

TOP_K = 10
"""Largest cells that are compared; fewer where fewer have an effect over the floor."""

FLOOR = 0.01
"""Share of the largest exact effect under which a cell has neither sign nor rank at the top."""

RESOLUTION = 2e-6
"""Logits that float32 leaves of the difference of two equal runs: less counts as none."""

WORST = 5
"""Cells listed with their error."""


def agreement(
    name: str,
    estimate: Float[np.ndarray, " cell"],
    exact: Float[np.ndarray, " cell"],
    cells: Sequence[str],
    *,
    n_all: int,
    chosen: str,
    signed: bool = True,
) -> Agreement:
    """Spearman, overlap of the largest, agreement in sign, and the worst cells; see `Agreement`.

    Rank correlation is of the values, or of the sizes |.| for an estimate without a sign; what
    is under `RESOLUTION` counts as 0 there, so that rounding has no rank. The largest are those
    by size, and only cells over the floor can be among them.

    Args:
        name: Name of the estimate.
        estimate: Estimated effects, in logits.
        exact: Exact effects of the same cells.
        cells: Name of each cell.
        n_all: Cells that there are, compared or not.
        chosen: How the compared cells were chosen.
        signed: Whether the estimate has a sign.
    """
    truth = exact if signed else np.abs(exact)
    floor = max(RESOLUTION, FLOOR * float(np.abs(exact).max(initial=0.0)))
    large = np.abs(exact) > floor
    k = min(TOP_K, int(large.sum()))
    rho = _spearman(_resolved(estimate), _resolved(truth))
    reasons = []
    if len(exact) < 3:
        reasons.append("fewer than 3 cells were compared")
    elif np.isnan(rho):
        reasons.append("the exact effects or the estimates are all equal")
    if not k:
        reasons.append("no exact effect is over the floor")
    elif not signed:
        reasons.append("the estimate has no sign")
    same = np.sign(estimate[large]) == np.sign(exact[large])
    error = np.abs(estimate - truth)
    worst = np.argsort(-error, kind="stable")[:WORST]
    return Agreement(
        estimate=name,
        n=len(exact),
        n_all=n_all,
        chosen=chosen,
        spearman=rho,
        top_k=k,
        top_overlap=len(_largest(estimate, k) & _largest(exact, k)) / k if k else float("nan"),
        sign_agreement=float(same.mean()) if signed and k else float("nan"),
        floor=floor,
        mean_error=float(error.mean()) if len(exact) else float("nan"),
        worst=tuple(cells[i] for i in worst),
        worst_estimate=estimate[worst],
        worst_exact=exact[worst],
        reason="; ".join(reasons),
    )


def _resolved(values: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " cell"]:
    return np.where(np.abs(values) < RESOLUTION, 0.0, values)


def _spearman(a: Float[np.ndarray, " cell"], b: Float[np.ndarray, " cell"]) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def _largest(values: Float[np.ndarray, " cell"], k: int) -> set[int]:
    return set(np.argsort(-np.abs(values), kind="stable")[:k].tolist())
