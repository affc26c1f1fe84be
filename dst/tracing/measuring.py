"""Metrics of planned cells: no-ops left out, twins paired, whole answers teacher-forced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from dst.analysis.readout import log_softmax
from dst.models.backend import Backend
from dst.tracing.metrics import Metrics, answer_tokens
from dst.tracing.prepare import Prepared
from dst.tracing.replay import Cell, CellRuns, Change, Closed, record_base, run_cells
from dst.tracing.runs import Runs

MOST_NUMBERS = 2**25
"""Logits that are held at a time, where a metric needs the whole vocabulary."""

Planned = tuple[Cell, ...]
"""What a cell of a grid does in one draw: to its row, and to its twin's; () for nothing."""


@dataclass(frozen=True)
class Measured:
    """Metrics and receipts of planned cells.

    Attributes:
        values: NaN for a plan of nothing.
        fired: Places changed or cut.
        delta_norm: L2 norm of the change; NaN with cuts only.
    """

    values: Float[np.ndarray, "metric plan"]
    fired: Int[np.ndarray, " plan"]
    delta_norm: Float[np.ndarray, " plan"]


def measure(
    model: Backend,
    ready: Prepared,
    base: Runs,
    plans: Sequence[Planned],
    metrics: Metrics,
    tick: Callable[[int], None] = lambda n: None,
) -> Measured:
    """Every metric of every plan.

    A cell that puts in what is already there is an exact no-op: it is not run, and keeps the
    base run's values to the last digit.
    """
    flat = [cell for plan in plans for cell in plan]
    run = [i for i, cell in enumerate(flat) if not is_no_op(cell, base)]
    active = [flat[i] for i in run]
    tick(len(flat) - len(run))

    own = _own_values(model, ready, base, metrics)  # [metric row]
    values = own[:, [cell.row for cell in flat]]
    fired = np.array([sum(len(c.positions) for c in cell.changes) for cell in flat], dtype=int)
    squared = np.zeros(len(flat))
    at_answer = [metrics.names.index(name) for name in metrics.at_answer]
    log_p = None if metrics.tokens else log_softmax(base.logits.float().cpu().numpy())
    for start, part in _parts(active, model.spec.d_vocab if metrics.tokens is None else 1):
        whole = [_with_standing(cell, base) for cell in part]
        done = run_cells(model, base.base, whole, tokens=metrics.tokens, tick=tick)
        at = run[start : start + len(part)]
        before = np.empty((0, 0)) if log_p is None else log_p[[cell.row for cell in part]]
        values[np.ix_(at_answer, at)] = metrics.read(done.logits[:, -1], before)
        fired[at], squared[at] = _receipts(done, part, base)
    for name in metrics.sequences:
        i = metrics.names.index(name)
        own_rows = [j for j in run if flat[j].row < len(base)]
        values[i, own_rows] = _sequence(model, ready, base, [flat[j] for j in own_rows], name)
    return _paired(plans, values, fired, squared, metrics, base.twins)


def base_values(
    model: Backend, ready: Prepared, runs: Runs, metrics: Metrics
) -> Float[np.ndarray, "metric draw"]:
    """Every metric of the runs themselves (``kl`` is 0)."""
    own = _own_values(model, ready, runs, metrics)
    out = own[:, : len(runs)].copy()
    if runs.twins:
        out[0] = (own[0, : len(runs)] - own[0, len(runs) :]) / 2
    return out


def is_no_op(cell: Cell, base: Runs) -> bool:
    """Whether a cell puts in exactly what the base run has there."""
    return not cell.cuts and all(_same(change, base, cell.row) for change in cell.changes)


def _same(change: Change, base: Runs, row: int) -> bool:
    if change.op == "add":
        return not bool(change.value.any())
    if change.site not in base.states:
        return False
    here = base.states[change.site][row, list(change.positions)]
    if change.heads is not None:
        here = here[:, list(change.heads)]
    return bool((here == change.value.to(here.device, here.dtype)).all())


def _with_standing(cell: Cell, base: Runs) -> Cell:
    """A cell with the changes that belong to its run, except where it replaces them."""
    return replace(cell, changes=(*_standing(cell, base), *cell.changes))


def _standing(cell: Cell, base: Runs) -> tuple[Change, ...]:
    out = []
    for change in base.standing[cell.row]:
        put = {p for c in cell.changes if c.site == change.site for p in c.positions}
        kept = [i for i, p in enumerate(change.positions) if p not in put]
        if kept:
            positions = tuple(change.positions[i] for i in kept)
            out.append(replace(change, positions=positions, value=change.value[kept]))
    return tuple(out)


