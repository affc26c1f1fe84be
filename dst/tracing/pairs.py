"""A prompt and one donor, matched position by position: what paths and estimates are read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import contrast
from dst.core.case import Case
from dst.core.errors import CaseError, InputError
from dst.core.sites import Site
from dst.models.backend import Backend
from dst.models.variants import Row
from dst.tracing.donors import Donor, donor_rows
from dst.tracing.prepare import DRAWS, Prepared, prepare
from dst.tracing.replay import Base, Cell, CellRuns, run_cells
from dst.tracing.runs import record_runs

SELF_PATCHES = 8
"""Cells whose own states are put back, as a control."""


@dataclass(frozen=True)
class Pair:
    """The base prompt and one donor.

    Attributes:
        ready: The case, tokenised, with its variants.
        name: The donor's name.
        donor: The donor's tokens, matched to the prompt's positions.
        matched: Positions of the prompt that have a counterpart in the donor.
        notes: What was drawn, chosen or not matched.
    """

    ready: Prepared
    name: str
    donor: Row
    matched: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Tokens of the base prompt."""
        return self.ready.tokenized.ids

    @property
    def covers_all(self) -> bool:
        """Whether every position of either prompt has a counterpart in the other."""
        return self.donor.is_same_length

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids of the answers: the only logits that LD reads."""
        return (*self.ready.metric.plus, *self.ready.metric.minus)

    def aligned(self, base: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
        """The donor's states [pos ...] at the prompt's positions; the base's where it has none."""
        out = base.clone()
        out[list(self.matched)] = donor[[self.donor.places[p] for p in self.matched]]
        return out

    def contrast(self, logits: torch.Tensor) -> Float[np.ndarray, " row"]:
        """LD of logits [row token] of `tokens`, in logits."""
        n = len(self.ready.metric.plus)
        return contrast(logits.float().cpu().numpy(), range(n), range(n, len(self.tokens)))


@dataclass(frozen=True)
class Both:
    """The two runs of a pair.

    Attributes:
        pair: The pair.
        cells_from: What `run_cells` changes; row 0 is the base, row 1 the donor.
        base: The base's states per site, [pos ...].
        donor: The donor's at the base's positions.
        ld: LD of the base run, in logits.
        donor_ld: LD of the donor run.
    """

    pair: Pair
    cells_from: Base
    base: Mapping[Site, torch.Tensor]
    donor: Mapping[Site, torch.Tensor]
    ld: float
    donor_ld: float

    def effects(
        self, model: Backend, cells: Sequence[Cell]
    ) -> tuple[Float[np.ndarray, " cell"], CellRuns | None]:
        """LD(cell) - LD(base) of each cell, in logits, with the runs' receipts."""
        if not cells:
            return np.zeros(0), None
        runs = run_cells(model, self.cells_from, cells, tokens=self.pair.tokens)
        return self.pair.contrast(runs.logits[:, -1]) - self.ld, runs


def make_pair(model: Backend, case: Case, donor: Donor, *, draw: int = 0, seed: int = 0) -> Pair:
    """Prepare a case and pick its donor.

    Raises:
        InputError: The donor has no such draw.
        CaseError: The case has no such variant, no associative answer, or is a yes/no question
            with a twin.
        TokenError: The donor has another length and nothing says how positions correspond.
    """
    drawn = donor in ("neutral", "substitute")
    ready = prepare(model, case, draws=max(DRAWS, draw + 1) if drawn else 0, seed=seed)
    if ready.variants.twin is not None:
        raise CaseError(
            "Paths and gradients read one run, and a yes/no case with its twin is two",
            do="Ask for the completion instead of yes or no",
            field="twin_question",
        )
    name, rows = donor_rows(model, ready, donor)
    if not 0 <= draw < len(rows):
        raise InputError(
            f"The donor {name} has no draw {draw}", expected=f"a draw from 0 to {len(rows) - 1}"
        )
    row = rows[draw]
    matched = tuple(p for p in range(len(ready.tokenized.ids)) if row.places[p] >= 0)
    notes = [*ready.notes]
    if len(rows) > 1:
        notes.append(f"The donor is draw {draw} of {len(rows)} of {name}.")
    if not row.is_same_length:
        notes.append(
            f"{len(matched)} of {len(ready.tokenized.ids)} positions have a counterpart in the "
            "donor; the others keep the base's states."
        )
    return Pair(ready, name, row, matched, tuple(notes))


def record_both(model: Backend, pair: Pair, sites: Sequence[Site]) -> Both:
    """Run base and donor in one batch and keep some sites of both."""
    runs = record_runs(model, pair.ready, [pair.ready.x, pair.donor], sites)
    own = {site: runs.states[site][0, : len(pair.ids)] for site in sites}
    theirs = {site: pair.aligned(own[site], runs.states[site][1]) for site in sites}
    ld, donor_ld = pair.contrast(runs.logits[:, list(pair.tokens)]).tolist()
    return Both(pair, runs.base, own, theirs, ld, donor_ld)
