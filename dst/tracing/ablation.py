"""Ablation: a place of a run replaced by nothing, by the ordinary, or by another run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.patch_results import PatchGrid
from dst.core.sites import Site
from dst.models.backend import Backend, require
from dst.tracing.columns import By, Column, Heads, columns_of, layers_of, window_of
from dst.tracing.grid import Design, run_grid
from dst.tracing.measuring import Planned
from dst.tracing.metrics import metrics_of
from dst.tracing.patch_controls import CONTROLS, Whole, sites_of
from dst.tracing.patching import refuse_pattern
from dst.tracing.placing import Placing, own_states
from dst.tracing.prepare import DRAWS, prepare
from dst.tracing.reference_states import drawn_states, mean_states
from dst.tracing.runs import Runs, record_runs

Kind = Literal["zero", "mean", "resample"]


def ablate(
    model: Backend,
    case: Case,
    *,
    kind: Kind = "mean",
    site: str = "attn_out",
    by: By | None = None,
    window: int = 1,
    heads: Heads = None,
    layers: Sequence[int] | None = None,
    reference: Sequence[str] | None = None,
    metric: str | Sequence[str] = "LD",
    draws: int = DRAWS,
    controls: int = CONTROLS,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchGrid:
    """What the answer becomes without a component: zero, its mean, or a random run's value.

    value = metric(x with site[l, column] replaced); effect = value - metric(x). [draw layer
    column], LD in logits.

    * ``zero``: 0, which is off the model's distribution wherever its mean is not 0;
    * ``mean``: mean over all tokens (but first ones) of the reference set, at this layer;
    * ``resample``: the state of a random token of the reference set, one for each position
      and the same at every layer, ``draws`` times: on the distribution of single states.

    There is no donor run, so recovery is NaN. To resample from runs of the case's own kind
    use `patch` with another case as the donor.

    Args:
        model: The model.
        case: The case.
        kind: ``zero``, ``mean`` or ``resample``.
        site: resid_pre, resid_post, attn_out, mlp_out, z, q, k or v.
        by: See `patch`.
        window: Layers ablated at once.
        heads: ``each`` or numbers: one column per head.
        layers: Rows of the grid, all by default.
        reference: Texts of the reference set; by default the shipped sentences.
        metric: One or several; LD is always there.
        draws: Draws of ``resample``; the other kinds have one.
        controls: Random cells of each kind.
        seed: Seed of the draws and of the controls.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: The kind does not exist, or the reference set is empty.
        InterventionError, CaseError, CapabilityError, NumericalError: As `patch`.

    Source: Wang et al. 2023 (mean), Chan et al. 2022 (resample), METHOD 4.
    """
    if kind not in ("zero", "mean", "resample"):
        raise InputError(f"The ablation {kind!r}", expected="'zero', 'mean' or 'resample'")
    refuse_pattern(site)
    require(model, "edits")
    ready = prepare(model, case, draws=0, seed=seed)
    metrics = metrics_of(metric, ready.tokenized)
    n_layers = model.spec.n_layers
    rows = layers_of(layers, window, n_layers)
    column_kind, columns = columns_of(ready, by, heads, site, model.spec)
    sites = sites_of(site, range(n_layers))
    own = record_runs(model, ready, [ready.x], sites)
    source = _source(model, own, sites, kind, draws, reference, seed)
    placing = Placing(own, source)

    def plan(draw: int, layer: int, column: Column) -> Planned:
        places = sites_of(site, window_of(layer, window, n_layers))
        return placing.plan(draw, places, column.positions, column.heads)

    design = Design(
        technique="ablation",
        direction="noising",
        source=kind,
        site=site,
        window=window,
        layers=rows,
        column_kind=column_kind,
        columns=columns,
        base=own,
        donor=None,
        n_draws=placing.n_draws,
        plan=plan,
        coverage=[1.0] * len(columns),
        own=own_states(own, 0, sites_of(site, rows)),
        whole=Whole(reason="an ablation has no donor run"),
    )
    return run_grid(
        model,
        ready,
        design,
        metrics,
        controls=controls,
        seed=seed,
        show_progress=show_progress,
        reference="given" if reference is not None else "shipped",
    )


def _source(
    model: Backend,
    own: Runs,
    sites: Sequence[Site],
    kind: Kind,
    draws: int,
    reference: Sequence[str] | None,
    seed: int,
) -> Runs:
    """Rows like the prompt's own, with the states that replace them."""
    n_draws = draws if kind == "resample" else 1
    index = [row for half in range(len(own.rows)) for row in [half] * n_draws]
    longest = own.states[sites[0]].shape[1]
    if kind == "zero":
        states = {site: torch.zeros_like(own.states[site][index]) for site in sites}
    elif kind == "mean":
        means = mean_states(model, sites, reference)
        states = {
            site: mean.to(own.states[site]).expand(len(index), longest, *mean.shape)
            for site, mean in means.items()
        }
    else:
        generator = torch.Generator().manual_seed(seed)
        drawn = drawn_states(model, sites, len(index) * longest, generator, reference)
        states = {s: value.unflatten(0, (len(index), longest)) for s, value in drawn.items()}
    return replace(
        own,
        rows=tuple(own.rows[i] for i in index),
        standing=tuple(own.standing[i] for i in index),
        states=states,
    )
