"""A state put elsewhere: from another prompt, or from a later layer of the same run."""

from __future__ import annotations

from collections.abc import Sequence

from dst.core.case import Case
from dst.core.errors import InterventionError
from dst.core.patch_results import PatchGrid
from dst.core.sites import Site, site_of_state
from dst.models.backend import Backend, require
from dst.models.text import encode, refuse_unknown
from dst.models.tokens import tokenize_case
from dst.tracing.columns import Column, layers_of, places_in, positions_of
from dst.tracing.grid import Design, run_grid
from dst.tracing.measuring import Planned
from dst.tracing.metrics import metrics_of
from dst.tracing.patch_controls import CONTROLS, Whole, sites_of
from dst.tracing.patching import refuse_pattern
from dst.tracing.placing import own_states
from dst.tracing.prepare import prepare
from dst.tracing.replay import Cell, Change
from dst.tracing.runs import record_runs


def cross_patch(
    model: Backend,
    case: Case,
    source: str | Case,
    *,
    at: str | Sequence[int],
    source_at: str | Sequence[int],
    site: str = "resid_pre",
    layers: Sequence[int] | None = None,
    source_layers: Sequence[int] | None = None,
    metric: str | Sequence[str] = "LD",
    controls: int = CONTROLS,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchGrid:
    """What the answer becomes with a state of another prompt in it, from any layer to any layer.

    value[l', l] = metric(x with site[l', ``at``] = site[l, ``source_at``] of the source
    prompt); [1 layer column], a column per source layer, LD in logits.

    The two prompts need nothing in common. Where they are variants of each other, position
    by position, use `patch`.

    Args:
        model: The model.
        case: The case whose run is changed.
        source: The prompt that the state comes from: text, or a case.
        at: Positions of the case: a role, a text of the prompt, or positions.
        source_at: Positions of the source, likewise; as many as ``at``, or one for all.
        site: resid_pre, resid_post, attn_out, mlp_out, z, q, k or v.
        layers: Layers that the state is put in, all by default.
        source_layers: Layers that it comes from, all by default.
        metric: One or several; LD is always there.
        controls: Random cells of each kind.
        seed: Seed of the controls.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InterventionError: The numbers of positions do not fit, or one does not exist.
        TokenError, CaseError, CapabilityError, NumericalError: As `patch`.

    Source: Lepori et al. 2025 (cross-patching), Ghandeharioun et al. 2024 (Patchscopes, with
    target prompt and source prompt of their own); METHOD 13.
    """
    refuse_pattern(site)
    require(model, "edits")
    ready = prepare(model, case, draws=0, seed=seed)
    n_layers = model.spec.n_layers
    ids, there = source_tokens(model, source, source_at)
    here = positions_of(ready.tokenized, at)
    if len(there) not in (1, len(here)):
        raise InterventionError(
            f"The source has {len(there)} positions and the prompt {len(here)}",
            expected="as many, or one that is put into all",
        )
    sites = sites_of(site, range(n_layers))
    theirs = model.run([ids], capture=sites, logits_at=[-1]).states
    own = record_runs(model, ready, [ready.x], sites)
    columns = _columns(source_layers, here, n_layers, "layer {}")

    def plan(draw: int, layer: int, column: Column) -> Planned:
        value = theirs[Site(columns[column], site)][0, list(there)]
        return tuple(
            Cell(row, (Change(Site(layer, site), tuple(own.places(row, here)), value),))
            for row in own.rows_of(draw)
        )

    design = Design(
        technique="cross-prompt patching",
        direction="",
        source=source.case_id if isinstance(source, Case) else "text",
        site=site,
        window=1,
        layers=layers_of(layers, 1, n_layers),
        column_kind="source layer",
        columns=tuple(columns),
        base=own,
        donor=None,
        n_draws=1,
        plan=plan,
        coverage=[1.0] * len(columns),
        own=own_states(own, 0, sites),
        whole=Whole(reason="the source is another prompt"),
    )
    return run_grid(
        model,
        ready,
        design,
        metrics_of(metric, ready.tokenized),
        controls=controls,
        seed=seed,
        show_progress=show_progress,
        source_ids=list(ids),
        source_at=list(there),
        at=list(here),
    )


def backpatch(
    model: Backend,
    case: Case,
    *,
    at: str | Sequence[int],
    frozen: bool = False,
    layers: Sequence[int] | None = None,
    source_layers: Sequence[int] | None = None,
    metric: str | Sequence[str] = "LD",
    controls: int = CONTROLS,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchGrid:
    """What the answer becomes when positions have their own later state at an earlier layer.

    value[l', l] = metric(x with resid_pre[l', ``at``] = resid_post[l, ``at``] of the same run),
    for l' <= l + 1; [1 layer column], a column per source layer, LD in logits; NaN above,
    and exactly the base's value at l' = l + 1, where it is what is there.

    What comes back was there too late: later positions read it before it was made. The
    state then goes through blocks l'..l a second time; ``frozen`` holds it at every layer
    l'..l + 1 instead, so that only *when* it can be read has changed.

    Args:
        model: The model.
        case: The case.
        at: Positions: a role (``subject``), a text of the prompt, or positions.
        frozen: Hold the state until its own layer.
        layers: Layers that it is put in, all by default.
        source_layers: Blocks after which it is taken, all by default.
        metric: One or several; LD is always there.
        controls: Random cells of each kind.
        seed: Seed of the controls.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InterventionError, CaseError, CapabilityError, NumericalError: As `patch`.

    Source: Biran et al. 2024, Lepori et al. 2025; METHOD 13. The method's own code calls
    another thing so: a patch across prompts at one layer.
    """
    require(model, "edits")
    ready = prepare(model, case, draws=0, seed=seed)
    n_layers = model.spec.n_layers
    here = positions_of(ready.tokenized, at)
    every = range(n_layers)
    own = record_runs(
        model, ready, [ready.x], (*sites_of("resid_pre", every), *sites_of("resid_post", every))
    )
    columns = _columns(source_layers, here, n_layers, "after block {}")

    def plan(draw: int, layer: int, column: Column) -> Planned:
        late = columns[column]
        if layer > late + 1:
            return ()
        states = range(layer, late + 2) if frozen else [layer]
        cells = []
        for row in own.rows_of(draw):
            places = tuple(own.places(row, here))
            value = own.states[Site(late, "resid_post")][row, list(places)]
            changes = tuple(Change(site_of_state(s, n_layers), places, value) for s in states)
            cells.append(Cell(row, changes))
        return tuple(cells)

    design = Design(
        technique="backpatching",
        direction="",
        source="frozen" if frozen else "own later state",
        site="resid_pre",
        window=1,
        layers=layers_of(layers, 1, n_layers),
        column_kind="source layer",
        columns=tuple(columns),
        base=own,
        donor=None,
        n_draws=1,
        plan=plan,
        coverage=[1.0] * len(columns),
        own=own_states(own, 0, sites_of("resid_pre", every)),
        whole=Whole(reason="the state is the run's own"),
        empty="every layer asked for comes after it",
    )
    return run_grid(
        model,
        ready,
        design,
        metrics_of(metric, ready.tokenized),
        controls=controls,
        seed=seed,
        show_progress=show_progress,
        at=list(here),
        frozen=frozen,
    )


def _columns(
    layers: Sequence[int] | None, positions: tuple[int, ...], n_layers: int, name: str
) -> dict[Column, int]:
    """A column per source layer."""
    return {Column(name.format(l), positions): l for l in layers_of(layers, 1, n_layers)}


def source_tokens(
    model: Backend, source: str | Case, span: str | Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of another prompt, and the positions of a span in it.

    Raises:
        TokenError: The tokenizer does not know a word of it.
        InterventionError: The span is not in it.
    """
    if isinstance(source, Case):
        other = tokenize_case(model.tokenizer, source)
        return other.ids, positions_of(other, span)
    encoding = encode(model.tokenizer, source)
    refuse_unknown(model.tokenizer, encoding)
    return encoding.ids, places_in(encoding, len(encoding.ids), span)
