"""`position_effects`: which places of the prompt bring which concepts to the answer position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.importance import beyond_draws
from dst.analysis.multiple import benjamini_hochberg
from dst.core.case import Case
from dst.core.errors import CaseError, InputError, TokenError
from dst.core.lens_results import LOGIT_LENS, TUNED_LENS, TunedLens
from dst.core.position_results import FORMS, PositionEffects
from dst.core.sites import Site, site_of_state
from dst.models.backend import Backend
from dst.models.check import TOLERANCE
from dst.models.reference import neutral_nouns
from dst.models.tokens import token_texts
from dst.tracing.concept_vectors import knows, said
from dst.tracing.importance import concept_words
from dst.tracing.lens import read_state
from dst.tracing.prepare import DRAWS, Prepared, prepare
from dst.tracing.progress import progress
from dst.tracing.replay import Base, Cell, Change, record_base, run_cells
from dst.tracing.swaps import record
from dst.tracing.tuned_lens import refuse_another_model

MOST_NUMBERS = 2**25
"""States and logits that are held at a time."""

NOT_REPLACED = ("bos", "template")
"""Roles whose tokens no word can stand for."""


def position_effects(
    model: Backend,
    case: Case,
    words: Sequence[str] | None = None,
    *,
    form: str = "state",
    states: Sequence[int] | None = None,
    reads: Sequence[int] | None = None,
    lens: TunedLens | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
) -> PositionEffects:
    """How much of each concept's lens logit at i* every place of the prompt brings.

    effect[l, p](w) = z_w(x) - z_w(x with h[l, p] of x_0), mean over neutral draws, in logits:
    above 0 the place brings w. z_w = lens logit of w's first token less the mean over the
    vocabulary (a shift of all logits is no concept). With ``form="word"`` the token at p gives way
    to a neutral noun at the embedding, whatever the cue is. The control puts one draw's state
    into another draw's run at the same place: what it takes for x to be more than one further
    draw (`dst.analysis.importance.beyond_draws`), q by Benjamini-Hochberg over all tests.

    Args:
        model: The model.
        case: The case; neutral variants that it lacks are drawn.
        words: The concepts; by default the case's context and competing words. A word of several
            tokens is read by its first.
        form: ``state`` or ``word``.
        states: Where a place is replaced, by default 0 to L - 1; ``word`` has state 0 only.
        reads: States at which the words are read; the output, L, is always among them.
        lens: A tuned lens of this model for reads before L; by default the logit lens.
        draws: How many neutral draws to make where the case gives none.
        seed: Seed of the draws.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Returns:
        `PositionEffects`, arrays [read state pos concept].

    Raises:
        CaseError: There are no words, or (``state``) no neutral variant; says why.
        InputError: A state or the form does not exist, or the lens is of another model.
        TokenError: The tokenizer does not know a word, or (``word``) fewer than two neutral nouns.

    Source: METHOD 6. The published edges move one token to "." and read the output's probability
    (`dst.tracing.published_map`); they have no control.
    """
    words, ready = concept_words(case, words), prepare(model, case, draws=draws, seed=seed)
    n_layers = model.spec.n_layers
    at = _states("state", states, range(n_layers), n_layers) if form != "word" else (0,)
    read = tuple(sorted({*_states("read", reads, (), n_layers), n_layers}))
    if form not in FORMS:
        raise InputError(f"There is no form {form!r}", expected=" or ".join(FORMS))
    if lens is not None:
        refuse_another_model(model, lens)
    ids = [tokens[0] for tokens in said(model, case, words)]
    drawn = _by_state(model, ready, at) if form == "state" else _by_word(model, ready, draws)
    n_cells = len(drawn.cells)
    with progress("position effects", n_cells, show=show_progress) as tick:
        z = _Reader(model, drawn.base, read, ids, lens).read(drawn.cells, tick)
    effects, ring = drawn.effects(z)  # [draw read state pos concept] each
    later = np.array([[r > l for l in at] for r in read])[:, :, None, None]
    effect = np.where(later, effects.mean(axis=0), np.nan)
    several = len(ring) > 1
    tested = later & (drawn.differing > 0)[None, :, :, None]
    # What arithmetic alone makes of a logit is no spread.
    rounding = TOLERANCE.get(model.spec.dtype, 4e-2) * float(drawn.base.logits.abs().max())
    p = np.where(tested, beyond_draws(effects.mean(axis=0), ring, rounding), np.nan)
    control = np.sqrt((ring**2).mean(axis=0)) if several else np.full(effect.shape, np.nan)
    return PositionEffects(
        form=form,
        lens=LOGIT_LENS if lens is None else TUNED_LENS,
        tokens=ready.tokenized.tokens,
        roles=ready.tokenized.roles,
        words=tuple(words),
        word_tokens=token_texts(model.tokenizer, ids),
        states=np.array(at, dtype=int),
        reads=np.array(read, dtype=int),
        effects=effect,
        control=np.where(later, control, np.nan),
        p=p,
        q=benjamini_hochberg(p),
        differing=drawn.differing,
        draws=len(ring),
        notes=(*ready.notes, *_several(model, case, words)),
        provenance=model.provenance(seed=seed, draws=draws, form=form, words=list(words)),
    )


# -- what is replaced by what ----------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """Cells, and which effect each belongs to.

    Attributes:
        base: Row 0 is x; the others are the draws of x_0, where the form runs them.
        cells: One place of one row replaced.
        at: Per cell: is it of the ring (1) or of x (0); its draw, index of the state, position.
        shape: Draws, states, positions.
        differing: Draws that differ from x, per state and position.
        ring_of_x: The ring is read off x's own cells: draw k in place of x against draw k + 1.
    """

    base: Base
    cells: list[Cell]
    at: np.ndarray
    shape: tuple[int, int, int]
    differing: np.ndarray
    ring_of_x: bool

    def effects(
        self, z: tuple[np.ndarray, np.ndarray]
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Effect of x against each draw and of each draw against the next.

        Args:
            z: Lens logits of the base's rows and of the cells, [read row-or-cell concept].
        """
        own, changed = z
        n_reads, _, n_words = own.shape
        out = np.zeros((2, *self.shape, n_reads, n_words))
        for cell, (ring, draw, state, pos) in enumerate(self.at):
            row = self.cells[cell].row
            out[ring, draw, state, pos] = own[:, row] - changed[:, cell]
        if self.ring_of_x:
            out[1] = np.roll(out[0], -1, axis=0) - out[0]
        effects = np.moveaxis(out, 4, 2)  # [2 draw read state pos concept]
        return effects[0], effects[1]


