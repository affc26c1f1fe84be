"""Controls of a grid: own states, everything at once, a random donor, a random direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dst.analysis.readout import contrast
from dst.core.errors import NumericalError
from dst.core.patch_results import Controls
from dst.core.sites import Site
from dst.models.backend import Backend
from dst.tracing.measuring import Planned, is_no_op, measure
from dst.tracing.metrics import Metrics
from dst.tracing.pathways import CONTROL_TOLERANCE
from dst.tracing.prepare import Prepared
from dst.tracing.reference_states import BATCH, token_states
from dst.tracing.replay import Cell, Change
from dst.tracing.runs import Runs

CONTROLS = 20
"""Random cells per grid, for the random donor and for the random direction each."""

RANDOM_DONOR = f"states of random tokens of {BATCH} reference sentences, at the same site"


@dataclass(frozen=True)
class Whole:
    """What is patched when everything is: plans with the draw whose donor they must give.

    Attributes:
        plans: Each a draw and its cells.
        reason: Why there are none; "" if there are.
    """

    plans: tuple[tuple[int, Planned], ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Placed:
    """One planned cell of a grid, and where in it that is."""

    draw: int
    layer: int
    column: int
    plan: Planned


def controls_of(
    model: Backend,
    ready: Prepared,
    base: Runs,
    metrics: Metrics,
    grid: Sequence[Placed],
    *,
    own: Planned,
    whole: Whole,
    own_values: np.ndarray,
    donor_values: np.ndarray,
    n: int,
    seed: int,
) -> Controls:
    """Check a grid's cells and measure what random ones do.

    Args:
        model: The model.
        ready: The case.
        base: The runs that are changed.
        metrics: What is read.
        grid: The cells of the grid; random ones are drawn among those that change something.
        own: The first run's own states put back.
        whole: Everything patched.
        own_values: [metric draw] of the base runs.
        donor_values: [metric draw] of the donor's.
        n: Random cells of each kind.
        seed: Seed of the draws.

    Raises:
        NumericalError: Own states change LD, or everything patched misses the donor's LD
            (float32 only: elsewhere the error is reported, not judged).
    """
    rng = np.random.default_rng(seed)
    active = [p for p in grid if p.plan and not all(is_no_op(cell, base) for cell in p.plan)]
    drawn = [active[i] for i in rng.integers(len(active), size=n)] if active and n else []
    strangers = _Strangers(model, [p.plan for p in drawn], rng)
    random = [strangers(p.plan) for p in drawn]
    turned = [tuple(_turned(cell, base, rng) for cell in p.plan) for p in drawn]
    everything = [plan for _, plan in whole.plans]
    done = measure(model, ready, base, [own, *everything, *random, *turned], metrics).values
    first, last = 1 + len(everything), 1 + len(everything) + len(drawn)

    allowed = CONTROL_TOLERANCE * max(1.0, _largest_ld(base, metrics))
    self_error = abs(float(done[0, 0] - own_values[0, 0]))
    _judge(model, self_error, allowed, "Putting a run's own states back changes LD")
    donor_error = float("nan")
    if everything:
        wanted = donor_values[0, [draw for draw, _ in whole.plans]]
        donor_error = float(np.abs(done[0, 1:first] - wanted).max())
        _judge(model, donor_error, allowed, "Patching everything misses the donor's LD")
    before = own_values[:, [p.draw for p in drawn]]
    return Controls(
        self_patch_error=self_error,
        donor_error=donor_error,
        donor_reason=whole.reason,
        random_donor=done[:, first:last] - before,
        random_donor_is=RANDOM_DONOR,
        random_direction=done[:, last:] - before,
        random_layers=np.array([p.layer for p in drawn], dtype=int),
        random_columns=np.array([p.column for p in drawn], dtype=int),
    )


def _largest_ld(runs: Runs, metrics: Metrics) -> float:
    """Largest |LD| of any row, those of twins too: the scale of an error."""
    ld = contrast(runs.logits.float().cpu().numpy(), metrics.plus, metrics.minus)
    return float(np.abs(ld).max())


def _judge(model: Backend, error: float, allowed: float, what: str) -> None:
    if model.spec.dtype == "float32" and not error <= allowed:
        raise NumericalError(
            f"{what} by {error:.2g} logits",
            expected=f"at most {allowed:.2g}",
            do="Report the model's family: its states do not hold all that is passed on",
        )


class _Strangers:
    """Random donors: the same cells with states of reference sentences in them."""

    def __init__(self, model: Backend, plans: Sequence[Planned], rng: np.random.Generator) -> None:
        self.rng = rng
        sites = sorted({c.site for plan in plans for cell in plan for c in cell.changes})
        self.states = next(token_states(model, sites)) if sites else {}

    def __call__(self, plan: Planned) -> Planned:
        return tuple(
            replace(cell, changes=tuple(self._put(change) for change in cell.changes))
            for cell in plan
        )

    def _put(self, change: Change) -> Change:
        states = self.states[change.site]
        value = states[self.rng.integers(len(states), size=len(change.positions)).tolist()]
        if change.heads is not None:
            value = value[:, list(change.heads)]
        return replace(change, value=value)


def _turned(cell: Cell, base: Runs, rng: np.random.Generator) -> Cell:
    """A cell whose change has the same norm at each position, in a random direction."""

    def turn(change: Change) -> Change:
        here = base.states[change.site][cell.row, list(change.positions)]
        if change.heads is not None:
            here = here[:, list(change.heads)]
        delta = (change.value.to(here.device, here.dtype) - here).float().flatten(1)
        noise = torch.as_tensor(rng.standard_normal(delta.shape), dtype=torch.float32)
        noise = noise.to(delta.device)
        noise = noise / noise.norm(dim=1, keepdim=True) * delta.norm(dim=1, keepdim=True)
        return replace(change, value=here + noise.view(here.shape).to(here.dtype))

    return replace(cell, changes=tuple(turn(change) for change in cell.changes))


def sites_of(kind: str, layers: Sequence[int]) -> tuple[Site, ...]:
    """One kind of site at some layers."""
    return tuple(Site(layer, kind) for layer in layers)
