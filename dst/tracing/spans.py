"""`spans`: the words of a prompt that the model's answer needs, and those that bring it about."""

from __future__ import annotations

from collections.abc import Sequence

from dst.analysis.flows import LEAST_FLOOR
from dst.analysis.readout import outcome
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.span_results import Spans
from dst.models.backend import Backend
from dst.tracing.prepare import prepare
from dst.tracing.progress import progress
from dst.tracing.span_fills import LEAST, make_fills
from dst.tracing.span_pools import KINDS
from dst.tracing.span_runs import SpanRuns
from dst.tracing.span_scores import Scores
from dst.tracing.span_search import Search
from dst.tracing.span_words import Among, Mentions

BUDGET = 4000
"""Forward passes of a search with its scores."""

LEAST_BUDGET = 100
"""With fewer, neither the search nor the scores would say anything."""

SEARCH_DRAWS, DRAWS, CONTROLS = 2, 8, 20
"""Fills of each kind in the search and in the scores; random sets that a set is held against."""


def spans(
    model: Backend,
    case: Case,
    *,
    fills: Sequence[str] = KINDS,
    budget: int = BUDGET,
    max_words: int = 4,
    beam: int = 12,
    draws: int = DRAWS,
    controls: int = CONTROLS,
    among: Among = "content",
    mentions: Mentions = "together",
    seed: int = 0,
    show_progress: bool = True,
) -> Spans:
    """Which words, also not adjacent, are necessary and sufficient for the model's answer.

    With y = LD in the direction of the answer that LD of the prompt prefers (so the hallucination,
    where there is one), S a set of words, and means over fills, in logits:

        N(S) = y(x) - y(S resampled)                                 necessity
        K(S) = y(only S kept) - y(every word resampled)              what S keeps
        K(S) / (y(x) - y(every word resampled))                      sufficiency
        G(S) = min(N(S), K(S))                                       joint, the order of ``found``

    A word is resampled by another of as many tokens, so that positions stay what they are. Words
    are searched with one set of fills (`dst.tracing.span_search`) and scored with another, which
    has no word in common with the first. Several words are one span only if G of them is more than
    G of its parts (`dst.analysis.spans.is_one_span`). Intervals are bootstraps over fills; the
    control is as many random words.

    Args:
        model: The model.
        case: The case: prompt and answers suffice.
        fills: Kinds of fills, of ``neutral``, ``random`` and ``reference``.
        budget: Most forward passes; what does not fit is NaN with a reason.
        max_words: Words of the largest set.
        beam: Sets that go on at each size.
        draws: Fills of each kind per score.
        controls: Random sets that a set of several words is held against.
        among: ``content`` tries all words but stop words, ``all`` those too.
        mentions: ``together`` resamples a word at all its mentions, ``apart`` at each by itself.
        seed: Seed of fills, refills and controls.
        show_progress: Draw a line with the time left.

    Returns:
        `Spans`. Interrupted by Ctrl-C, or with the budget spent, what was measured so far, with
        ``complete=False`` and a note.

    Raises:
        InputError: An argument is not possible.
        CaseError, TokenError, ModelError: As `dst.trace`; no word can be replaced.

    Source: METHOD 5, after SAT (Sun et al. 2025), which generates text and counts the target in
    it. The published window method is `dst.tracing.spans_published`.
    """
    least = {"budget": (budget, LEAST_BUDGET), "max_words": (max_words, 1), "beam": (beam, 1),
             "draws": (draws, LEAST), "controls": (controls, 0)}  # fmt: skip
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise InputError(f"{name} is {value}", expected=f"{lowest} or more")
    bare = case.replace(neutral=(), substitute=(), swap=(), clean=(), case_id=case.case_id)
    run = prepare(model, bare, draws=0, seed=seed)
    drawn = make_fills(
        model, run, kinds=fills, among=among, mentions=mentions,
        n_search=SEARCH_DRAWS, n_scoring=draws, seed=seed,
    )  # fmt: skip
    with progress("spans", budget, show=show_progress) as tick:
        runs = SpanRuns(model, run, drawn, budget, tick)
        scores = Scores(runs, Search(runs, beam, max_words, seed), controls, seed)
        scores.measure()
    tokenized = run.tokenized
    answered = outcome(runs.greedy, tokenized.contextual_ids, tokenized.associative_ids)
    notes = [*tokenized.notes, *scores.notes]
    if answered == "neither":
        notes.append("The greedy answer is neither of the two: the spans are those of LD's sign.")
    if runs.y < LEAST_FLOOR:
        notes.append("LD is within the floor: the model prefers neither answer.")
    return Spans(
        case=case,
        tokens=tokenized.tokens,
        outcome=answered,
        toward="contextual" if runs.sign > 0 else "associative",
        contrast=runs.contrast,
        y=runs.y,
        resampled=scores.everything_resampled(),
        words=tuple(word.text for word in drawn.words),
        word_positions=tuple(word.positions for word in drawn.words),
        singles=scores.singles(),
        found=scores.found(),
        main_effect=scores.search.main,
        interaction=scores.search.pairs,
        fills=drawn.kinds,
        search_fills=drawn.search_words,
        scoring_fills=drawn.scoring_words,
        draws=scores.draws,
        budget=budget,
        forward_passes=runs.passes,
        changed_tokens=runs.changed,
        complete=scores.complete,
        left_out=drawn.left_out,
        notes=tuple(notes),
        provenance=model.provenance(
            seed=seed, fills=list(fills), budget=budget, max_words=max_words, beam=beam,
            draws=draws, controls=controls, among=among, mentions=mentions,
        ),
    )  # fmt: skip
