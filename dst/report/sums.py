"""LD as one sum: base, prior and effect of the context, each beginning where the last one ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dst.core.results import Estimate, Pathways


@dataclass(frozen=True)
class Term:
    """One term of base + prior + effect of the context = LD, in logits.

    Attributes:
        name: Of the term.
        value: Its mean over draws.
        low: Lower end of its 95 % interval; NaN for LD, which has none, and for one draw.
        high: Upper end.
        draws: How many.
        floor: What its draws differ by; NaN where it has none of its own.
        zero: Where 0 is, from 0 to 100 on the one scale of all terms.
        begin: Where the term begins: at the sum of those before it; LD at 0.
        end: Where it ends.
        spread: The interval around its end, likewise; None where there is none.
    """

    name: str
    value: float
    low: float
    high: float
    draws: int
    floor: float
    zero: float
    begin: float
    end: float
    spread: tuple[float, float] | None

    @property
    def under_floor(self) -> bool:
        """Whether it is no more than its draws differ by."""
        return abs(self.value) < self.floor

    @property
    def bar(self) -> tuple[float, float]:
        """Left end and width of its bar."""
        return min(self.begin, self.end), abs(self.end - self.begin)


def sum_terms(paths: Pathways) -> list[Term]:
    """The three terms and the LD that they add up to, in this order."""
    nan = math.nan
    given = [
        ("base", paths.base, nan),
        ("prior of the subject", paths.prior, paths.associative_floor),
        ("effect of the context", paths.total_effect, paths.contextual_floor),
        ("LD", Estimate(paths.contrast, nan, nan, 1), nan),
    ]
    begins = np.append(np.cumsum([0.0, paths.base.mean, paths.prior.mean]), 0.0)
    ends = [
        start + end
        for start, (_, term, _) in zip(begins, given, strict=True)
        for end in (0.0, term.mean, term.low, term.high)
        if not math.isnan(end)
    ]
    low, high = min(0.0, *ends), max(0.0, *ends)
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return 3 + 94 * (value - low) / width  # room for the ends

    terms = []
    for start, (name, term, floor) in zip(begins, given, strict=True):
        known = not math.isnan(term.low)
        terms.append(
            Term(
                *(name, term.mean, term.low, term.high, term.n, floor),
                zero=place(0.0),
                begin=place(start),
                end=place(start + term.mean),
                spread=(place(start + term.low), place(start + term.high)) if known else None,
            )
        )
    return terms
