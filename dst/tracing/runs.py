"""Runs of a case and its variants: what cells of a grid change, and what they take from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from dst.core.sites import Site, state_of
from dst.models.backend import Backend, Edit
from dst.models.variants import Row, combined
from dst.tracing.prepare import Prepared
from dst.tracing.replay import Base, Change, record_base


@dataclass(frozen=True)
class Runs:
    """Rows that were run once, each with the states of some sites.

    The rows of a yes/no prompt are followed by their twins, one for each.

    Attributes:
        rows: Token ids, matched to the prompt's positions.
        base: What `run_cells` starts from.
        states: [row pos ...] per site, at each row's own positions.
        twins: Whether the second half of the rows are twins of the first.
        standing: Changes that belong to the runs themselves (noise), one tuple per row.
        logits: [row d_vocab] at i*, with the standing changes made.
    """

    rows: tuple[Row, ...]
    base: Base
    states: Mapping[Site, torch.Tensor]
    twins: bool
    standing: tuple[tuple[Change, ...], ...]
    logits: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows) // (2 if self.twins else 1)

    def rows_of(self, draw: int) -> tuple[int, ...]:
        """The row of a draw, and its twin's; draws start again when they run out."""
        row = draw % len(self)
        return (row, row + len(self)) if self.twins else (row,)

    def places(self, row: int, positions: Sequence[int]) -> list[int]:
        """The row's own positions for some of the prompt's; -1 where there is none."""
        return [self.rows[row].places[p] for p in positions]

    def with_states(self, states: Mapping[Site, torch.Tensor]) -> Runs:
        """The same rows with other states to take from."""
        return replace(self, states=states)


def record_runs(
    model: Backend,
    ready: Prepared,
    rows: Sequence[Row],
    sites: Sequence[Site],
    standing: Sequence[Sequence[Change]] = (),
) -> Runs:
    """Run rows of a case, each with its twin where the case has one, and keep some sites.

    Args:
        model: The model.
        ready: The case.
        rows: The rows.
        sites: What is kept.
        standing: Per row, changes that belong to it (noise), at the *prompt's* positions,
            their values [position d_model]; a twin has its prompt's.
    """
    twin = ready.variants.twin
    twins = () if twin is None else _twins(model, ready, rows, twin)
    every = (*rows, *twins)
    base = record_base(model, [row.ids for row in every])
    own = standing or [()] * len(rows)
    given = (*own, *own) if twins else own
    made = tuple(
        tuple(
            replace(change, positions=tuple(row.places[p] for p in change.positions))
            for change in changes
        )
        for row, changes in zip(every, given, strict=True)
    )
    logits = base.logits[:, -1]
    if standing:
        states, logits = _run_changed(model, base, made, sites)
    else:
        streams = [site for site in sites if site.kind in ("resid_pre", "resid_post")]
        states = {site: base.states[state_of(site)] for site in streams}
        others = [site for site in sites if site not in states]
        if others:
            states |= model.run(base.rows, capture=others, logits_at=[-1]).states
    return Runs(every, base, states, bool(twins), made, logits)


def _run_changed(
    model: Backend,
    base: Base,
    standing: Sequence[Sequence[Change]],
    sites: Sequence[Site],
) -> tuple[dict[Site, torch.Tensor], torch.Tensor]:
    """States and last logits of rows with their standing changes."""
    edits = [
        Edit(c.site, [row], list(c.positions), c.value, c.op, c.heads)
        for row, changes in enumerate(standing)
        for c in changes
    ]
    run = model.run(base.rows, capture=sites, edits=edits, logits_at=[-1])
    return dict(run.states), run.last_logits


def _twins(model: Backend, ready: Prepared, rows: Sequence[Row], twin: Row) -> tuple[Row, ...]:
    return combined(model.tokenizer, ready.tokenized.ids, rows, [twin], "twin")
