"""The verbs that take a model and a case: run what is missing, then call `dst.analysis`."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dst.analysis import coherence as scores
from dst.analysis import markers as rules
from dst.analysis.flows import LEAST_FLOOR
from dst.core.case import Case
from dst.core.errors import CaseError, TokenError
from dst.core.results import (
    Attribution,
    Coherence,
    LensReadout,
    Mark,
    Markers,
    Pathways,
    Repairs,
    Score,
    Trace,
)
from dst.models.backend import Backend
from dst.models.reference import reference_sentences
from dst.tracing import concepts
from dst.tracing.attribution import attribution
from dst.tracing.commitment import repairs
from dst.tracing.lens import logit_lens
from dst.tracing.pathways import pathways
from dst.tracing.prepare import DRAWS
from dst.tracing.trace import trace

_CENTRES: weakref.WeakKeyDictionary[Backend, np.ndarray | None] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Measured:
    """What was run for one case; every score and mark is made from it.

    Attributes:
        seen: The trace.
        lens: The lens readout at i*.
        paths: The two flows; None where they could not be measured.
        fixes: What repairs the run; None likewise.
        parts: What each component adds to LD; None likewise.
        notes: What was drawn for it, or why the flows could not be measured.
    """

    seen: Trace
    lens: LensReadout
    paths: Pathways | None
    fixes: Repairs | None
    parts: Attribution | None
    notes: tuple[str, ...]


def measure(
    model: Backend, case: Case, *, k: int = 5, draws: int = DRAWS, seed: int = 0
) -> Measured:
    """Run everything that the scores and marks of a case rest on.

    Trace and lens always; the two flows, the repairs and the attribution where the case has
    a cue and a subject (or variants of its own). Where those fail for want of variants, the
    reason is a note and the rest is there.

    Args:
        model: The model.
        case: The case.
        k: Likeliest words to keep per state.
        draws: Variants to draw where the case gives none.
        seed: Seed of the draws and of the bootstrap.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.
        NumericalError: A control of the interventions fails.
    """
    seen = trace(model, case)
    lens = logit_lens(model, seen, k=k)
    missing = [
        name
        for name, given in (("cue", case.cue or case.neutral),
                            ("subject", case.subject or case.substitute))
        if not given
    ]  # fmt: skip
    if missing:
        why = f"The two pathways were not measured: the case names no {' and no '.join(missing)}."
        return Measured(seen, lens, None, None, None, (why,))
    try:
        paths = pathways(model, case, draws=draws, seed=seed)
        fixes = repairs(model, case, draws=draws, seed=seed)
        one_prompt = case.twin_question is None and {"heads", "components"} <= model.can
        parts = attribution(model, case, draws=draws, seed=seed) if one_prompt else None
    except (CaseError, TokenError) as error:
        return Measured(
            seen, lens, None, None, None, (f"The two pathways were not measured: {error}",)
        )
    return Measured(seen, lens, paths, fixes, parts, paths.notes)


def coherence(model: Backend, case: Case, *, measured: Measured | None = None) -> Coherence:
    """Every coherence score of a case over depth, published ones beside ours, by name.

    The causal scores (DSS* in its forms) rest on the two flows and are there where those
    could be measured.

    Args:
        model: The model.
        case: The case; scores made of concept words need ``context_words`` and
            ``competing_words`` and are NaN with the reason without them.
        measured: What was run for it, if `measure` was called already.

    Returns:
        `Coherence`; see `dst.analysis.coherence.DEFINITIONS` for each name and unit.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.

    Source: METHOD 3.
    """
    measured = measure(model, case) if measured is None else measured
    seen, lens = measured.seen, measured.lens
    context, competing = case.context_words, case.competing_words
    at_answer = seen.resid[:, seen.answer_position]
    return Coherence(
        scores=(
            *_causal(measured.paths, measured.parts),
            scores.dss_published(
                concepts.published_vectors(model, seen, context),
                concepts.published_vectors(model, seen, competing),
            ),
            _dss_corrected(model, seen, context, competing),
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
    measured: Measured | None = None,
    score: Coherence | None = None,
) -> Markers:
    """Every marker of a case, by name and definition: causal, on the lens, and published.

    Causal marks (commitment per repair, arrival and handover of both flows at the answer)
    are there where the flows could be measured.

    Args:
        model: The model.
        case: The case.
        measured: What was run for it, if `measure` was called already.
        score: Its coherence scores, if there are some already.

    Returns:
        `Markers`; each mark is a state (after block l of L) or NaN with a reason.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.

    Source: METHOD 4. The lens marks say when the lens readout turns, not what caused it.
    """
    measured = measure(model, case) if measured is None else measured
    score = coherence(model, case, measured=measured) if score is None else score
    causal = measured.fixes.commitments if measured.fixes is not None else ()
    return Markers(
        marks=(
            *causal,
            *_at_answer(measured.paths),
            *rules.lens_markers(score["margin"], measured.lens.answer_is_final, floor=LEAST_FLOOR),
            *rules.published_markers(score["dss_published"], score["cas_published"]),
        ),
        provenance=score.provenance,
    )


def _at_answer(paths: Pathways | None) -> tuple[Mark, ...]:
    """When each flow is at the answer position: its arrival and its handover."""
    if paths is None:
        return ()
    return tuple(mark for mark in paths.marks if mark.definition.endswith("flow at answer"))


def _causal(paths: Pathways | None, parts: Attribution | None) -> tuple[Score, ...]:
    """DSS* in its forms, from the flows; nothing where they were not measured."""
    if paths is None:
        return ()
    floors = (paths.contextual_floor, paths.associative_floor)
    arrived = paths.at_answer("contextual_insertion"), paths.at_answer("associative_insertion")
    sources = [i for i, role in enumerate(paths.roles) if role != "answer"]
    in_transit = (
        paths.contextual_removal.mean(axis=0)[:, sources].sum(axis=1),
        paths.associative_removal.mean(axis=0)[:, sources].sum(axis=1),
    )
    removed = paths.at_answer("contextual_removal"), paths.at_answer("associative_removal")
    made = [
        scores.dss_causal(*arrived, floors),
        scores.margin_causal(*arrived),
        scores.dss_causal(*removed, floors, name="dss_removal"),
        scores.dss_causal(*in_transit, floors, name="dss_in_transit"),
    ]
    if parts is not None:
        written = parts.up_to("contextual"), parts.up_to("associative")
        made.append(scores.dss_causal(*written, floors, name="dss_attribution"))
    return tuple(made)


def _dss_corrected(
    model: Backend, seen: Trace, context: Sequence[str], competing: Sequence[str]
) -> Score:
    """`scores.dss_corrected`, the centre computed only where two words of a chain are there."""
    chain_c = concepts.in_context_vectors(model, seen, context)
    chain_a = concepts.in_context_vectors(model, seen, competing)
    if all(np.isfinite(chain).all(axis=(0, 2)).sum() < 2 for chain in (chain_c, chain_a)):
        return scores.dss_corrected(chain_c, chain_a, np.zeros_like(seen.resid[:, 0]))
    centre = _centre(model)
    if centre is None:
        undefined = np.full(len(seen.resid), np.nan)
        reason = "the model knows the words of no reference sentence, so there is no centre"
        return Score(
            name="dss_corrected",
            value=undefined,
            total=float("nan"),
            unit=scores.DEFINITIONS["dss_corrected"].unit,
            reasons=(reason,) * len(undefined),
        )
    return scores.dss_corrected(chain_c, chain_a, centre)


def _centre(model: Backend) -> np.ndarray | None:
    """Mean residual of the reference sentences that the model knows, run once per model."""
    if model not in _CENTRES:
        sentences = reference_sentences(model.spec.name)
        known = [text for text in sentences if concepts.knows(model, text)]
        _CENTRES[model] = concepts.mean_residual(model, known) if known else None
    return _CENTRES[model]
