"""Counterfactual runs as cells: one row of a base batch, with some changes and cuts.

Every technique of patching is a plan of cells; `run_cells` carries a plan out. What a cell
leaves as it was (every block below its first change, every position before it) need not be
computed again: an engine that can `replay` recomputes the suffix alone, any other engine runs
the whole row, with the same numbers.

Peak memory beyond the model, the base and what is captured: `dst.models.memory.budget` for a
batch and as much for keys and values, or one run and the keys and values of one row where
those are more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any, cast

import numpy as np
import torch

from dst.core.errors import CapabilityError, InterventionError, ModelError
from dst.core.sites import HEAD_KINDS, Site, site_of_state, state_of
from dst.models import memory, suffix
from dst.models.backend import Backend, Edit, Run
from dst.models.batch import check_finite, make_batch
from dst.models.hooks import HooksBackend
from dst.models.interventions import cut_receipts, resolve_cuts
from dst.models.memory import (
    device_of,
    is_out_of_memory,
    prefix_bytes,
    suffix_bytes,
    widest,
)
from dst.models.suffix import Placed, Suffixes
from dst.tracing.cells import (
    Base,
    Cell,
    CellRuns,
    Change,
    Closed,
    check_cell,
    check_cells,
    cuts_of,
    edits_of,
)
from dst.tracing.planning import Planned, batches, plan
from dst.tracing.prefixes import Kept, rows_in_memory

__all__ = ["Base", "Cell", "CellRuns", "Change", "Closed", "record_base", "run_cells"]

MOST_TOKENS = 4096
"""Tokens in one batch on a processor: more make it no faster."""

ENOUGH_TOKENS = 1024
"""Tokens with which a batch on a processor is worth calling a block for."""

CACHE = 1 << 20
"""Bytes up to which a tensor stays near a processor: beyond, a token takes up to twice as long."""

MOST_TOKENS_ON_GPU = 65536
"""Tokens in one batch on a GPU."""

KEPT = 0.25
"""Share of a batch's budget up to which a base keeps its keys and values."""


def record_base(
    model: Backend, rows: Sequence[Sequence[int]], logits_at: Sequence[int] = (-1,)
) -> Base:
    """Run rows once and keep what cells start from."""
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    run, prefix = None, None
    if (engine := _engine(model, ())) and _may_keep(engine, rows):
        with contextlib.suppress(CapabilityError):  # then it cannot replay either
            run, prefix = suffix.record(engine, rows, sites, list(logits_at))
    if run is None:
        run = model.run(rows, capture=sites, logits_at=list(logits_at))
    first = run.states[sites[0]]
    states = torch.stack([run.states[site].to(first.device) for site in sites])
    return Base(tuple(map(tuple, rows)), run.logits, states, tuple(logits_at), prefix)


def _may_keep(engine: HooksBackend, rows: Sequence[Sequence[int]]) -> bool:
    """Whether the keys and values of some rows are little beside what is free."""
    taken = len(rows) * prefix_bytes(engine, max(map(len, rows), default=0))
    return taken <= KEPT * memory.budget(device_of(engine))


def run_cells(
    model: Backend,
    base: Base,
    cells: Sequence[Cell],
    *,
    tokens: Sequence[int] | None = None,
    capture: Sequence[Site] = (),
    tick: Callable[[int], None] = lambda n: None,
    sound: bool = False,
) -> CellRuns:
    """Carry out every cell.

    Args:
        model: The model.
        base: The runs that are changed.
        cells: What is changed in which row.
        tokens: Ids whose logits are wanted; the whole vocabulary by default.
        capture: Sites whose states are kept, after any change there.
        tick: Told how many cells were just done.
        sound: Whether the cells are known to be right (places that exist, values [position
            d_model] that differ from what is there), so that they need not be looked at.

    Raises:
        InterventionError: A site, position or head does not exist, a value does not fit, or
            a cell has nothing to do.
        ModelError: States or logits are not finite.
    """
    out = _Outcome(model, base, cells, tokens, tuple(capture), tick)
    for number, cell in enumerate(() if sound else cells):
        check_cell(base, number, cell)
    if engine := _engine(model, out.capture):
        try:
            _run_suffixes(engine, out, sound)
            return out.runs()
        except CapabilityError as error:
            # Also where a site was not found: then the full runs say so.
            out = _Outcome(model, base, cells, tokens, tuple(capture), tick)
            out.notes.append(f"Full runs: {error}")
    _run_in_full(model, out)
    return out.runs()


