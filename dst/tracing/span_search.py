"""The search for words that an answer needs: random refills, then sets grown word by word.

1. *Perturb.* The prompt is run many times, each time with about half of its words resampled.
   Main effects and pair interactions come from these rows (`dst.analysis.spans.effects`).
2. *Singles.* N and K of the words with the largest main effect or interaction.
3. *Grow.* Each of the best sets is tried with the words that interact most with its members, to
   `max_words`. A set goes on if it is more than its parts (`dst.analysis.spans.is_one_span`).

Source: the beam over subsequences of SAT (Sun et al. 2025; METHOD 5). There a set is grown by
whatever raises the share of texts with the target: causes that act by themselves become one set,
and words of which either suffices are never put together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dst.analysis.flows import LEAST_FLOOR
from dst.analysis.spans import LEAST_SHARE, effects, is_one_span, joint, ranked
from dst.tracing.span_runs import SpanRuns, Units

MASKS, SINGLES, SEARCH = 0.25, 0.4, 0.6
"""Shares of the budget that may be spent after the random refills, after the single words, and in
all; the rest is for the scores."""

CLEAR = 2.0
"""Standard errors that an interaction has to be from 0 for two words to be tried together."""


@dataclass
class Search:
    """A search under way; what it has found so far can be read at any time.

    Attributes:
        runs: Where LD is read.
        beam: Sets that go on at each size.
        max_words: Largest set.
        seed: Seed of the random refills.
        main: Main effect of each word, in logits; NaN before it is known.
        pairs: Interactions of two words, in logits; NaN before they are known.
        noise: Standard error of an interaction, in logits.
        tried: G of every set that was tried, on the search's fills.
    """

    runs: SpanRuns
    beam: int
    max_words: int
    seed: int
    main: np.ndarray = field(init=False)
    pairs: np.ndarray = field(init=False)
    noise: float = field(init=False, default=math.nan)
    tried: dict[Units, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.runs.fills.words)
        self.main, self.pairs = np.full(n, np.nan), np.full((n, n), np.nan)

    def find(self) -> None:
        """Search until nothing grows, or until its share of the budget is spent."""
        runs = self.runs
        runs.limit = int(SEARCH * runs.budget)
        self.perturb(int(MASKS * runs.budget / runs.cost))
        self.measure(frozenset({i}) for i in self.promising())
        level = self.best_pairs()
        while level and len(level[0]) <= self.max_words and self.measure(level):
            level = self.grown(level)
        runs.limit = runs.budget

    def perturb(self, n: int) -> None:
        """Random words resampled, half of them on average, one random search fill a row."""
        rng = np.random.default_rng([self.seed, 2])
        words = len(self.runs.fills.words)
        is_kept = rng.random((n, words)) < 0.5
        draws = rng.integers(len(self.runs.fills.search), size=n)
        rows = [
            (frozenset(np.flatnonzero(~row).tolist()), int(draw))
            for row, draw in zip(is_kept, draws, strict=True)
        ]
        self.runs.read("search", rows)
        y = np.array([self.runs.resampled("search", units)[draw] for units, draw in rows])
        if len(y) > words + 1:
            self.main, self.pairs, self.noise = effects(is_kept, y)

    def promising(self) -> list[int]:
        """The words with the largest main effect or interaction, as many as can be measured."""
        strength = np.nan_to_num(np.abs(self.main))
        if len(strength) > 1:
            strength = np.maximum(strength, np.nan_to_num(np.abs(self.pairs)).max(axis=1))
        rows = (SINGLES - MASKS) * self.runs.budget / self.runs.cost
        most = max(1, int(rows / (2 * len(self.runs.fills.search))))
        return np.argsort(-strength, kind="stable")[:most].tolist()

    def best_pairs(self) -> list[Units]:
        """The pairs of words with the largest interaction, of either sign, beyond its noise."""
        n = len(self.main)
        bonds = [(self._bond(i, j), i, j) for i in range(n) for j in range(i)]
        bonds = [bond for bond in sorted(bonds, key=lambda bond: -bond[0]) if bond[0] > 0]
        return [frozenset({i, j}) for _, i, j in bonds[: self.beam]]

    def _bond(self, i: int, j: int) -> float:
        """The size of an interaction; 0 where it is unknown or within `CLEAR` of its noise."""
        size = abs(float(self.pairs[i, j]))
        return size if size >= CLEAR * max(self.noise, 1e-9) else 0.0

    def grown(self, level: list[Units]) -> list[Units]:
        """The sets of one word more: members of the beam, each with the words it works with.

        A set goes on if it is one span, or if its N or its K by itself is more than its parts':
        of three words that work only together, two keep nothing.
        """
        going = [units for units in level if units in self.tried and self._works_together(units)]
        found: dict[Units, float] = {}
        for units in going:
            for other in range(len(self.main)):
                if other not in units:
                    bond = sum(self._bond(other, member) for member in units)
                    larger = units | {other}
                    found[larger] = max(found.get(larger, 0.0), bond)
        found = {units: bond for units, bond in found.items() if bond > 0}
        return sorted(found, key=lambda units: -found[units])[: self.beam]

    def _works_together(self, units: Units) -> bool:
        if is_one_span(units, self.tried):
            return True
        whole = self._effects(units)
        parts = np.array([self._effects(frozenset({i})) for i in units])
        beyond = np.abs(whole - parts.sum(axis=0)).max()
        return bool(beyond >= max(LEAST_FLOOR, LEAST_SHARE * np.abs([whole, *parts]).max()))

    def measure(self, sets: Iterable[Units]) -> bool:
        """N, K and so G of some sets, and of what they are held against, on every search fill.

        Returns:
            Whether there was room for all of it.
        """
        wanted = with_parts(sets)
        rows = requests(wanted, self.runs, len(self.runs.fills.search))
        done = self.runs.read("search", rows)
        for units in wanted:
            self.tried[units] = joint(*self._effects(units))
        return done

    def _effects(self, units: Units) -> np.ndarray:
        """N and K on the search's fills, in logits."""
        everything = self.runs.everything()
        nothing = self.runs.resampled("search", everything)
        only = self.runs.resampled("search", everything - units)
        lost = self.runs.y - self.runs.resampled("search", units)
        return np.array([lost.mean(), (only - nothing).mean()])

    def found(self) -> list[Units]:
        """The spans, the best first, on the search's fills."""
        return ranked({units: g for units, g in self.tried.items() if not np.isnan(g)})


def with_parts(sets: Iterable[Units]) -> list[Units]:
    """Some sets with what each is held against: its words, and the set without each of them."""
    found: dict[Units, None] = {}
    for units in sets:
        found[units] = None
        if len(units) > 1:
            found |= dict.fromkeys(frozenset({i}) for i in sorted(units))
            found |= dict.fromkeys(units - {i} for i in sorted(units))
    return list(found)


def requests(sets: Iterable[Units], runs: SpanRuns, draws: int) -> list[tuple[Units, int]]:
    """The rows that N and K of some sets need, fill by fill, so that each fill comes for all."""
    everything = runs.everything()
    rows = [everything, *(part for units in sets for part in (units, everything - units))]
    return [(units, draw) for draw in range(draws) for units in rows]
