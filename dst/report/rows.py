"""The rows that page and terminal both show: what is picked from a report, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dst.core.results import LensReadout, Mark, Report
from dst.plot.text import number, state_name, word

OUTCOMES = {
    "hallucination": "The greedy answer is an associative form: a hallucination.",
    "correct": "The greedy answer is a contextual form: no hallucination.",
    "neither": "The greedy answer is neither a contextual nor an associative form.",
}
UNANSWERED = 0.05
"""Under this p(A+) + p(A-), the answer is not given at i* (METHOD 0)."""


@dataclass(frozen=True)
class StripRow:
    """What one state would say."""

    state: int
    name: str
    word: str
    prob: float
    others: tuple[tuple[str, float], ...]
    margin: float
    bar: float
    """The margin as a share of the largest, -1 (associative) to 1 (contextual)."""


def strip(lens: LensReadout, limit: int) -> list[StripRow]:
    """What the residual at i* would say, for at most ``limit`` states from first to last."""
    widest = float(np.nanmax(np.abs(lens.margin), initial=0.0)) or 1.0
    rows = []
    for state in pick_states(len(lens.margin), limit):
        said = [
            (word(text), float(np.exp(log_prob)))
            for text, log_prob in zip(lens.top_words[state], lens.top_log_prob[state], strict=True)
        ]
        margin = float(lens.margin[state])
        rows.append(
            StripRow(
                state=state,
                name=state_name(state),
                word=said[0][0],
                prob=said[0][1],
                others=tuple(said[1:]),
                margin=margin,
                bar=0.0 if math.isnan(margin) else margin / widest,
            )
        )
    return rows


def pick_states(n_states: int, limit: int) -> list[int]:
    """All states, or ``limit`` of them evenly from the first to the last."""
    if n_states <= limit:
        return list(range(n_states))
    return sorted({int(state) for state in np.rint(np.linspace(0, n_states - 1, limit))})


def mark_place(mark: Mark) -> str:
    """Where a mark is: ``after block 3 of 4``, ``embedding``, or ``none``."""
    return state_name(mark.state, mark.n_layers) if not mark.reason else "none"


def mark_interval(mark: Mark) -> str:
    """The interval of a mark, or nothing where none was computed."""
    if math.isnan(mark.low) or math.isnan(mark.high):
        return ""
    return f"{number(mark.low, 1)} to {number(mark.high, 1)}"


def headline(report: Report) -> str:
    """The first sentence of the verdict, or of the outcome where there is no verdict."""
    return report.verdict[0] if report.verdict else OUTCOMES.get(report.outcome, report.outcome)


def unanswered(report: Report) -> str:
    """A warning where the answer is hardly given at i*; empty otherwise."""
    mass = float(report.lens.answer_prob[-1])
    if not mass < UNANSWERED:
        return ""
    return (
        f"The two answers together have probability {number(mass, 3)}, under {UNANSWERED}: the "
        f"answer is not given at this position. The model goes on: {report.trace.model_output!r}"
    )