class _Outcome:
    """What the cells gave so far."""

    def __init__(
        self,
        model: Backend,
        base: Base,
        cells: Sequence[Cell],
        tokens: Sequence[int] | None,
        capture: tuple[Site, ...],
        tick: Callable[[int], None],
    ) -> None:
        self.base, self.cells, self.capture, self.tick = base, cells, capture, tick
        self.tokens = None if tokens is None else list(tokens)
        self.fired = np.zeros(len(cells), dtype=int)
        self.squared = np.full(len(cells), np.nan)
        self.states: dict[Site, torch.Tensor] = {}
        self.notes: list[str] = []
        self.width = max(map(len, base.rows))
        n_tokens = base.logits.shape[-1] if self.tokens is None else len(self.tokens)
        self.logits = base.logits.new_zeros(len(cells), len(base.logits_at), n_tokens)

    @cached_property
    def base_logits(self) -> torch.Tensor:
        """Logits of the base's rows, of the tokens asked for."""
        logits = self.base.logits
        return logits if self.tokens is None else logits[..., self.tokens]

    def keep(self, site: Site, index: Sequence[int], value: torch.Tensor, first: int = 0) -> None:
        """Put captured states [cell pos ...] of some cells where they belong."""
        if site not in self.states:
            shape = value.shape[2:]
            if site.kind == "pattern":
                shape = torch.Size((self.width, self.width))
                place = value.new_zeros(len(self.cells), value.shape[1], *shape)
            else:
                place = value.new_zeros(len(self.cells), self.width, *shape)
            self.states[site] = place
        where = self.states[site]
        cells = torch.as_tensor(list(index), device=where.device)
        if site.kind == "pattern":
            n = value.shape[-1]
            where[cells, :, :n, :n] = value
        else:
            where[cells, first : first + value.shape[1]] = value.to(where.device)

    def runs(self) -> CellRuns:
        """All of it."""
        for site in self.capture:
            if site not in self.states:  # there was no cell
                self.states[site] = self.logits.new_zeros(0)
        return CellRuns(
            self.logits,
            {site: self.states[site] for site in self.capture},
            self.fired,
            np.sqrt(self.squared),
            tuple(self.notes),
        )


def _engine(model: Backend, capture: Sequence[Site]) -> HooksBackend | None:
    """The engine, if it can replay what is asked."""
    if "replay" not in model.can or any(site.kind == "pattern" for site in capture):
        return None
    # A replay goes round `run`: not for an engine that runs in a way of its own.
    own = isinstance(model, HooksBackend) and (
        type(model).run is HooksBackend.run or not model.computes
    )
    return cast(HooksBackend, model) if own else None


# -- full runs ---------------------------------------------------------------------------