def _by_state(model: Backend, ready: Prepared, at: Sequence[int]) -> _Drawn:
    """The state of a place by that of x_0; each draw's by that of the next."""
    neutral = ready.variants.neutral
    if not neutral:
        why = "; ".join(ready.notes) if ready.tokenized.case.cue else "no cue"
        raise CaseError(
            f"The case has no neutral variant ({why})",
            do="Give a cue, the neutral variants themselves, or form='word'",
            field="cue",
        )
    rows = record(model, [ready.x, *neutral], ready.metric)
    base, n, n_pos = rows.base, len(neutral), len(ready.x.ids)
    assert base is not None
    differing = np.zeros((len(at), n_pos), dtype=int)
    cells, where = [], []
    pairs = [(0, k, 0) for k in range(1, n + 1)]
    pairs += [(1, k % n + 1, k) for k in range(1, n + 1)] if n > 1 else []
    for ring, donor, into in pairs:
        both = ((rows.places[donor] >= 0) & (rows.places[into] >= 0)).numpy()
        for j, state in enumerate(at):
            value = rows.states[state, donor]
            differs = (value != rows.states[state, into]).any(dim=-1).cpu().numpy() & both
            if not ring:
                differing[j] += differs
            for pos in np.flatnonzero(differs).tolist():
                place = int(rows.places[into, pos])
                change = Change(
                    site_of_state(state, model.spec.n_layers), (place,), value[pos : pos + 1]
                )
                cells.append(Cell(into, (change,)))
                where.append((ring, (into if ring else donor) - 1, j, pos))
    return _Drawn(base, cells, _places(where), (n, len(at), n_pos), differing, False)


