"""The verbs that take a model and a case: run what is missing, then call `dst.analysis`."""

from __future__ import annotations

import weakref

import numpy as np

from dst.analysis import coherence as scores
from dst.analysis import markers as rules
from dst.core.case import Case
from dst.core.results import Coherence, LensReadout, Markers, Trace
from dst.models.backend import Backend
from dst.models.reference import reference_sentences
from dst.tracing import concepts
from dst.tracing.lens import logit_lens
from dst.tracing.trace import trace

_CENTRES: weakref.WeakKeyDictionary[Backend, np.ndarray] = weakref.WeakKeyDictionary()


def coherence(
    model: Backend, case: Case, *, seen: Trace | None = None, lens: LensReadout | None = None
) -> Coherence:
    """Every coherence score of a case over depth, published ones beside ours, by name.

    Args:
        model: The model.
        case: The case; scores made of concept words need ``context_words`` and
            ``competing_words`` and are NaN with the reason without them.
        seen: Its trace, if there is one already.
        lens: Its lens readout, if there is one already.

    Returns:
        `Coherence`; see `dst.analysis.coherence.DEFINITIONS` for each name and unit.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.

    Source: METHOD 3.
    """
    seen = trace(model, case) if seen is None else seen
    lens = logit_lens(model, seen) if lens is None else lens
    context, competing = case.context_words, case.competing_words
    at_answer = seen.resid[:, seen.answer_position]
    chain_c = concepts.in_context_vectors(model, seen, context)
    chain_a = concepts.in_context_vectors(model, seen, competing)
    return Coherence(
        scores=(
            scores.dss_published(
                concepts.published_vectors(model, seen, context),
                concepts.published_vectors(model, seen, competing),
            ),
            scores.dss_corrected(chain_c, chain_a, _centre(model, chain_c, chain_a)),
            scores.cas_published(
                at_answer,
                concepts.published_directions(model, context),
                concepts.published_directions(model, competing),
            ),
            scores.cas_prob_published(
                concepts.concept_probability(model, seen, context),
                concepts.concept_probability(model, seen, competing),
            ),
            scores.cas_corrected(
                concepts.normed(model, at_answer),
                concepts.concept_directions(model, seen, context),
                concepts.concept_directions(model, seen, competing),
            ),
            scores.margin(lens.margin),
        ),
        provenance=model.provenance(context_words=context, competing_words=competing),
    )


def markers(
    model: Backend,
    case: Case,
    *,
    seen: Trace | None = None,
    lens: LensReadout | None = None,
    score: Coherence | None = None,
) -> Markers:
    """Every marker of a case, by name and definition: published ones, and those on the lens.

    Args:
        model: The model.
        case: The case.
        seen: Its trace, if there is one already.
        lens: Its lens readout, if there is one already.
        score: Its coherence scores, if there are some already.

    Returns:
        `Markers`; each mark is a state (after block l of L) or NaN with a reason.

    Source: METHOD 4. The lens marks say when the lens readout turns, not what caused it.
    """
    seen = trace(model, case) if seen is None else seen
    lens = logit_lens(model, seen) if lens is None else lens
    score = coherence(model, case, seen=seen, lens=lens) if score is None else score
    return Markers(
        marks=(
            *rules.lens_markers(score["margin"], lens.answer_is_final, floor=0.0),
            *rules.published_markers(score["dss_published"], score["cas_published"]),
        ),
        provenance=score.provenance,
    )


def _centre(model: Backend, *chains: np.ndarray) -> np.ndarray:
    """Mean residual of the reference sentences, run once per model and only where needed."""
    if all(np.isfinite(chain).all(axis=(0, 2)).sum() < 2 for chain in chains):
        return np.zeros((model.spec.n_layers + 1, model.spec.d_model), dtype=np.float32)
    if model not in _CENTRES:
        _CENTRES[model] = concepts.mean_residual(model, reference_sentences(model.spec.name))
    return _CENTRES[model]
