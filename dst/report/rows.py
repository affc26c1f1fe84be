"""The rows that page and terminal both show: what is picked from a report, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dst.core.results import NOT_GIVEN, Estimate, LensReadout, Mark, Pathways, Report
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


_SUM = "LD "
_SAID_BY_ROWS = re.compile(r"flows? (is at|reach) the answer position|\bthe lens\b")
"""Sentences of the verdict on what the layers' strip and the flows' rows show: when."""


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


def headline(report: Report) -> str:
    """The first sentence of the verdict, or of the outcome where there is no verdict."""
    return report.verdict[0] if report.verdict else OUTCOMES.get(report.outcome, report.outcome)


def account(report: Report) -> list[str]:
    """The verdict after its headline, without what is shown as rows of numbers instead.

    That is the sum, where the two pathways were measured.
    """
    rest = report.verdict[1:]
    return [text for text in rest if not (report.pathways and text.startswith(_SUM))]


def causes(report: Report) -> list[str]:
    """Of the account, what no row of a terminal says: why, and what would have helped."""
    return [text for text in account(report) if not _SAID_BY_ROWS.search(text)]


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


# -- the sum -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """One term of LD = base + prior + effect of the context, in logits."""

    name: str
    value: float
    low: float
    high: float
    draws: int
    floor: float
    """What its draws differ by; NaN where it has none of its own."""
    place: float
    """The value from 0 to 100, on one scale for all terms with zero at 50."""
    start: float
    """The interval's lower end likewise."""
    width: float

    @property
    def under_floor(self) -> bool:
        """Whether it is no more than its draws differ by."""
        return abs(self.value) < self.floor


def sum_terms(paths: Pathways) -> list[Term]:
    """LD and the three terms that add up to it, in this order."""
    nan = math.nan
    given = [
        ("LD", Estimate(paths.contrast, nan, nan, 1), nan),
        ("base", paths.base, nan),
        ("prior of the subject", paths.prior, paths.associative_floor),
        ("effect of the context", paths.total_effect, paths.contextual_floor),
    ]
    ends = [end for _, term, _ in given for end in (term.mean, term.low, term.high)]
    widest = float(np.nanmax(np.abs(ends))) or 1.0

    def place(value: float) -> float:
        return 50 + 50 * value / widest

    terms = []
    for name, term, floor in given:
        known = not math.isnan(term.low)
        low, high = (term.low, term.high) if known else (term.mean, term.mean)
        terms.append(
            Term(
                *(name, term.mean, term.low, term.high, term.n, floor),
                place=place(term.mean),
                start=place(low),
                width=place(high) - place(low),
            )
        )
    return terms


# -- where the flows are ---------------------------------------------------------------------


def carriers(paths: Pathways) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Per role that carries a flow: the role, and at which states it carries each of the two.

    Returns:
        Rows (role, contextual, associative), "" where it does not, and the roles that carry
        neither.
    """
    marks = {(mark.name, mark.definition): mark for mark in paths.marks}
    rows, idle = [], []
    for role in paths.roles:
        told = [_carried(marks, flow, role) for flow in ("contextual", "associative")]
        if any(told):
            rows.append((role, told[0], told[1]))
        else:
            idle.append(role)
    return rows, idle


def _carried(marks: dict[tuple[str, str], Mark], flow: str, role: str) -> str:
    there = marks.get(("arrival", f"{flow} flow at {role}"))
    if there is None or there.reason:
        return ""
    gone = marks.get(("departure", f"{flow} flow at {role}"))
    first = state_number(there.state)
    if gone is None or gone.reason:
        return f"from state {first}"
    last = state_number(gone.state - 1)
    return f"state {first}" if first == last else f"states {first} to {last}"


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