def _by_word(model: Backend, ready: Prepared, draws: int) -> _Drawn:
    """The token of a place by a neutral noun's, at the embedding."""
    nouns = _noun_tokens(model, ready, draws)
    base = record_base(model, [ready.x.ids])
    roles, n_pos = ready.tokenized.roles, len(ready.x.ids)
    # Only state 0 of these rows is used: the noun's own embedding at every position.
    sites = [Site(0, "resid_pre")]
    embedded = model.run([[t] * n_pos for t in nouns], capture=sites, logits_at=[-1])
    cells, where = [], []
    differing = np.zeros((1, n_pos), dtype=int)
    for draw, token in enumerate(nouns):
        value = embedded.states[sites[0]][draw]
        for pos in range(n_pos):
            if roles[pos] in NOT_REPLACED or ready.x.ids[pos] == token:
                continue
            differing[0, pos] += 1
            cells.append(Cell(0, (Change(sites[0], (pos,), value[pos : pos + 1]),)))
            where.append((0, draw, 0, pos))
    return _Drawn(base, cells, _places(where), (len(nouns), 1, n_pos), differing, True)


def _noun_tokens(model: Backend, ready: Prepared, n: int) -> list[int]:
    """Tokens of the first neutral nouns that are one token and no word of the prompt's.

    Raises:
        TokenError: Fewer than two are.
    """
    found: list[int] = []
    for noun in neutral_nouns(model.spec.name):
        if len(found) == n:
            break
        if knows(model, noun):
            (tokens,) = said(model, ready.tokenized.case, [noun])
            if len(tokens) == 1 and tokens[0] not in (*ready.x.ids, *found):
                found.append(tokens[0])
    if len(found) < 2:
        raise TokenError(
            f"{len(found)} of the neutral nouns are one token of this model",
            expected="two or more",
            do="Use form='state'",
        )
    return found


def _places(where: list[tuple[int, int, int, int]]) -> np.ndarray:
    return np.array(where, dtype=int).reshape(-1, 4)


# -- what is read ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """Lens logits of some tokens at i*, less the mean over the vocabulary."""

    model: Backend
    base: Base
    reads: tuple[int, ...]
    ids: list[int]
    lens: TunedLens | None

    def read(
        self, cells: Sequence[Cell], tick: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the base's rows and of the cells, [read row concept] and [read cell concept]."""
        inner = self.reads[:-1]
        ends = [len(row) - 1 for row in self.base.rows]
        index = torch.arange(len(ends))
        own = [self.base.states[read][index, torch.tensor(ends)] for read in inner]
        z = self._concepts(own, self.base.logits[:, -1])
        n_layers = self.model.spec.n_layers
        sites = [site_of_state(read, n_layers) for read in inner]
        width = max(ends) + 1
        each = self.model.spec.d_vocab + len(sites) * width * self.model.spec.d_model
        size, parts = max(1, MOST_NUMBERS // each), []
        for start in range(0, len(cells), size):
            part = cells[start : start + size]
            runs = run_cells(self.model, self.base, part, capture=sites, tick=tick)
            last = torch.tensor([ends[cell.row] for cell in part])
            states = [runs.states[site][torch.arange(len(part)), last] for site in sites]
            parts.append(self._concepts(states, runs.logits[:, -1]))
        empty = np.zeros((len(self.reads), 0, len(self.ids)))
        return z, np.concatenate(parts, axis=1) if parts else empty

    def _concepts(
        self, states: Sequence[torch.Tensor], logits: torch.Tensor
    ) -> Float[np.ndarray, "read row concept"]:
        resid = [state.float().cpu().numpy() for state in states]
        inner = zip(self.reads[:-1], resid, strict=True)
        wide = [read_state(self.model, read, h, self.lens) for read, h in inner]
        wide.append(logits.float().cpu().numpy().astype(np.float64))
        return np.stack([z[:, self.ids] - z.mean(axis=-1, keepdims=True) for z in wide])


# -- arguments -------------------------------------------------------------------------------


def _states(
    what: str, asked: Sequence[int] | None, default: Sequence[int], n_layers: int
) -> tuple[int, ...]:
    states = sorted(set(default if asked is None else asked))
    if bad := [state for state in states if not 0 <= state <= n_layers]:
        raise InputError(f"The {what} {bad[0]} does not exist", expected=f"0 to {n_layers}")
    if asked is not None and not states and what == "state":
        raise InputError("No state is named", expected=f"some of 0 to {n_layers}")
    return tuple(states)


def _several(model: Backend, case: Case, words: Sequence[str]) -> tuple[str, ...]:
    """Which words are read by the first of several tokens."""
    split = [
        word for word, ids in zip(words, said(model, case, words), strict=True) if len(ids) > 1
    ]
    return (f"Read by the first of several tokens: {', '.join(split)}.",) if split else ()
