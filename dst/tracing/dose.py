"""Dose: how hard the state at the answer must be pushed, state by state, to turn the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int

from dst.analysis.commitment import dose_commitment
from dst.analysis.readout import contrast as contrast_of
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.core.results import Dose
from dst.core.sites import site_of_state
from dst.models.backend import Backend, require
from dst.tracing.recordings import Recordings
from dst.tracing.replay import Cell, Change, run_cells
from dst.tracing.swaps import Contrast, Recorded

LEAST, MOST = 2.0**-8, 2.0**3
"""Doses that are tried, as shares of the state's norm."""

POINTS = 33
"""Doses per scan; a second scan between two neighbours gives a relative precision of 1 %."""


def dose(
    model: Backend,
    case: Case,
    *,
    reference: Sequence[Dose] = (),
    runs: Recordings | None = None,
) -> Dose:
    """Smallest push along the answers' direction at (l, i*) that turns the answer.

    Push: h[l, i*] += s * |h[l, i*]| * u, with u the unit vector along the mean unembedding
    row of A+ minus that of A- (for a success: the other way). The dose of state l is the
    smallest s that changes the sign of LD, a share of the state's norm, [state]. Commitment
    by dose = the first state at which the dose exceeds k times the median of correct runs.

    Args:
        model: The model.
        case: The case.
        reference: Doses of correct runs; without them the mark is NaN "needs correct runs".
        runs: The runs of this case, if something else is measured on them too.

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
    runs = Recordings(model, case, draws=0) if runs is None else runs
    run, metric, n_layers = runs([runs.ready.x]), runs.ready.metric, model.spec.n_layers
    contrast = float(run.contrast[0])
    push = _direction(model, metric) * (-1.0 if contrast > 0 else 1.0)
    values = _smallest(partial(_contrasts, model, run, push, metric), n_layers + 1, contrast)
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


Read = Callable[
    [Int[np.ndarray, " state"], Float[np.ndarray, "state dose"]], Float[np.ndarray, "state dose"]
]
"""LD at some states, each with its own doses."""


def _smallest(read: Read, n_states: int, contrast: float) -> Float[np.ndarray, " state"]:
    """The smallest dose that turns the sign of LD, by two scans; NaN where none does."""
    states, value = np.arange(n_states), np.full(n_states, math.nan)
    low, high = np.full(n_states, LEAST), np.full(n_states, MOST)
    for _ in range(2):
        scan = np.geomspace(low, high, POINTS, axis=1)
        turned = read(states, scan) * contrast < 0
        found = np.flatnonzero(turned.any(axis=1))
        first = turned[found].argmax(axis=1)
        low, high = scan[found, np.maximum(first - 1, 0)], scan[found, first]
        states = states[found]
        value[states] = high
    return value


def _contrasts(
    model: Backend,
    run: Recorded,
    push: torch.Tensor,
    metric: Contrast,
    states: Int[np.ndarray, " state"],
    doses: Float[np.ndarray, "state dose"],
) -> Float[np.ndarray, "state dose"]:
    """LD with each dose; only i* changes, so that only i* is computed again."""
    base, at, i_star = run.base, run.recorded[0], len(run.rows[0]) - 1
    assert base is not None
    cells = []
    for state, row in zip(states.tolist(), doses, strict=True):
        along = base.states[state, at, i_star].double().norm() * push
        site = site_of_state(state, model.spec.n_layers)
        pushes = torch.from_numpy(row)[:, None, None].to(along) * along  # [dose 1 d_model]
        cells += [Cell(at, (Change(site, (i_star,), one, op="add"),)) for one in pushes]
    tokens = [*metric.plus, *metric.minus]
    runs = run_cells(model, base, cells, tokens=tokens, sound=True)
    logits = runs.logits[:, -1].float().cpu().numpy()
    n = len(metric.plus)
    return contrast_of(logits, range(n), range(n, len(tokens))).reshape(doses.shape)
