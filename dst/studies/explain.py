"""`explain`: the method on one screen, in order."""

from __future__ import annotations

import math
from typing import Literal

from dst.analysis import readout
from dst.core.case import Case
from dst.core.claims import Claim
from dst.core.results import NOT_GIVEN, LensReadout, Report, Trace
from dst.models.backend import Backend
from dst.studies.asked import asked_for
from dst.studies.cost import with_cost
from dst.studies.failure import failure
from dst.studies.inferred import why_not, with_suggestion, with_twin
from dst.studies.measure import coherence, markers, measure
from dst.studies.rival import with_rival
from dst.studies.verdict import answer_of, verdict
from dst.tracing.prepare import DRAWS
from dst.tracing.recordings import Recordings
from dst.tracing.twins import propose_twin


@with_cost
def explain(
    model: Backend,
    case: Case,
    *,
    k: int = 5,
    draws: int = DRAWS,
    seed: int = 0,
    suggest: bool = True,
    twin: Literal["proposed"] | None = None,
    semantic_map: bool = False,
    importance: bool = False,
    drift: bool = False,
    spans: bool = False,
) -> Report:
    """The whole account of one case: what each layer was saying, and where it turned.

    The steps are those of the method: find the answer to explain, and the cue and subject where
    they are not named; trace the forward pass, read it through the lens, measure the two
    pathways and what repairs them, score the coherence, place the marks, name the failure mode
    of a run that fails, and say it in words.

    Args:
        model: The model.
        case: The case. Without an associative answer, the model's own answer is explained.
        k: Likeliest words to keep per state.
        draws: Variants to draw where the case gives none.
        seed: Seed of the draws and of the bootstrap.
        suggest: Infer a cue and a subject that the case does not name (`dst.suggest`).
        twin: ``"proposed"`` uses the twin that is proposed for a yes/no prompt without one.
        semantic_map: Also map the concepts and what the prompt's words do to them.
        importance: Also measure what LD owes to the concepts.
        drift: Also measure where the prompt drifts from a matched run.
        spans: Also search for the words that the answer hangs on: some thousand forward passes.

    Returns:
        A `Report`: every result, a verdict in sentences, notes on what cannot be known and on
        what it took.

    Raises:
        CaseError, TokenError, ModelError: What was given does not fit; says what to do.
        NumericalError: The run contradicts its own checks.
    """
    case, inferred = with_rival(model, case)
    if twin == "proposed":
        case = with_twin(case, *propose_twin(model.tokenizer, case))
    suggestion = None
    if suggest:
        case, suggestion, told = with_suggestion(model, case, seed=seed)
        inferred = (*inferred, *told)
    runs = Recordings(model, case, draws=draws, seed=seed)
    run = measure(model, case, k=k, draws=draws, seed=seed, runs=runs)
    seen, lens = run.seen, run.lens
    score = coherence(model, case, measured=run)
    marks = markers(model, case, measured=run, score=score)
    greedy = int(seen.logits.argmax())
    outcome = outcome_of(seen, greedy)
    mode = None
    if run.paths is not None and outcome != "correct":
        mode = failure(
            model, case, paths=run.paths, fixes=run.fixes, draws=draws, seed=seed, runs=runs
        )
    opening, *account = verdict(
        case, seen, lens, marks, outcome, run.paths, run.fixes, run.parts, mode
    )
    claims = (opening, *(Claim(text, "inferred") for text in inferred), *account)
    wanted = {
        "semantic_map": semantic_map, "importance": importance, "drift": drift, "spans": spans,
    }  # fmt: skip
    asked = asked_for(
        model, case, [name for name, on in wanted.items() if on], draws=draws, seed=seed
    )
    return Report(
        case=case,
        trace=seen,
        lens=lens,
        coherence=score,
        markers=marks,
        outcome=outcome,
        answer=answer_of(seen, lens),
        answer_prob=math.exp(float(lens.top_log_prob[-1, 0])),
        verdict=tuple(claim.says for claim in claims),
        notes=(*run.notes, *why_not(suggestion), *_notes(model, case, seen), *asked.notes),
        provenance=model.provenance(seed=seed, k=k, draws=draws),
        pathways=run.paths,
        repairs=run.fixes,
        attribution=run.parts,
        continuation=_continuation(model, seen) if _unanswered(lens) else "",
        suggestion=suggestion,
        failure=mode,
        claims=claims,
        **asked.results,
    )


def outcome_of(seen: Trace, greedy: int) -> str:
    """``hallucination``, ``correct`` or ``neither``: whose form the greedy token is (METHOD 8)."""
    return readout.outcome(greedy, seen.contextual_ids.tolist(), seen.associative_ids.tolist())


def _notes(model: Backend, case: Case, seen: Trace) -> tuple[str, ...]:
    """What was dropped, and what cannot be known of this case."""
    notes = [*model.notes, *seen.notes]
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


def _unanswered(lens: LensReadout) -> bool:
    """Whether neither answer is what the model says at i*."""
    return bool(lens.answer_prob[-1] < NOT_GIVEN)


def _continuation(model: Backend, seen: Trace, n: int = 8) -> str:
    """The greedy continuation of the prompt, as text."""
    return str(model.tokenizer.decode(model.generate(seen.ids.tolist(), n))).strip()