def _run_in_full(model: Backend, out: _Outcome) -> None:
    """Every cell as a full run: the reference, and what an engine that cannot replay does."""
    size = max(1, MOST_TOKENS // out.width)

    def carry_out(part: Sequence[int]) -> None:
        edits = [(i, edit) for row, i in enumerate(part) for edit in edits_of(out.cells[i], row)]
        cuts = [(i, cut) for row, i in enumerate(part) for cut in cuts_of(out.cells[i], row)]
        run = model.run(
            [out.base.rows[out.cells[i].row] for i in part],
            capture=out.capture,
            edits=[edit for _, edit in edits],
            cuts=[cut for _, cut in cuts],
            logits_at=list(out.base.logits_at),
        )
        for (i, _), receipt in zip([*edits, *cuts], run.receipts, strict=True):
            out.fired[i] += receipt.fired
            if not np.isnan(receipt.delta_norm):
                out.squared[i] = np.nan_to_num(out.squared[i]) + receipt.delta_norm**2
        logits = run.logits if out.tokens is None else run.logits[..., out.tokens]
        out.logits[list(part)] = logits.to(out.logits)
        for site in out.capture:
            out.keep(site, part, run.states[site])
        out.tick(len(part))

    for i in range(0, len(out.cells), size):
        _in_memory(range(i, min(i + size, len(out.cells))), carry_out, out.notes)


def _in_memory(
    part: Sequence[Any], carry_out: Callable[[Sequence[Any]], None], notes: list[str]
) -> None:
    """Carry out a part of the work, in halves if it does not fit into memory.

    Raises:
        ModelError: Not even one run fits.
    """
    try:
        carry_out(part)
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(part) == 1:
            raise ModelError(
                "One run does not fit into memory", do="Shorten the prompt, or free memory"
            ) from error
    # Outside the handler, whose traceback would keep the batch alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    notes.append(f"A batch of {len(part)} runs did not fit into memory and was halved.")
    half = len(part) // 2
    for piece in (part[:half], part[half:]):
        _in_memory(piece, carry_out, notes)


# -- suffixes ----------------------------------------------------------------------------


def _run_suffixes(engine: HooksBackend, out: _Outcome, sound: bool) -> None:
    """Every cell as a suffix of its row.

    Raises:
        CapabilityError: This engine cannot, after all; or a site was not found in the model.
    """
    base, cells = out.base, out.cells
    if not sound:
        check_cells(engine, engine.anatomy.missing, base, cells, out.capture)
    last = engine.spec.n_layers - 1
    whole = any(site.layer == last and site.kind != "resid_pre" for site in out.capture)
    planned = plan(base, cells, engine.spec.n_layers, whole, sound)
    _capture_base(engine, out)
    cuts = max(len({cut.layer for cut in cell.cuts}) for cell in cells) if cells else 0
    most = _most(engine, out, cuts)
    todo = [cell for cell in planned if cell is not None]
    with suffix.at_work(engine):
        for rows in rows_in_memory(engine, base, {cell.row for cell in todo}):
            kept = Kept.of(engine, base, rows)
            here = [cell for cell in todo if cell.row in kept.place]
            for batch in batches(engine, here, most):
                _in_memory(batch, partial(_replay, engine, out, kept), out.notes)
    for i, (cell, run) in enumerate(zip(cells, planned, strict=True)):
        if run is None:  # an exact no-op
            out.logits[i] = out.base_logits[cell.row]
            out.fired[i], out.squared[i] = _n_places(cell), 0.0
    out.tick(len(cells) - len(todo))


def _replay(engine: HooksBackend, out: _Outcome, kept: Kept, part: Sequence[Planned]) -> None:
    """One batch of suffixes."""
    base, spec, length = out.base, engine.spec, part[0].length
    first = min(run.first for run in part)
    cells = [out.cells[run.index] for run in part]
    edits = _stacked(engine, part)
    cuts = [(i, cut) for i, cell in enumerate(cells) for cut in cuts_of(cell, i)]
    ids = make_batch([base.rows[cell.row] for cell in cells] if cuts else [(0,)], None, spec)
    read = [at % length for at in base.logits_at]
    later = [k for k, at in enumerate(read) if at >= first]
    rows = [kept.place[cell.row] for cell in cells]
    found = suffix.replay(
        engine,
        kept.prefix,
        lambda state, of: base.states[state, kept.rows[of], first:length],
        Suffixes(
            rows=rows,
            starts=[run.start for run in part],
            first=first,
            length=length,
            edits=edits,
            blocked=resolve_cuts([cut for _, cut in cuts], ids, spec) if cuts else {},
            capture=out.capture,
            read=tuple(read[k] for k in later),
            tokens=out.tokens,
        ),
    )
    index = [run.index for run in part]
    logits = out.base_logits[[cell.row for cell in cells]]
    logits[:, later] = found.logits.to(logits)
    check_finite(Run(ids.ids, ids.lengths, logits, torch.tensor([read]), {}), spec.name)
    squared = np.where([bool(cell.changes) for cell in cells], 0.0, np.nan)
    for item in edits:
        if not item.fired:
            item.receipt()  # which refuses it
        np.add.at(squared, item.row_index[:, 0].numpy(), item.squared.double().cpu().numpy())
    fired = np.array([_n_places(cell) for cell in cells])
    closed = {layer: _whole(seen, len(part), first) for layer, seen in found.closed.items()}
    receipts = cut_receipts([cut for _, cut in cuts], ids, closed)
    for (i, _), receipt in zip(cuts, receipts, strict=True):
        fired[i] += receipt.fired
    for site, states in found.states.items():
        out.keep(site, index[: len(states)], states, first)
    out.logits[index], out.fired[index], out.squared[index] = logits, fired, squared
    out.tick(len(part))


def _stacked(engine: HooksBackend, part: Sequence[Planned]) -> list[Placed]:
    """Changes of a batch: those at one site in one edit, its places one after the other."""
    spec, device = engine.spec, device_of(engine)
    alike: dict[tuple[Any, ...], list[tuple[int, Change]]] = {}
    for i, run in enumerate(part):
        for number, change in enumerate(run.changes):
            # A run's changes are made in their order.
            turn = number if len(run.changes) > 1 else 0
            alike.setdefault((turn, change.site, change.op, change.heads), []).append((i, change))
    out = []
    for (_, site, op, heads), changes in sorted(alike.items(), key=lambda item: item[0][0]):
        shape: tuple[int, ...] = (spec.d_model,)
        if site.kind in HEAD_KINDS:
            shape = (spec.heads_at(site.kind) if heads is None else len(heads), spec.d_head)
        values = []
        for _, change in changes:
            wanted = (len(change.positions), *shape)
            value = change.value if change.value.device == device else change.value.to(device)
            values.append(value if value.shape == wanted else value.expand(wanted))
        value = torch.cat(values).unsqueeze(1)
        if not bool(torch.isfinite(value).all()):
            raise InterventionError(f"The value of the edit at {site} has NaN or infinity")
        rows = [i for i, change in changes for _ in change.positions]
        positions = torch.tensor([p for _, change in changes for p in change.positions])
        edit = Edit(site, rows, [], value, op, heads)
        out.append(Placed(edit, torch.tensor(rows).unsqueeze(1), positions.unsqueeze(1)))
    return out


def _most(engine: HooksBackend, out: _Outcome, most_cut: int) -> Callable[[int, int], int]:
    """How many runs fit into a batch, by length and first position."""
    device = device_of(engine)
    room = memory.budget(device)
    tokens = MOST_TOKENS_ON_GPU if device.type == "cuda" else _worthwhile(engine)
    n_logits = 0 if out.tokens is not None else len(out.base.logits_at) * engine.spec.d_vocab

    @cache
    def fit(length: int, first: int) -> int:
        n_pos = length - first
        each = suffix_bytes(engine, n_pos, length, n_logits) + most_cut * length**2
        return max(1, min(tokens // n_pos, room // each))

    return fit


def _worthwhile(engine: HooksBackend) -> int:
    """Tokens in one batch on a processor: its widest tensor near it, but enough for a call."""
    item = next(engine.model.parameters()).element_size()
    near = CACHE // (widest(engine) * item)
    return min(max(near, ENOUGH_TOKENS), MOST_TOKENS)


def _capture_base(engine: HooksBackend, out: _Outcome) -> None:
    """What the base has at the captured sites, in the place of every cell."""
    by_row: dict[int, list[int]] = {}
    for i, cell in enumerate(out.cells):
        by_row.setdefault(cell.row, []).append(i)
    base, rows = out.base, sorted(by_row)
    inner = [site for site in out.capture if site.kind not in ("resid_pre", "resid_post")]
    for site in out.capture:
        if site not in inner:
            for row in rows:
                state = base.states[state_of(site), row, : len(base.rows[row])]
                out.keep(site, by_row[row], state.expand(len(by_row[row]), -1, -1))
    for row in rows if inner else ():
        run = engine.run([base.rows[row]], capture=inner, logits_at=[-1])
        for site in inner:
            value = run.states[site]
            out.keep(site, by_row[row], value.expand(len(by_row[row]), *value.shape[1:]))


def _whole(closed: torch.Tensor, n_runs: int, first: int) -> torch.Tensor:
    """[run head query key] of all runs and queries, given those of the first runs, last queries."""
    length = closed.shape[-1]
    whole = closed.new_zeros(n_runs, closed.shape[1], length, length)
    whole[: len(closed), :, first:] = closed
    return whole


def _n_places(cell: Cell) -> int:
    """Row x position places that a cell's changes name."""
    return sum(len(change.positions) for change in cell.changes)
