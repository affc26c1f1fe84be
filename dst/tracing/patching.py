"""Activation patching: a state of one run put into another, layer by position, role or head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from dst.core.case import Case
from dst.core.errors import CapabilityError, InputError, InterventionError, NumericalError
from dst.core.patch_results import PatchGrid
from dst.core.sites import KINDS, Site
from dst.models.backend import Backend, require
from dst.models.variants import Row
from dst.tracing.columns import By, Column, Heads, columns_of, layers_of, window_of
from dst.tracing.donors import Donor, donor_rows
from dst.tracing.grid import Design, run_grid
from dst.tracing.measuring import Planned
from dst.tracing.metrics import metrics_of
from dst.tracing.patch_controls import CONTROLS, Whole, sites_of
from dst.tracing.placing import Placing, everything, own_states, pattern_as_z
from dst.tracing.prepare import DRAWS, Prepared, prepare
from dst.tracing.replay import Change
from dst.tracing.runs import Runs, record_runs

Direction = Literal["noising", "denoising"]

PATTERN_TOLERANCE = 1e-3
"""Largest |pattern @ v - z|, as a share of the largest |z|, in float32."""


def patch(
    model: Backend,
    case: Case,
    *,
    donor: Donor = "swap",
    site: str = "resid_pre",
    by: By | None = None,
    direction: Direction = "noising",
    window: int = 1,
    heads: Heads = None,
    layers: Sequence[int] | None = None,
    metric: str | Sequence[str] = "LD",
    draws: int = DRAWS,
    controls: int = CONTROLS,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchGrid:
    """What the answer becomes when one place of a run is replaced by another run's.

    For every layer l and every column (a position, a role, a span, a head):

        value = metric(base run with site[l, column] of the donor run)

    and from it effect = value - base, recovery = effect / (donor - base), flip = LD changes
    its sign. [draw layer column]; LD in logits, see `dst.tracing.metrics` for the others.

    *Noising* changes the prompt's own run with the donor's states: what is lost was **needed**
    here. *Denoising* changes the donor's run with the prompt's states: what comes back is
    **enough** here. They part where information is in two places (noising shows nothing,
    denoising both) or needs two (noising shows both, denoising nothing).

    Args:
        model: The model.
        case: The case.
        donor: The other run: ``swap``, ``neutral``, ``substitute`` or ``clean`` (a variant of
            the case), a text as long as the prompt, an `AlignedPrompt`, or another case.
        site: resid_pre, resid_post, attn_out, mlp_out, z, q, k, v or pattern. A pattern is
            put in by its effect, z = donor's pattern @ base's v, for queries of the column.
        by: ``position``, ``role``, ``all``, or a list of spans (text, a role, or positions).
            By default every position, or all at once where heads are apart.
        direction: ``noising`` or ``denoising``.
        window: How many layers around each are changed at once.
        heads: ``each``, or numbers: one column per head; q, k, v, z and pattern only.
        layers: Rows of the grid, all by default.
        metric: One or several; LD is always there.
        draws: How many neutral and substitute variants to draw where the case has none.
        controls: Random cells of each kind.
        seed: Seed of the drawn variants and of the controls.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        CaseError: The case has no associative answer, or no such variant.
        TokenError: The donor has another length and nothing says how positions correspond.
        InterventionError: A site, layer, head or position does not exist, no position is
            named, or nothing would be changed.
        CapabilityError: The engine does not have the site.
        NumericalError: A control fails.

    Source: METHOD 4 and 13; Heimersheim and Nanda 2024 for the two directions, Zhang and
    Nanda 2024 for windows and metrics. Recovery is undefined under 1 nat of difference.
    """
    drawn = donor in ("neutral", "substitute")
    ready = prepare(model, case, draws=draws if drawn else 0, seed=seed)
    source, others = donor_rows(model, ready, donor)
    own, other = (record_for(model, ready, rows, site) for rows in ([ready.x], others))
    base, given = (own, other) if direction == "noising" else (other, own)
    return patch_runs(
        model,
        ready,
        base,
        given,
        source=source,
        site=site,
        by=by,
        direction=direction,
        window=window,
        heads=heads,
        layers=layers,
        metric=metric,
        controls=controls,
        seed=seed,
        show_progress=show_progress,
        notes=ready.notes if drawn else (),
    )


def record_for(
    model: Backend,
    ready: Prepared,
    rows: Sequence[Row],
    site: str,
    standing: Sequence[Sequence[Change]] = (),
) -> Runs:
    """Rows with every site that patching one kind of site needs, its controls included.

    Raises:
        InterventionError: The kind of site does not exist.
        CapabilityError: The engine has no edits, or not this site.
    """
    check_kind(site)
    require(model, "edits")
    if site == "pattern":
        require(model, "patterns")
    return record_runs(model, ready, rows, _needed(site, model.spec.n_layers), standing)


def patch_runs(
    model: Backend,
    ready: Prepared,
    base: Runs,
    given: Runs,
    *,
    source: str,
    site: str,
    by: By | None,
    direction: Direction,
    window: int,
    heads: Heads,
    layers: Sequence[int] | None,
    metric: str | Sequence[str],
    controls: int,
    seed: int,
    show_progress: bool,
    notes: tuple[str, ...] = (),
    technique: str = "activation patching",
    **settings: Any,
) -> PatchGrid:
    """The grid of `patch` between any two runs: ``given``'s states put into ``base``."""
    if direction not in ("noising", "denoising"):
        raise InputError(f"The direction {direction!r}", expected="'noising' or 'denoising'")
    n_layers = model.spec.n_layers
    rows = layers_of(layers, window, n_layers)
    column_kind, columns = columns_of(ready, by, heads, site, model.spec)
    whole, kind = whole_of(base, given, site, rows, n_layers), site
    if site == "pattern":
        if window != 1:
            raise CapabilityError(
                "A pattern patched over several layers at once is not the effect of its z",
                do="Use window=1, or the sites q and k",
            )
        kind, given = "z", _patterns_as_z(model, base, given)
    placing = Placing(base, given)

    def plan(draw: int, layer: int, column: Column) -> Planned:
        sites = sites_of(kind, window_of(layer, window, n_layers))
        return placing.plan(draw, sites, column.positions, column.heads)

    design = Design(
        technique=technique,
        direction=direction,
        source=source,
        site=site,
        window=window,
        layers=rows,
        column_kind=column_kind,
        columns=columns,
        base=base,
        donor=given,
        n_draws=placing.n_draws,
        plan=plan,
        coverage=[placing.coverage(column.positions) for column in columns],
        own=own_states(base, 0, sites_of(kind, rows)),
        whole=whole,
        notes=notes,
    )
    return run_grid(
        model,
        ready,
        design,
        metrics_of(metric, ready.tokenized),
        controls=controls,
        seed=seed,
        show_progress=show_progress,
        **settings,
    )


