"""The rows that page and terminal both show: what is picked from a report, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dst.core.claims import Claim
from dst.core.results import NOT_GIVEN, LensReadout, Mark, Report
from dst.plot.text import number, state_name, state_number, word

OUTCOMES = {
    "hallucination": "The greedy answer is an associative form: a hallucination.",
    "correct": "The greedy answer is a contextual form: no hallucination.",
    "neither": "The greedy answer is neither a contextual nor an associative form.",
}
MARK_KINDS = {
    "causal": "By intervention: what reaches the answer, and until when something changes it.",
    "lens": "When the lens readout turns; it does not show what caused it.",
    "published": "As their authors’ code computes them, to compare with.",
    "other": "",
}
"""Kinds of marks in the order of their weight, and what they can say."""

REPAIRS = {
    "de-prime": "takes away, at every token before the answer, what the subject brings without "
    "its context, and leaves what the context wrote there",
    "replace subject": "gives the subject’s tokens the states of an unrelated subject",
    "restore cue": "gives every token before the answer the state of the clean twin",
    "remove cue": "gives every token before the answer the state of a run with a neutral cue: "
    "it breaks a success",
}
"""What each repair does at a state."""


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
    return f"{state_number(mark.low)} to {state_number(mark.high)}"


def tiny(value: float) -> str:
    """An error of a control: ``0``, or its order of magnitude."""
    return f"{value:.0e}" if value else "0"


def headline(report: Report) -> str:
    """The first sentence of the verdict, or of the outcome where there is no verdict."""
    return report.verdict[0] if report.verdict else OUTCOMES.get(report.outcome, report.outcome)


def claims_of(report: Report) -> tuple[Claim, ...]:
    """The verdict's sentences with what they rest on; in a report without claims, with nothing."""
    claims = tuple(claim for claim in report.claims if isinstance(claim, Claim))
    if tuple(claim.says for claim in claims) == report.verdict:
        return claims
    return tuple(Claim(text, "") for text in report.verdict)


def account(report: Report) -> list[Claim]:
    """The verdict after its headline, without the sum, which stands as rows of numbers."""
    return [claim for claim in claims_of(report)[1:] if claim.rests_on != "sum"]


def causes(report: Report) -> list[str]:
    """Of the account, what no row of a terminal says: why, which way, and what would have helped.

    When it was at the answer stands with the flows, and what each layer said in the strip.
    """
    return [claim.says for claim in account(report) if claim.rests_on not in ("arrival", "lens")]


def unanswered(report: Report) -> str:
    """A warning where the answer is hardly given at i*; empty otherwise."""
    mass = float(report.lens.answer_prob[-1])
    if not mass < NOT_GIVEN:
        return ""
    return (
        f"The two answers together have probability {number(mass, 3)}, under {NOT_GIVEN}: the "
        "answer is not given at this position. The model goes on: "
        f"{report.continuation or report.trace.model_output!r}"
    )


# -- marks -------------------------------------------------------------------------------------


def mark_kind(mark: Mark) -> str:
    """Of `MARK_KINDS`, by what its definition says."""
    if mark.definition.startswith("causal") or " flow at " in mark.definition:
        return "causal"
    if "published" in mark.definition:
        return "published"
    return "lens" if mark.definition.startswith("lens") else "other"


def marks_by_kind(marks: Iterable[Mark]) -> dict[str, list[Mark]]:
    """Marks of each kind there is, the causal ones first."""
    kinds: dict[str, list[Mark]] = {kind: [] for kind in MARK_KINDS}
    for mark in marks:
        kinds[mark_kind(mark)].append(mark)
    return {kind: group for kind, group in kinds.items() if group}
