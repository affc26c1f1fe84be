"""Attribution patching: a patch grid from one backward pass, with AtP*'s corrections."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from dst.analysis.agreement import agreement
from dst.core.case import Case
from dst.core.errors import InputError, InterventionError
from dst.core.path_results import AttributionPatch
from dst.core.sites import HEAD_KINDS, KINDS, Site
from dst.models.backend import Backend, require
from dst.tracing.donors import Donor
from dst.tracing.estimates import Grid, estimate
from dst.tracing.pairs import SELF_PATCHES, Both, make_pair, record_both
from dst.tracing.progress import progress
from dst.tracing.replay import Cell, Change

SAMPLE = 256
"""Cells that are compared with exact patching where there are more."""

STEP = 0.01
"""Share of the patch by which the slope is measured."""

BY = ("position", "role", "head")


def attribution_patch(
    model: Backend,
    case: Case,
    *,
    donor: Donor = "swap",
    site: str = "resid_pre",
    by: str = "position",
    sample: int | None = SAMPLE,
    draw: int = 0,
    seed: int = 0,
    show_progress: bool = True,
) -> AttributionPatch:
    """First-order estimates of LD(patched) - LD(base), in logits, [layer column].

    ``atp`` = sum over the column's places of (donor - base) . d LD / d state, at the base: one
    backward pass for the whole grid. Two corrections stand beside it (AtP*):

    * ``softmax`` (q and k): (pattern with the donor's q or k - base pattern) . d LD / d pattern.
      The softmax is recomputed instead of linearised, which matters where it is saturated: one
      more run per layer for q and for heads, one per cell for k by position or role. Columns
      of heads are patched together there, which is exact unless a norm spans the heads (OLMo-2).
    * ``graddrop``: the backward pass is repeated with one block's attention and MLP passing no
      gradient, and |.| is averaged over blocks, so that effects which cancel along two ways
      still show. Blocks in which the node itself is dropped are left out. A size, no sign.
    * ``atp_star``: both (q and k).

    Every estimate is compared with exact patching, on all cells whose donor differs or on a
    stated random sample of them.

    Args:
        model: The model.
        case: The case; its own prompt is the base.
        donor: The other run, as in `dst.patch`: ``swap``, ``neutral``, ``substitute`` or
            ``clean``, a text as long as the prompt, an `AlignedPrompt`, or another case.
        site: A kind of site but ``pattern``.
        by: ``position``, ``role``, or ``head`` (of all positions; sites q, k, v, z; k and v by
            key/value head).
        sample: Largest number of cells that are patched exactly; None for every cell.
        draw: Which draw of the donor.
        seed: Seed of drawn variants and of the sample.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: The donor, ``by`` or ``sample`` does not exist or makes no sense.
        InterventionError: The site does not exist, or has no heads.
        CaseError: The case has no such donor, no associative answer, or has a twin.
        TokenError: The donor has another length and nothing says how positions correspond.
        CapabilityError: The engine has no gradients, or the model no such site.

    Source: METHOD 13; Nanda 2023 (attribution patching), Kramár et al. 2024 (AtP*), whose
    residual correction for k is the same softmax recomputed for one key at a time.
    """
    require(model, "gradients")
    _check(site, by, sample)
    pair = make_pair(model, case, donor, draw=draw, seed=seed)
    n_layers = model.spec.n_layers
    sites = [Site(layer, site) for layer in range(n_layers)]
    both = record_both(model, pair, sites)
    grid = Grid(model, both, site, by)
    estimates = estimate(model, grid)
    rng = np.random.default_rng(seed)
    differing = np.argwhere(grid.fired > 0)
    n = len(differing) if sample is None else min(sample, len(differing))
    chosen = differing[np.sort(rng.choice(len(differing), size=n, replace=False))].tolist()
    exact = np.full(grid.fired.shape, np.nan)
    with progress("exact patching", len(chosen), show=show_progress) as tick:
        for start in range(0, len(chosen), SAMPLE):
            part = chosen[start : start + SAMPLE]
            exact[tuple(np.transpose(part))], _ = both.effects(
                model, [grid.cell(layer, column) for layer, column in part]
            )
            tick(len(part))
    how = (
        "every cell whose donor differs"
        if n == len(differing)
        else (f"a random sample of {n} of {len(differing)} cells whose donor differs, seed {seed}")
    )
    known = ~np.isnan(exact)
    cells = [f"layer {layer}, {grid.columns[column]}" for layer, column in np.argwhere(known)]
    notes = list(pair.notes)
    if n_layers == 1 and "graddrop" not in estimates:
        notes.append("graddrop needs a second block to drop.")
    return AttributionPatch(
        site=site,
        by=by,
        columns=grid.columns,
        positions=grid.positions,
        estimates=tuple(estimates),
        value=np.stack(list(estimates.values())),
        exact=exact,
        agreement=tuple(
            agreement(
                name,
                value[known],
                exact[known],
                cells,
                n_all=int(grid.fired.size),
                chosen=how,
                signed=name in ("atp", "softmax"),
            )
            for name, value in estimates.items()
        ),
        base=both.ld,
        donor=both.donor_ld,
        fired=grid.fired,
        delta_norm=grid.delta_norm,
        self_patch_error=_self_patch(model, grid),
        donor_error=_donor_error(model, both),
        slope_error=_slope_error(model, grid, estimates["atp"]),
        notes=tuple(notes),
        provenance=model.provenance(
            seed=seed, donor=pair.name, draw=draw, site=site, by=by, sample=sample
        ),
    )


def _check(site: str, by: str, sample: int | None) -> None:
    if site not in KINDS or site == "pattern":
        raise InterventionError(
            f"The site kind {site!r} cannot be patched",
            expected=", ".join(kind for kind in KINDS if kind != "pattern"),
        )
    if by not in BY:
        raise InputError(f"by={by!r} does not exist", expected=", ".join(BY))
    if by == "head" and site not in HEAD_KINDS:
        raise InterventionError(f"The site {site} has no heads", expected="q, k, v or z")
    if sample is not None and sample < 1:
        raise InputError(f"The sample has {sample} cells", expected="at least one, or None for all")


def _self_patch(model: Backend, grid: Grid) -> float:
    """Control: the base's own states put back."""
    cells = [(layer, c) for layer in range(grid.n_layers) for c in range(len(grid.columns))]
    some = [cells[i] for i in np.linspace(0, len(cells) - 1, SELF_PATCHES).round().astype(int)]
    own = [
        grid.cell(layer, column, share=0.0, places=grid.positions[column])
        for layer, column in dict.fromkeys(some)
    ]
    return float(np.abs(grid.both.effects(model, own)[0]).max())


def _donor_error(model: Backend, both: Both) -> float:
    """Control: the donor's first state everywhere is the donor's run."""
    if not both.pair.covers_all:
        return float("nan")
    site, every = Site(0, "resid_pre"), tuple(range(len(both.pair.ids)))
    donor = both.cells_from.states[0, 1, : len(every)]
    effect, _ = both.effects(model, [Cell(0, (Change(site, every, donor),))])
    return abs(both.ld + float(effect[0]) - both.donor_ld)


def _slope_error(model: Backend, grid: Grid, atp: Float[np.ndarray, "layer column"]) -> float:
    """Control: two runs, a hundredth of the way to the donor and away from it.

    In half precision that way is lost in rounding, and there is no such control.
    """
    if model.spec.dtype not in ("float32", "float64"):
        return float("nan")
    layer, column = np.unravel_index(np.abs(atp).argmax(), atp.shape)
    if not grid.places(int(layer), int(column)):
        return 0.0
    cells = [grid.cell(int(layer), int(column), share) for share in (STEP, -STEP)]
    up, down = grid.both.effects(model, cells)[0]
    return abs(float(up - down) / (2 * STEP) - float(atp[layer, column]))
