"""Dose: how hard the state at the answer must be pushed, state by state, to turn the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.commitment import dose_commitment
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.core.results import Dose
from dst.core.sites import Site, site_of_state
from dst.models.backend import Backend, Edit, require
from dst.tracing.prepare import prepare
from dst.tracing.swaps import Contrast

LEAST, MOST = 2.0**-8, 2.0**3
"""Doses that are tried, as shares of the state's norm."""

POINTS = 33
"""Doses per scan; a second scan between two neighbours gives a relative precision of 1 %."""


def dose(model: Backend, case: Case, *, reference: Sequence[Dose] = ()) -> Dose:
    """Smallest push along the answers' direction at (l, i*) that turns the answer.

    Push: h[l, i*] += s * |h[l, i*]| * u, with u the unit vector along the mean unembedding
    row of A+ minus that of A- (for a success: the other way). The dose of state l is the
    smallest s that changes the sign of LD, a share of the state's norm, [state]. Commitment
    by dose = the first state at which the dose exceeds k times the median of correct runs.

    Args:
        model: The model.
        case: The case.
        reference: Doses of correct runs; without them the mark is NaN "needs correct runs".

    Returns:
        `Dose`; a state where no push up to 8 norms turns the answer is NaN with its reason.

    Raises:
        CaseError: The case has no associative answer, or is a yes/no question with a twin.
        CapabilityError: The engine cannot edit.

    Source: METHOD 4 (dose version).
    """
    require(model, "edits")
    if not case.associative:
        raise CaseError("The case has no associative answer", do="Give associative=...")
    if case.twin_question is not None:
        raise CaseError(
            "A dose is read at one position of one prompt, and a yes/no case is two prompts",
            do="Ask for the completion instead of yes or no",
        )
    ready = prepare(model, case, draws=0)
    n_layers, ids = model.spec.n_layers, ready.tokenized.ids
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    run = model.run([ids], capture=sites, logits_at=[-1])
    contrast = float(ready.metric(run.last_logits)[0])
    push = _direction(model, ready.metric) * (-1.0 if contrast > 0 else 1.0)
    values = np.full(n_layers + 1, math.nan)
    for state, site in enumerate(sites):
        at = run.states[site][0, -1]
        values[state] = _smallest(model, ids, site, at, push, ready.metric, contrast)
    reasons = tuple(
        f"no push up to {MOST:g} norms turns the answer" if math.isnan(value) else ""
        for value in values
    )
    return Dose(
        value=values,
        reasons=reasons,
        contrast=contrast,
        commitment=dose_commitment(values, [other.value for other in reference]),
        provenance=model.provenance(),
    )


def _direction(model: Backend, metric: Contrast) -> torch.Tensor:
    """Unit vector along mean U[A+] - mean U[A-], [d_model]."""
    plus, minus = (
        model.directions(list(side)).double().mean(dim=0) for side in (metric.plus, metric.minus)
    )
    return (plus - minus) / (plus - minus).norm()


def _smallest(
    model: Backend,
    ids: Sequence[int],
    site: Site,
    at: torch.Tensor,
    push: torch.Tensor,
    metric: Contrast,
    contrast: float,
) -> float:
    """The smallest dose that turns the sign of LD, by two scans; NaN if none does."""
    low, high = LEAST, MOST
    for _ in range(2):
        scan = np.geomspace(low, high, POINTS)
        turned = _contrasts(model, ids, site, at, push, metric, scan) * contrast < 0
        if not turned.any():
            return math.nan
        first = int(turned.argmax())
        low, high = scan[max(first - 1, 0)], scan[first]
        if first == 0:
            break
    return float(high)


def _contrasts(
    model: Backend,
    ids: Sequence[int],
    site: Site,
    at: torch.Tensor,
    push: torch.Tensor,
    metric: Contrast,
    doses: Float[np.ndarray, " dose"],
) -> Float[np.ndarray, " dose"]:
    """LD with each dose, one batch."""
    scale = torch.from_numpy(doses).to(at.device) * at.double().norm()
    value = scale[:, None, None] * push.to(at.device)
    edit = Edit(site, range(len(doses)), [-1], value, op="add")
    run = model.run([ids] * len(doses), edits=[edit], logits_at=[-1])
    return metric(run.last_logits)