def _receipts(done: CellRuns, cells: Sequence[Cell], base: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Places and squared norm of what the cells change, the runs' own changes left out."""
    fired, squared = done.fired.copy(), done.delta_norm**2
    for i, cell in enumerate(cells):
        for change in _standing(cell, base):
            fired[i] -= len(change.positions)
            squared[i] -= float(change.value.float().pow(2).sum())
    return fired, squared


def _own_values(
    model: Backend, ready: Prepared, runs: Runs, metrics: Metrics
) -> Float[np.ndarray, "metric row"]:
    """The metrics of each row as it is; whole answers for the prompt's own rows only."""
    logits = runs.logits.float()
    wide = log_softmax(logits.cpu().numpy())
    tokens = list(metrics.tokens) if metrics.tokens else slice(None)
    out = np.full((len(metrics.names), len(runs.rows)), np.nan)
    at_answer = [metrics.names.index(name) for name in metrics.at_answer]
    out[at_answer] = metrics.read(logits[:, tokens], wide)
    for name in metrics.sequences:
        cells = [Cell(row) for row in range(len(runs))]
        out[metrics.names.index(name), : len(runs)] = _sequence(model, ready, runs, cells, name)
    return out


def _sequence(
    model: Backend, ready: Prepared, runs: Runs, cells: Sequence[Cell], name: str
) -> Float[np.ndarray, " cell"]:
    """Log P of a whole answer in each cell; its tokens are appended to the prompt."""
    answer = answer_tokens(name, ready.tokenized)
    tail = answer[len(ready.tokenized.shared) : -1]
    rows = [(*row.ids, *tail) for row in runs.rows[: len(runs)]]
    base = record_base(model, rows, logits_at=range(-len(answer), 0))
    out = _log_prob(base.logits[[cell.row for cell in cells]], answer)
    longer = [
        _longer(_with_standing(cell, runs), len(runs.rows[cell.row].ids), len(tail))
        for cell in cells
    ]
    todo = [i for i, cell in enumerate(longer) if cell.changes or cell.cuts]
    active = [longer[i] for i in todo]
    for start, part in _parts(active, model.spec.d_vocab * len(answer)):
        logits = run_cells(model, base, part).logits
        out[todo[start : start + len(part)]] = _log_prob(logits, answer)
    return out


def _log_prob(logits: torch.Tensor, answer: Sequence[int]) -> Float[np.ndarray, " cell"]:
    """Sum of log P over the tokens of an answer; logits [cell token vocab] before each."""
    log_prob = log_softmax(logits.float().cpu().numpy())
    return log_prob[:, np.arange(len(answer)), list(answer)].sum(axis=-1)


def _longer(cell: Cell, n_pos: int, n_tail: int) -> Cell:
    """A cell whose cuts at i* go on for the answer's own tokens."""

    def further(cut: Closed) -> Closed:
        if n_pos - 1 not in cut.queries:
            return cut
        return replace(cut, queries=(*cut.queries, *range(n_pos, n_pos + n_tail)))

    return replace(cell, cuts=tuple(further(cut) for cut in cell.cuts))


def _parts(cells: Sequence[Cell], numbers: int) -> list[tuple[int, Sequence[Cell]]]:
    """Cells in parts whose logits fit, each with where it starts."""
    size = max(1, MOST_NUMBERS // numbers)
    return [(i, cells[i : i + size]) for i in range(0, len(cells), size)]


def _paired(
    plans: Sequence[Planned],
    values: np.ndarray,
    fired: np.ndarray,
    squared: np.ndarray,
    metrics: Metrics,
    twins: bool,
) -> Measured:
    """Cells back to plans: LD is half the difference of prompt and twin."""
    out = np.full((len(metrics.names), len(plans)), np.nan)
    places, norm = np.zeros(len(plans), dtype=int), np.zeros(len(plans))
    start = 0
    for i, plan in enumerate(plans):
        mine = slice(start, start + len(plan))
        start += len(plan)
        if not plan:
            continue
        out[:, i] = values[:, mine][:, 0]
        if twins:
            out[0, i] = (values[0, mine][0] - values[0, mine][1]) / 2
        places[i] = fired[mine].sum()
        norm[i] = np.sqrt(np.maximum(squared[mine].sum(), 0))
    return Measured(out, places, norm)
