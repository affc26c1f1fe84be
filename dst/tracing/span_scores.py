"""Scores of words and sets of words, on fills that the search never saw.

Whatever stops the work (the budget, Ctrl-C), what was read is put together: a set without a score
keeps the search's numbers and says so.
"""

from __future__ import annotations

import random
from math import comb, nan

import numpy as np

from dst.analysis.bootstrap import Resampling
from dst.analysis.flows import LEAST_FLOOR
from dst.analysis.spans import (
    UNKNOWN,
    gain_over_fills,
    joint,
    kept,
    necessity,
    over_fills,
    ranked,
    rarity,
    sufficiency,
)
from dst.core.results import Estimate
from dst.core.span_results import Span
from dst.tracing.span_fills import LEAST
from dst.tracing.span_runs import Half, SpanRuns, Units
from dst.tracing.span_search import Search, requests, with_parts

MOST_SETS = 6
"""Sets of several words that are scored."""

RESAMPLES = 1000
"""Bootstrap resamples of the fills."""


class Scores:
    """Runs a search, then scores what it found, every single word, and random sets.

    Attributes:
        runs: Where LD is read.
        search: The search.
        n_controls: Random sets of each size.
        draws: Fills per score.
        sets: The sets of several words that are scored.
        controls: Random sets by size.
        complete: Whether all of it was done.
        notes: Why not.
    """

    def __init__(self, runs: SpanRuns, search: Search, n_controls: int, seed: int) -> None:
        self.runs, self.search, self.n_controls, self.seed = runs, search, n_controls, seed
        self.draws = len(runs.fills.scoring)
        self.sets: list[Units] = []
        self.controls: dict[int, list[Units]] = {}
        self.complete = False
        self.notes: list[str] = []
        self._resampling = Resampling(n_resamples=RESAMPLES, n_permutations=0, seed=seed)
        self._made: dict[Units, Span] = {}

    def measure(self) -> None:
        """Search and score, until it is done, the budget is spent, or Ctrl-C."""
        try:
            self.search.find()
            self.complete = self._score()
        except KeyboardInterrupt:
            self.notes.append(
                f"Interrupted after {self.runs.passes} forward passes: what was measured is here."
            )
            return
        if not self.complete:
            self.notes.append(
                f"The budget of {self.runs.budget} forward passes was spent before every word "
                "was scored."
            )

    def _score(self) -> bool:
        """Sets and their parts first, then single words, then controls.

        With as many fills as the budget has room for; with the fewest, the last are left out.

        Returns:
            Whether nothing was left out.
        """
        several = [units for units in self.search.found() if len(units) > 1]
        self.sets = several[:MOST_SETS]
        sizes = sorted({*map(len, with_parts(self.sets))} - {1})
        self.controls = {size: self._random_sets(size) for size in sizes}
        controls = [units for some in self.controls.values() for units in some]
        strength = np.nan_to_num(np.abs(self.search.main))
        words = [frozenset({int(i)}) for i in np.argsort(-strength, kind="stable")]
        wanted = list(dict.fromkeys([*with_parts(self.sets), *words, *controls]))
        kinds, room = len(self.runs.fills.kinds), self.runs.left
        self.draws = min(self.draws, max(LEAST, room // (1 + 2 * len(wanted)) // kinds) * kinds)
        fitting = wanted[: max(0, (room // self.draws - 1) // 2)]
        done = self.runs.read("scoring", requests(fitting, self.runs, self.draws))
        return done and len(fitting) == len(wanted)

    def _random_sets(self, size: int) -> list[Units]:
        """Up to `n_controls` random sets of as many words, none of them a set that is scored."""
        n, scored = len(self.runs.fills.words), {*with_parts(self.sets)}
        rng = random.Random(f"{self.seed} {size}")
        others = comb(n, size) - sum(len(units) == size for units in scored)
        found: dict[Units, None] = {}
        while len(found) < min(self.n_controls, others):
            units = frozenset(rng.sample(range(n), size))
            if units not in scored:
                found[units] = None
        return list(found)

    # -- what was measured -------------------------------------------------------------------

    def everything_resampled(self) -> Estimate:
        """LD in the direction explained with every word resampled."""
        y = self.runs.resampled("scoring", self.runs.everything())
        y = y[~np.isnan(y)]
        return over_fills(lambda w: w @ y / w.sum(axis=1), len(y), self._resampling)

    def singles(self) -> tuple[Span, ...]:
        """Every word by itself."""
        return tuple(self._span(word) for word in self._words)

    def found(self) -> tuple[Span, ...]:
        """Words and sets by G, the largest first, without parts of what comes before them.

        The scores decide; the search's numbers do where nothing was scored. A scored set has to be
        more than its parts beyond the spread of the fills.
        """
        scored = any(self._is_scored(word) for word in self._words)
        half: Half = "scoring" if scored else "search"
        sets = with_parts(self.sets) if scored else list(self.search.tried)
        value = {units: self._joint(units, half) for units in dict.fromkeys([*self._words, *sets])}
        known = {units: g for units, g in value.items() if not np.isnan(g)}
        kept_in: list[Units] = []
        for units in ranked(known):
            part_of_one = any(units < larger for larger in kept_in)
            if not part_of_one and (len(units) < 2 or not self._gain(units, half).low <= 0):
                kept_in.append(units)
        return tuple(self._span(units) for units in kept_in)

    @property
    def _words(self) -> list[Units]:
        return [frozenset({i}) for i in range(len(self.runs.fills.words))]

    def _gain(self, units: Units, half: Half) -> Estimate:
        """What a set has over its parts, with its interval over fills."""
        parts = with_parts([units])
        values = {part: self._values(part, half) for part in parts}
        lost = {part: self.runs.y - lost for part, (lost, _, _) in values.items()}
        gained = {part: only - nothing for part, (_, only, nothing) in values.items()}
        return gain_over_fills(units, lost, gained, self._resampling)

    def _is_scored(self, units: Units) -> bool:
        return not np.isnan(self._joint(units, "scoring"))

    def _values(self, units: Units, half: Half) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[draw], thrice: y with the set resampled, with all else resampled, with everything."""
        everything = self.runs.everything()
        wanted = (units, everything - units, everything)
        lost, only, nothing = (self.runs.resampled(half, one) for one in wanted)
        return lost, np.where(np.isnan(nothing), np.nan, only), nothing

    def _joint(self, units: Units, half: Half) -> float:
        lost, only, nothing = self._values(units, half)
        gain = only - nothing
        if np.isnan(lost).all() or np.isnan(gain).all():
            return nan
        return joint(self.runs.y - float(np.nanmean(lost)), float(np.nanmean(gain)))

    def _span(self, units: Units) -> Span:
        if units not in self._made:
            self._made[units] = self._make(units)
        return self._made[units]

    def _make(self, units: Units) -> Span:
        scored = self._is_scored(units)
        half: Half = "scoring" if scored else "search"
        lost, only, nothing = self._values(units, half)
        y, use = self.runs.y, self._resampling
        n, k = necessity(y, lost, use), kept(only, nothing, use)
        share = sufficiency(y, only, nothing, use)
        words = [self.runs.fills.words[i] for i in sorted(units)]
        reason = ""
        if n.n == 0 or k.n == 0:
            n = k = share = UNKNOWN
            reason = "it was not measured before the work stopped"
        elif np.isnan(share.mean):
            reason = f"all words together bring less than {LEAST_FLOOR} logits of this answer"
        elif np.isnan(share.low) and share.n > 1:
            reason = "the share has no interval: what all words bring is 0 for some of the fills"
        parts = [self._span(frozenset({i})) for i in units] if len(units) > 1 else []
        g = joint(n.mean, k.mean)
        rivals = self._rivals(units)
        others = [self._joint(other, half) for other in rivals]
        others = [value for value in others if not np.isnan(value)]
        return Span(
            words=tuple(word.text for word in words),
            units=tuple(sorted(units)),
            positions=tuple(sorted(p for word in words for p in word.positions)),
            necessity=n,
            kept=k,
            sufficiency=share,
            joint=g,
            necessity_by_fill=self._by_fill(y - lost),
            necessity_together=n.mean - sum(p.necessity.mean for p in parts) if parts else 0.0,
            kept_together=k.mean - sum(p.kept.mean for p in parts) if parts else 0.0,
            control=rarity(g, others),
            n_controls=len(others),
            held_out=scored,
            reason=reason,
        )

    def _rivals(self, units: Units) -> list[Units]:
        """Sets of as many words: every other word, or random sets."""
        if len(units) > 1:
            return self.controls.get(len(units), [])
        return [word for word in self._words if word != units]

    def _by_fill(self, lost: np.ndarray) -> np.ndarray:
        """The mean of each kind of fill; draws go through the kinds in turn."""
        kinds = len(self.runs.fills.kinds)
        parts = (lost[i::kinds] for i in range(kinds))
        return np.array([p[~np.isnan(p)].mean() if (~np.isnan(p)).any() else nan for p in parts])
