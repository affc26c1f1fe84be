"""The runs of one case, recorded once for all that is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from dst.core.case import Case
from dst.models.backend import Backend
from dst.models.variants import Row
from dst.tracing.prepare import DRAWS, Prepared, prepare
from dst.tracing.replay import MOST_TOKENS
from dst.tracing.swaps import Recorded


class Recordings:
    """A case made ready, and its prompt and variants run when they are first asked for.

    Flows, repairs, words, doses and failure modes start from the same runs: x, x_0, x_sub and
    x_0,sub. They are recorded together, as one batch where it is short enough, and each once.

    Args:
        model: The model.
        case: The case; variants that it lacks are drawn.
        draws: How many variants to draw.
        seed: Seed of the draws.
    """

    def __init__(self, model: Backend, case: Case, *, draws: int = DRAWS, seed: int = 0) -> None:
        self.model, self.case, self.draws, self.seed = model, case, draws, seed
        self._place: dict[Row, tuple[Recorded, int]] = {}

    @cached_property
    def ready(self) -> Prepared:
        """The case, tokenised, with its variants; nothing is run for it.

        Raises:
            CaseError, TokenError: As `prepare`.
        """
        return prepare(self.model, self.case, draws=self.draws, seed=self.seed)

    def __call__(self, rows: Sequence[Row]) -> Recorded:
        """Rows of this case as recorded runs, each with its twin where the case has one."""
        lacking = [row for row in dict.fromkeys(rows) if row not in self._place]
        if lacking:
            self._record([*lacking, *self._others(lacking)])
        runs = [self._place[row] for row in rows]
        if len({id(run) for run, _ in runs}) == 1:
            return runs[0][0].take([place for _, place in runs])
        return Recorded.joined([run.take([place]) for run, place in runs])

    def _record(self, rows: Sequence[Row]) -> None:
        run = self.ready.record(self.model, rows)
        for i, row in enumerate(rows):
            self._place[row] = (run, i)

    def _others(self, lacking: Sequence[Row]) -> list[Row]:
        """What is recorded along with some rows: the other variants, if all are one batch."""
        variants = self.ready.variants
        known = {*self._place, *lacking}
        others = [
            row
            for row in dict.fromkeys(
                (
                    self.ready.x,
                    *variants.swap,
                    *variants.neutral,
                    *variants.substitute,
                    *variants.neutral_substitute,
                )
            )
            if row not in known
        ]
        n_tokens = sum(len(row.ids) for row in (*lacking, *others))
        return others if n_tokens * (2 if variants.twin else 1) <= MOST_TOKENS else []