def check_kind(site: str) -> None:
    """Refuse a kind of site that does not exist.

    Raises:
        InterventionError: Names those that do.
    """
    if site not in KINDS:
        raise InterventionError(f"The site {site!r} does not exist", expected=", ".join(KINDS))


def refuse_pattern(site: str) -> None:
    """Refuse a kind of site that does not exist, and patterns, which need a run to come from.

    Raises:
        InterventionError: The kind does not exist.
        CapabilityError: It is a pattern; says what to use.
    """
    check_kind(site)
    if site == "pattern":
        raise CapabilityError(
            "A pattern is patched between two runs only",
            do="Use dst.patch with site='pattern', dst.cut_attention, or the sites q, k and v",
        )


def whole_of(base: Runs, donor: Runs, site: str, layers: Sequence[int], n_layers: int) -> Whole:
    """The control that patches everything: it must give the donor's LD.

    A residual site needs no other; a component comes with all that is added beside it.
    """
    if site == "pattern":
        return Whole(reason="patterns alone do not make the donor's run")
    every = [*base.rows, *donor.rows]
    if not all(row.is_same_length for row in every) or len({len(r.ids) for r in every}) > 1:
        return Whole(reason="the runs are of different length")
    placing, positions = Placing(base, donor), range(len(base.rows[0].ids))
    if site in ("resid_pre", "resid_post"):
        some = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
        sites = [sites_of(site, [layer]) for layer in some]
    else:
        sites = [everything(site, n_layers)]
    return Whole(tuple((0, placing.plan(0, each, positions)) for each in sites))


def _needed(site: str, n_layers: int) -> tuple[Site, ...]:
    """Sites to record: those that are patched, and those that the control of everything needs."""
    layers = range(n_layers)
    if site in ("resid_pre", "resid_post"):
        return sites_of(site, layers)
    if site == "pattern":
        return tuple(Site(l, kind) for l in layers for kind in ("pattern", "v", "z"))
    return tuple(dict.fromkeys((*sites_of(site, layers), *everything(site, n_layers))))


def _patterns_as_z(model: Backend, base: Runs, donor: Runs) -> Runs:
    """The donor's runs with z = its pattern @ the base run's v, draw by draw.

    Raises:
        CapabilityError: The two runs are of different length, so that their patterns have
            other keys.
        NumericalError: In the base run itself pattern @ v is not z.
    """
    rows = [*base.rows, *donor.rows]
    if not all(row.is_same_length for row in rows) or len({len(row.ids) for row in rows}) > 1:
        raise CapabilityError(
            "A pattern of another length cannot be put in: its keys are other positions",
            do="Use a donor of equal length, or another site",
        )
    n_draws = max(len(base), len(donor))
    pairs = [
        pair
        for half in range(2 if base.twins else 1)
        for draw in range(n_draws)
        for pair in [(base.rows_of(draw)[half], donor.rows_of(draw)[half])]
    ]
    states: dict[Site, torch.Tensor] = {}
    for layer in range(model.spec.n_layers):
        pattern, v, z = (Site(layer, kind) for kind in ("pattern", "v", "z"))
        put = []
        for row, other in pairs:
            mine, theirs = base.states[pattern][row], donor.states[pattern][other]
            here = pattern_as_z(mine, base.states[v][row])
            error = (here - base.states[z][row]).abs().max() / base.states[z][row].abs().max()
            if model.spec.dtype == "float32" and not error <= PATTERN_TOLERANCE:
                raise NumericalError(
                    f"At layer {layer} pattern @ v misses z by {float(error):.2g} of its largest",
                    expected="heads that read what their pattern says",
                    do="Patch z, q, k or v instead",
                )
            # As a difference, so that an equal pattern changes nothing at all.
            put.append(base.states[z][row] + pattern_as_z(theirs - mine, base.states[v][row]))
        states[z] = torch.stack(put)
    rows_of = tuple(donor.rows[other] for _, other in pairs)
    return Runs(rows_of, donor.base, states, donor.twins, donor.standing, donor.logits)
