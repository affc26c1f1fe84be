"""The verdict: the account of one case in sentences, each with the number it rests on.

Nothing is asserted whose control did not pass. A sentence on cause needs two draws at least (one
draw says nothing of what draws differ by) and an effect over its floor; one on interventions,
controls that miss by less than that floor; one on a repair, a control run that the same repair
leaves as it is; one on the lens, states at which the answers are given at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dst.core.case import Case
from dst.core.claims import Claim
from dst.core.failure_results import FailureMode
from dst.core.results import (
    NOT_GIVEN,
    Attribution,
    LensReadout,
    Markers,
    Pathways,
    Repairs,
    Trace,
)
from dst.studies.verdict_failure import failure_claims
from dst.studies.verdict_flows import flow_claims
from dst.studies.verdict_repairs import repair_claims


def verdict(
    case: Case,
    seen: Trace,
    lens: LensReadout,
    marks: Markers,
    outcome: str,
    paths: Pathways | None,
    fixes: Repairs | None,
    parts: Attribution | None = None,
    mode: FailureMode | None = None,
) -> tuple[Claim, ...]:
    """What happened, why, when, by which way, and what would have helped.

    Args:
        case: The case, with both answers.
        seen: Its trace.
        lens: The logit lens at i*.
        marks: Its marks, those of the lens among them.
        outcome: ``hallucination``, ``correct`` or ``neither``.
        paths: The two flows; None where they were not measured.
        fixes: The repairs; None likewise.
        parts: The attribution; None likewise.
        mode: The failure mode of a run that fails; None where none was asked.

    Returns:
        One `Claim` per sentence, the outcome first.
    """
    plus, minus = case.contextual[0].strip(), case.associative[0].strip()
    claims = [_outcome(seen, lens, outcome, plus, minus)]
    if paths is not None:
        claims += flow_claims(paths, parts, seen, outcome, plus, minus)
    if paths is not None and fixes is not None:
        claims += repair_claims(paths, fixes, outcome, mode)
    claims += _lens(seen, lens, marks, outcome, plus, minus)
    if mode is not None:
        claims += failure_claims(mode)
    return tuple(claims)


def shown(token: str) -> str:
    """A token without the space before it; one that is nothing but white space stays."""
    return token.strip() or token


def answer_of(seen: Trace, lens: LensReadout) -> str:
    """The greedy answer: the whole form where its token begins one of the answers' forms."""
    forms = (*seen.contextual_forms, *seen.associative_forms)
    ids = (*seen.contextual_ids.tolist(), *seen.associative_ids.tolist())
    begun = dict(zip(reversed(ids), reversed(forms), strict=True))
    return shown(begun.get(int(lens.top_ids[-1, 0]), lens.top_words[-1][0]))


def _outcome(seen: Trace, lens: LensReadout, outcome: str, plus: str, minus: str) -> Claim:
    answer, p = answer_of(seen, lens), math.exp(float(lens.top_log_prob[-1, 0]))
    opening = {
        "hallucination": f"The model hallucinates: it answers {answer!r} (p {p:.2f}) where the "
        f"context supports {plus!r}",
        "correct": f"The model answers {answer!r} (p {p:.2f}), as the context supports",
        "neither": f"The model's likeliest token is {answer!r} (p {p:.2f}), which is neither "
        f"{plus!r} nor {minus!r}",
    }[outcome]
    given = f"p(A+) + p(A-) {float(lens.answer_prob[-1]):.2f}"
    return Claim(f"{opening}; the contrast is LD {seen.contrast:+.2f} logits.", "outcome", given)


def _lens(
    seen: Trace, lens: LensReadout, marks: Markers, outcome: str, plus: str, minus: str
) -> Iterator[Claim]:
    """When the lens readout turned; it shows what would be said, not what caused it.

    A state at which both answers together have less than `NOT_GIVEN` says neither of them: a
    margin there is the sign of nothing, and no sentence rests on it.
    """
    given = lens.answer_prob >= NOT_GIVEN
    winner = plus if seen.contrast > 0 else minus
    of_lens = {mark.name: mark for mark in marks.marks if mark.definition.endswith(" on margin")}
    settled = of_lens["commitment"]
    if not math.isnan(settled.state) and given[-1]:
        silent = np.flatnonzero(~given)
        first = max(int(settled.state), int(silent[-1]) + 1 if len(silent) else 0)
        mass = float(lens.answer_prob[first:].min())
        yield Claim(
            f"Read through the lens, {winner!r} leads for good from state {first} of "
            f"{seen.n_layers} on{_by_tuned_lens(marks, first)}.",
            "lens",
            f"p(A+) + p(A-) from there on {mass:.2f} or more",
        )
    inversion = of_lens["inversion"]
    if not math.isnan(inversion.state):
        before = range(int(inversion.state))
        held = [state for state in before if given[state] and lens.margin[state] > 0]
        said = [state for state in held if int(lens.top_ids[state, 0]) in seen.contextual_ids]
        if held and given[int(inversion.state)]:
            did = "said" if said else "leaned to"
            without = "" if said else ", though it never was its likeliest word"
            yield Claim(
                f"Before that the lens {did} {plus!r}{without}: its margin turns to {minus!r} at "
                f"state {inversion.state:.0f}.",
                "lens",
                f"p(A+) + p(A-) {float(lens.answer_prob[held[-1]]):.2f} at state {held[-1]}",
            )
    elif outcome == "hallucination" and given.any() and float(lens.margin[given].max()) <= 0:
        yield Claim(
            f"At no state does the lens prefer {plus!r}.",
            "lens",
            f"its answers are given at {int(given.sum())} of {len(given)} states",
        )


def _by_tuned_lens(marks: Markers, state: int) -> str:
    """Where the tuned lens puts the same mark, if there is such a lens and it puts it elsewhere."""
    for mark in marks.marks:
        if mark.name == "commitment" and mark.definition.endswith(" on margin_tuned"):
            if mark.reason:
                return " (by the tuned lens at no state)"
            return f" (by the tuned lens from {mark.state:.0f})" if mark.state != state else ""
    return ""
