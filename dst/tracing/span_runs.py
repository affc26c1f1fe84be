"""Runs of one prompt with words resampled: every LD that was read, and what it cost.

All rows are as long as the prompt, so one batch holds many of them. What was read stays when
the work is interrupted or the budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from dst.core.errors import InterventionError
from dst.models.backend import Backend
from dst.models.variants import Row, combined
from dst.tracing.prepare import Prepared
from dst.tracing.span_fills import Fills

MOST_TOKENS = 8192
"""Tokens in one batch."""

Half = Literal["search", "scoring"]
Units = frozenset[int]


class SpanRuns:
    """Reads y = LD in the direction explained with some words resampled, each row once.

    Attributes:
        contrast: LD(x), in logits.
        greedy: The likeliest token at i*.
        sign: 1 if LD(x) is 0 or more, else -1: y = sign * LD.
        limit: Forward passes allowed for what is being done now; at most the budget.
        passes: Forward passes made.
        changed: Tokens replaced so far, over all rows.
    """

    def __init__(
        self, model: Backend, run: Prepared, fills: Fills, budget: int, tick: Callable[[int], None]
    ) -> None:
        self.model, self.run, self.fills, self.budget = model, run, fills, budget
        self.limit = budget
        self._tick = tick
        self._seen: dict[tuple[Half, Units, int], float] = {}
        self._ids = np.array(run.tokenized.ids)
        self.passes = self.changed = 0
        self.cost = 1 if run.variants.twin is None else 2
        """Forward passes of one row: a yes/no prompt runs with its twin."""
        self.greedy = int(model.run([run.tokenized.ids], logits_at=[-1]).last_logits[0].argmax())
        self.contrast = float(self._contrasts([self._ids])[0])
        self.sign = 1 if self.contrast >= 0 else -1

    @property
    def y(self) -> float:
        """LD(x) in the direction explained, in logits: never negative."""
        return self.sign * self.contrast

    @property
    def left(self) -> int:
        """Rows that the limit still allows."""
        return max(0, (min(self.limit, self.budget) - self.passes) // self.cost)

    def everything(self) -> Units:
        """All words."""
        return frozenset(range(len(self.fills.words)))

    def read(self, half: Half, wanted: Iterable[tuple[Units, int]]) -> bool:
        """Run the prompt with these words resampled, per set of words and draw.

        Returns:
            Whether the limit had room for all of it.

        Raises:
            InterventionError: A row is the prompt itself: nothing was replaced.
        """
        new = dict.fromkeys((units, draw) for units, draw in wanted if units)
        todo = [key for key in new if (half, *key) not in self._seen]
        short = len(todo) > self.left
        todo = todo[: self.left]
        size = max(1, MOST_TOKENS // len(self._ids) // self.cost)
        for start in range(0, len(todo), size):  # whatever stops a batch, those before it stay
            part = todo[start : start + size]
            values = self._contrasts([self._row(half, *key) for key in part])
            for key, value in zip(part, values, strict=True):
                self._seen[half, *key] = self.sign * float(value)
        return not short

    def resampled(self, half: Half, units: Units) -> np.ndarray:
        """[draw]: y with these words resampled; NaN where it was not run."""
        n = len(getattr(self.fills, half))
        if not units:
            return np.full(n, self.y)
        return np.array([self._seen.get((half, units, draw), np.nan) for draw in range(n)])

    def _row(self, half: Half, units: Units, draw: int) -> np.ndarray:
        row = self._ids.copy()
        places = [p for unit in units for p in self.fills.words[unit].positions]
        row[places] = getattr(self.fills, half)[draw][places]
        changed = int((row != self._ids).sum())
        if not changed:
            words = " ".join(self.fills.words[unit].text for unit in units)
            raise InterventionError(f"Nothing was replaced: {words!r} is filled with itself")
        self.changed += changed
        return row

    def _contrasts(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """LD of each row; of a yes/no prompt half the difference from its twin's (METHOD 0)."""
        every = [Row.same_length(row.tolist()) for row in rows]
        twin = self.run.variants.twin
        if twin is not None:
            ids = self.run.tokenized.ids
            every += combined(self.model.tokenizer, ids, every, [twin], "twin")
        logits = self.model.run([row.ids for row in every], logits_at=[-1]).last_logits
        ld = self.run.metric(logits)
        self.passes += len(every)
        self._tick(len(every))
        return ld if twin is None else (ld[: len(rows)] - ld[len(rows) :]) / 2
