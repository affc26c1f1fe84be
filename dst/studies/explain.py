"""`explain`: the method on one screen, in order."""

from __future__ import annotations

import math

from dst.core.case import Case
from dst.core.results import LensReadout, Markers, Report, Trace
from dst.models.backend import Backend
from dst.studies.measure import coherence, markers
from dst.studies.rival import with_rival
from dst.tracing.lens import logit_lens
from dst.tracing.trace import trace

NOT_GIVEN = 0.05
"""p(A+) + p(A-) under which neither answer is what the model says at i* (METHOD 0)."""


def explain(model: Backend, case: Case, *, k: int = 5) -> Report:
    """The whole account of one case: what each layer was saying, and where it turned.

    The steps are those of the method: find the answer to explain, trace the forward pass,
    read it through the lens, score its coherence, place its marks, and say it in words.

    Args:
        model: The model.
        case: The case. Without an associative answer, the model's own answer is explained.
        k: Likeliest words to keep per state.

    Returns:
        A `Report`: every result, a verdict in sentences, notes on what was inferred.

    Raises:
        CaseError, TokenError, ModelError: What was given does not fit; says what to do.
        NumericalError: The run contradicts its own checks.
    """
    case, inferred = with_rival(model, case)
    seen = trace(model, case)
    lens = logit_lens(model, seen, k=k)
    score = coherence(model, case, seen=seen, lens=lens)
    marks = markers(model, case, seen=seen, lens=lens, score=score)
    greedy = int(seen.logits.argmax())
    outcome = outcome_of(seen, greedy)
    return Report(
        case=case,
        trace=seen,
        lens=lens,
        coherence=score,
        markers=marks,
        outcome=outcome,
        answer=lens.top_words[-1][0].strip(),
        answer_prob=math.exp(float(lens.top_log_prob[-1, 0])),
        verdict=_verdict(case, seen, lens, marks, outcome),
        notes=(*inferred, *_notes(model, case, seen, lens)),
        provenance=model.provenance(k=k),
    )


def outcome_of(seen: Trace, greedy: int) -> str:
    """``hallucination``, ``correct`` or ``neither``: whose form the greedy token is (METHOD 8)."""
    if greedy in seen.associative_ids:
        return "hallucination"
    return "correct" if greedy in seen.contextual_ids else "neither"


def _verdict(
    case: Case, seen: Trace, lens: LensReadout, marks: Markers, outcome: str
) -> tuple[str, ...]:
    """The account in sentences, each with the number it rests on."""
    plus, minus = case.contextual[0].strip(), case.associative[0].strip()
    answer, p = lens.top_words[-1][0].strip(), math.exp(float(lens.top_log_prob[-1, 0]))
    opening = {
        "hallucination": f"The model hallucinates: it answers {answer!r} (p {p:.2f}) where the "
        f"context supports {plus!r}",
        "correct": f"The model answers {answer!r} (p {p:.2f}), as the context supports",
        "neither": f"The model's likeliest token is {answer!r} (p {p:.2f}), which is neither "
        f"{plus!r} nor {minus!r}",
    }[outcome]
    sentences = [f"{opening}; the contrast is LD {seen.contrast:+.2f} logits."]
    n_layers = seen.n_layers
    winner = plus if seen.contrast > 0 else minus
    commitment = next(m for m in marks.marks if m.name == "commitment" and "lens" in m.definition)
    if not math.isnan(commitment.state):
        sentences.append(
            f"Read through the lens, {winner!r} leads for good from state "
            f"{commitment.state:.0f} of {n_layers} on."
        )
    inversion = next(m for m in marks.marks if m.name == "inversion" and "lens" in m.definition)
    if not math.isnan(inversion.state):
        sentences.append(
            f"Before that it held {plus!r}: the margin turns to {minus!r} at state "
            f"{inversion.state:.0f}."
        )
    elif outcome == "hallucination":
        best = int(lens.margin.argmax())
        if lens.margin[best] <= 0:
            sentences.append(f"At no state does the lens prefer {plus!r}.")
    return tuple(sentences)


def _notes(model: Backend, case: Case, seen: Trace, lens: LensReadout) -> tuple[str, ...]:
    """What was dropped, and what cannot be known of this case."""
    notes = [*model.notes, *seen.notes]
    total = float(lens.answer_prob[-1])
    if total < NOT_GIVEN:
        notes.append(
            f"Neither answer is given at this position: p(A+)+p(A-) is {total:.3f}, under "
            f"{NOT_GIVEN}. The model continues with {_continuation(model, seen)!r}."
        )
    if seen.shared:
        notes.append(
            f"Both answers begin with {''.join(seen.shared)!r}; it was given to the model, and "
            "the answer is read after it."
        )
    if seen.dropped_forms:
        notes.append("Forms of an answer that were not read: " + "; ".join(seen.dropped_forms))
    if not case.context_words or not case.competing_words:
        notes.append(
            "No context_words and competing_words were given: the scores made of concept words "
            "are undefined."
        )
    notes.append(
        "The lens shows what each state would say; it does not show what caused it, and early "
        "states need not be in the lens's terms."
    )
    return tuple(notes)


def _continuation(model: Backend, seen: Trace, n: int = 8) -> str:
    """The greedy continuation of the prompt, as text."""
    return str(model.tokenizer.decode(model.generate(seen.ids.tolist(), n))).strip()
