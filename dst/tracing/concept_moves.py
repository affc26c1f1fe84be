"""Concepts moved along their directions at the answer position, and what the blocks make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dst.core.lens_results import TunedLens
from dst.core.map_results import ConceptNodes
from dst.core.sites import site_of_state
from dst.models.backend import Backend
from dst.tracing.concept_controls import Group, groups, matched_directions
from dst.tracing.replay import Base, Cell, Change, run_cells
from dst.tracing.tuned_lens import translate

UNMOVED = 1e-6
"""A move shorter than this share of the state's norm is none."""

MOST_NUMBERS = 2**26
"""Captured numbers that are held at a time."""

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Move:
    """One concept's move at a state.

    Attributes:
        concept: Which.
        moved: Its coordinate less the donor's.
        targets: The concepts that it may act on.
        groups: Those, by their number among the targets, in groups that share controls.
    """

    concept: int
    moved: float
    targets: Int[np.ndarray, " target"]
    groups: tuple[Group, ...]

    def n_cells(self, controls: int) -> int:
        """Runs: the concept's own, and the controls of every group."""
        return 1 + len(self.groups) * controls


@dataclass(frozen=True)
class Moves:
    """The moves and readings of one prompt."""

    model: Backend
    base: Base
    nodes: ConceptNodes
    lens: TunedLens | None
    controls: int
    rng: np.random.Generator

    @property
    def i_star(self) -> int:
        """The answer position."""
        return len(self.base.rows[0]) - 1

    @cached_property
    def rows(self) -> Float[np.ndarray, "concept d_model"]:
        """Uc: unembedding rows of the concepts' tokens, less the mean row."""
        mean = self.model.directions().mean(dim=0, dtype=torch.float64)
        rows = self.model.directions(self.nodes.token_ids.tolist())
        out: np.ndarray = (rows.double() - mean).cpu().numpy()
        return out

    @cached_property
    def units(self) -> Float[np.ndarray, "concept d_model"]:
        """Directions of norm 1; 0 where a row is the mean row and has no direction."""
        norm = np.linalg.norm(self.rows, axis=1, keepdims=True)
        return np.divide(self.rows, norm, out=np.zeros_like(self.rows), where=norm > 0)

    @cached_property
    def rounding(self) -> float:
        """What arithmetic alone makes of an effect, in logits."""
        return torch.finfo(self.base.states.dtype).eps * float(self.base.logits.abs().max())

    def h(self, state: int) -> Float[torch.Tensor, " d_model"]:
        """The state of x at i*."""
        return self.base.states[state, 0, self.i_star]

    def coordinates(
        self, state: int, donor: Float[np.ndarray, " d_model"]
    ) -> Float[np.ndarray, " concept"]:
        """Coordinate of x along each concept's direction, less the donor's."""
        h = self.h(state).double().cpu().numpy()
        moved: np.ndarray = self.units @ (h - donor)
        moved[np.abs(moved) <= UNMOVED * np.linalg.norm(h)] = 0.0
        return moved

    def plan(
        self, state: int, moved: Float[np.ndarray, " concept"], arrivals: Sequence[int]
    ) -> list[Move]:
        """The concepts of a state that move, each with its target words in groups."""
        targets = np.flatnonzero(self.nodes.node[list(arrivals)].any(axis=0))
        plans = []
        for v in np.flatnonzero(self.nodes.node[state] & (np.nan_to_num(moved) != 0)).tolist():
            others = targets[targets != v]
            shared = groups(self.units[v], self.rows[others])
            plans.append(Move(v, float(moved[v]), others, tuple(shared)))
        return plans

    def effects(
        self, state: int, plans: Sequence[Move], arrivals: Sequence[int], tick: Tick
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Per arrival: effects [concept concept] and the controls' [draw concept concept].

        Both are NaN where there is no edge to measure; the controls also where nothing moves.
        """
        n, node = len(self.nodes.words), self.nodes.node
        out = {}
        for end in arrivals:
            effect = np.where(node[state][:, None] & node[end], 0.0, np.nan)
            np.fill_diagonal(effect, np.nan)
            out[end] = effect, np.full((self.controls, n, n), np.nan)
        each = len(arrivals) * self.model.spec.d_model * (self.i_star + 1)
        for part in _parts(plans, max(1, MOST_NUMBERS // each), self.controls):
            moves = [self._moves(plan) for plan in part]
            lost = self._lost(state, np.concatenate(moves), arrivals, tick)
            for end, (effect, control) in out.items():
                start = 0
                for plan, move in zip(part, moves, strict=True):
                    own = lost[end][start : start + len(move)]
                    _sort(plan, own, node[end], effect[plan.concept], control[:, plan.concept])
                    start += len(move)
        return out

    def _moves(self, plan: Move) -> Float[np.ndarray, "move d_model"]:
        """The concept's own move, then those of its controls, group by group."""
        unit = self.units[plan.concept]
        drawn = [matched_directions(unit, group, self.controls, self.rng) for group in plan.groups]
        return -plan.moved * np.concatenate([unit[None], *drawn])

    def _lost(
        self,
        state: int,
        moves: Float[np.ndarray, "move d_model"],
        arrivals: Sequence[int],
        tick: Tick,
    ) -> dict[int, Float[np.ndarray, "move concept"]]:
        """Om* of every move on every concept, per arrival."""
        n_layers = self.model.spec.n_layers
        site, values = site_of_state(state, n_layers), torch.from_numpy(moves).to(self.base.states)
        cells = [Cell(0, (Change(site, (self.i_star,), m[None], op="add"),)) for m in values]
        sites = {end: site_of_state(end, n_layers) for end in arrivals}
        capture, ids = list(sites.values()), self.nodes.token_ids.tolist()
        runs = run_cells(self.model, self.base, cells, tokens=ids, capture=capture, tick=tick)
        lost = {}
        for end, there in sites.items():
            answered = runs.states[there][:, self.i_star]
            unanswered = self.h(end) + values.to(answered.device)
            lost[end] = self._read(end, unanswered) - self._read(end, answered)
        return lost

    def _read(self, state: int, resid: torch.Tensor) -> Float[np.ndarray, "row concept"]:
        """Lens logits of the concepts, less the mean over the vocabulary; no scale and no cap."""
        h = resid.float().cpu().numpy()
        read = h if self.lens is None else translate(self.lens, state, h)
        normed = self.model.final_norm(torch.from_numpy(np.ascontiguousarray(read)))
        # The head's bias is the same in both readings of a difference.
        z: np.ndarray = normed.double().cpu().numpy() @ self.rows.T
        return z


def _sort(
    plan: Move,
    lost: Float[np.ndarray, "move concept"],
    node: Bool[np.ndarray, " concept"],
    effect: Float[np.ndarray, " concept"],
    control: Float[np.ndarray, "draw concept"],
) -> None:
    """Put what one concept's moves gave into its rows of the effects and of the controls'."""
    draws = len(control)
    for g, group in enumerate(plan.groups):
        here = plan.targets[group.words]
        here = here[node[here]]
        effect[here] = lost[0, here]
        control[:, here] = lost[1 + g * draws : 1 + (g + 1) * draws, here]


def _parts(plans: Sequence[Move], most: int, controls: int) -> Iterator[list[Move]]:
    """Plans in order, with at most ``most`` cells together (but at least one plan)."""
    part: list[Move] = []
    n = 0
    for plan in plans:
        if part and n + plan.n_cells(controls) > most:
            yield part
            part, n = [], 0
        part.append(plan)
        n += plan.n_cells(controls)
    if part:
        yield part
