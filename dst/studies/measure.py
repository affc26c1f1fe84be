"""The verbs that take a model and a case: run what is missing, then call `dst.analysis`."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dst.analysis import coherence as scores
from dst.analysis import markers as rules
from dst.analysis.band import LEAST_RUNS, Band, band_of
from dst.analysis.commitment import absent, dose_commitment
from dst.analysis.flows import LEAST_FLOOR
from dst.analysis.separation import separation, without
from dst.core.case import Case
from dst.core.errors import CaseError, TokenError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.core.results import (
    Attribution,
    Coherence,
    Dose,
    LensReadout,
    Mark,
    Markers,
    Pathways,
    Repairs,
    Score,
    Trace,
)
from dst.models.backend import Backend
from dst.models.meter import kept_for_later
from dst.models.reference import reference_sentences
from dst.tracing import concept_vectors as concepts
from dst.tracing.attribution import attribution
from dst.tracing.commitment import repairs
from dst.tracing.dose import dose
from dst.tracing.lens import logit_lens
from dst.tracing.pathways import pathways
from dst.tracing.prepare import DRAWS
from dst.tracing.recordings import Recordings
from dst.tracing.reference import Aids, aids
from dst.tracing.separation import AnswerStates, answer_states
from dst.tracing.trace import trace
from dst.tracing.words import LEAST_SENTENCES, WordScores, word_scores

CENTRES: weakref.WeakKeyDictionary[Backend, np.ndarray | None] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Measured:
    """What was run for one case; every score and mark is made from it.

    Attributes:
        seen: The trace.
        lens: The logit lens's readout at i*.
        aids: The tuned lens and the reference that were at hand.
        tuned: The tuned lens's readout at i*; None without such a lens.
        words: z of the concept words, by the logit lens and by the tuned lens; of those lenses
            that there are, and none where `no_words` says why.
        no_words: Why there are no z.
        senses: States at i* under every cue; None where the case cannot be made ready.
        paths: The two flows; None where they could not be measured.
        fixes: What repairs the run; None likewise.
        parts: What each component adds to LD; None likewise.
        pushes: How hard the answer must be pushed; None where `no_pushes` says why.
        no_pushes: Why there is no dose.
        notes: What was drawn for it, or why the flows could not be measured.
    """

    seen: Trace
    lens: LensReadout
    aids: Aids
    tuned: LensReadout | None
    words: tuple[WordScores, ...]
    no_words: str
    senses: AnswerStates | None
    paths: Pathways | None
    fixes: Repairs | None
    parts: Attribution | None
    pushes: Dose | None
    no_pushes: str
    notes: tuple[str, ...]


def measure(
    model: Backend,
    case: Case,
    *,
    k: int = 5,
    draws: int = DRAWS,
    seed: int = 0,
    lens: TunedLens | None = None,
    reference: ReferenceRuns | None = None,
    runs: Recordings | None = None,
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
        lens: A tuned lens of the model; by default the one in its folder, if there is one.
        reference: Its correct runs; by default those in its folder, if there are some.
        runs: The runs of this case with these draws, if something else is measured on them too.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.
        InputError: The lens or the reference belongs to other weights.
        NumericalError: A control of the interventions fails.
    """
    seen = trace(model, case)
    at_hand = aids(model, lens, reference)
    runs = Recordings(model, case, draws=draws, seed=seed) if runs is None else runs
    tuned = None if at_hand.lens is None else logit_lens(model, seen, lens=at_hand.lens, k=k)
    words, no_words = _words(model, case, at_hand, runs)
    senses = _senses(model, runs)
    pushes, no_pushes = _pushes(model, case, at_hand, runs)
    paths, fixes, parts, notes = _flows(model, case, runs)
    return Measured(
        seen=seen,
        lens=logit_lens(model, seen, k=k),
        aids=at_hand,
        tuned=tuned,
        words=words,
        no_words=no_words,
        senses=senses,
        paths=paths,
        fixes=fixes,
        parts=parts,
        pushes=pushes,
        no_pushes=no_pushes,
        notes=notes,
    )


def coherence(
    model: Backend,
    case: Case,
    *,
    measured: Measured | None = None,
    lens: TunedLens | None = None,
    reference: ReferenceRuns | None = None,
) -> Coherence:
    """Every coherence score of a case over depth, published ones beside ours, by name.

    The causal scores (DSS* in its forms) rest on the two flows and are there where those
    could be measured.

    Args:
        model: The model.
        case: The case; scores made of concept words need ``context_words`` and
            ``competing_words`` and are NaN with the reason without them.
        measured: What was run for it, if `measure` was called already, with its lens and
            reference.
        lens: A tuned lens of the model (`dst.fit_tuned_lens`), which CAS* reads with; by
            default the one in the model's folder.
        reference: Its correct runs (`dst.reference_runs`), whose sentences CAS* standardises
            by; by default those in the model's folder.

    Returns:
        `Coherence`; see `dst.analysis.coherence.DEFINITIONS` for each name and unit.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.
        InputError: The lens or the reference belongs to other weights.

    Source: METHOD 3.
    """
    if measured is None:
        measured = measure(model, case, lens=lens, reference=reference)
    seen = measured.seen
    context, competing = case.context_words, case.competing_words
    at_answer = seen.resid[:, seen.answer_position]
    return Coherence(
        scores=(
            *_causal(measured.paths, measured.parts),
            *_separations(measured),
            scores.dss_published(
                concepts.published_vectors(model, seen, context),
                concepts.published_vectors(model, seen, competing),
            ),
            _dss_corrected(model, seen, context, competing),
            *_cas_signed(measured),
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
            scores.margin(measured.lens.margin),
            _margin_tuned(measured),
        ),
        provenance=model.provenance(context_words=context, competing_words=competing),
    )


def markers(
    model: Backend,
    case: Case,
    *,
    measured: Measured | None = None,
    score: Coherence | None = None,
    lens: TunedLens | None = None,
    reference: ReferenceRuns | None = None,
) -> Markers:
    """Every marker of a case, by name and definition: causal, on the lens, and published.

    Causal marks (commitment per repair, arrival and handover of both flows at the answer)
    are there where the flows could be measured.

    Args:
        model: The model.
        case: The case.
        measured: What was run for it, if `measure` was called already, with its lens and
            reference.
        score: Its coherence scores, if there are some already.
        lens: A tuned lens of the model, on whose margin the lens marks are read too; by default
            the one in the model's folder.
        reference: Its correct runs (`dst.reference_runs`), which give the onset its band and
            the commitment by dose its threshold; by default those in the model's folder.

    Returns:
        `Markers`; each mark is a state (after block l of L) or NaN with a reason.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.
        InputError: The lens or the reference belongs to other weights.

    Source: METHOD 4. The lens marks say when the lens readout turns, not what caused it.
    """
    if measured is None:
        measured = measure(model, case, lens=lens, reference=reference)
    score = coherence(model, case, measured=measured) if score is None else score
    causal = measured.fixes.commitments if measured.fixes is not None else ()
    tuned = measured.tuned
    return Markers(
        marks=(
            *causal,
            _dose_commitment(model, measured),
            *_at_answer(measured.paths),
            *_lens_marks(score["margin"], measured.lens, measured.aids),
            *(_lens_marks(score["margin_tuned"], tuned, measured.aids) if tuned else ()),
            *rules.published_markers(score["dss_published"], score["cas_published"]),
        ),
        provenance=score.provenance,
    )


def _lens_marks(margin: Score, read: LensReadout, at_hand: Aids) -> tuple[Mark, ...]:
    """Onset, inversion and commitment of one lens, the onset by the band of correct runs."""
    margins, why = at_hand.margins(read.lens)
    band = None if margins is None else _band(np.float64(margins).tobytes(), margins.shape)
    note = ""
    if margins is not None and band is None:
        why = f"needs {LEAST_RUNS} correct runs, and the reference has {len(margins)}"
    if band is not None:
        note = f"{band.false_alarms:.0%} of {band.n} correct runs have one"
        note += f"; {at_hand.note}" if at_hand.note else ""
    return rules.lens_markers(
        margin,
        read.answer_is_final,
        LEAST_FLOOR,
        None if band is None else band.low,
        None if band is None else band.delta,
        why=why,
        note=note,
    )


@lru_cache(maxsize=8)
def _band(margins: bytes, shape: tuple[int, ...]) -> Band | None:
    """The band of correct runs, which is the same for every case: judged once."""
    return band_of(np.frombuffer(margins).reshape(shape))


def _dose_commitment(model: Backend, measured: Measured) -> Mark:
    """The mark by dose; NaN without doses, or without those of correct runs."""
    reference = measured.aids.reference
    if measured.pushes is None or reference is None:
        return absent("dose", model.spec.n_layers, measured.no_pushes)
    return dose_commitment(measured.pushes.value, list(reference.dose))


def _flows(
    model: Backend, case: Case, runs: Recordings
) -> tuple[Pathways | None, Repairs | None, Attribution | None, tuple[str, ...]]:
    """The two flows, the repairs and the attribution, with notes; None and why they are not."""
    missing = [
        name
        for name, given in (("cue", case.cue or case.neutral),
                            ("subject", case.subject or case.substitute))
        if not given
    ]  # fmt: skip
    if missing:
        why = f"The two pathways were not measured: the case names no {' and no '.join(missing)}."
        return None, None, None, (why,)
    how: dict[str, Any] = {"draws": runs.draws, "seed": runs.seed}
    try:
        paths = pathways(model, case, **how, runs=runs)
        fixes = repairs(model, case, **how, runs=runs)
        one_prompt = case.twin_question is None and {"heads", "components"} <= model.can
        parts = attribution(model, case, **how, ready=runs.ready) if one_prompt else None
    except (CaseError, TokenError) as error:
        return None, None, None, (f"The two pathways were not measured: {error}",)
    return paths, fixes, parts, paths.notes


def _pushes(model: Backend, case: Case, at_hand: Aids, runs: Recordings) -> tuple[Dose | None, str]:
    """The doses; none, with the reason, where they are undefined or nothing is to compare with."""
    if at_hand.reference is None or not len(at_hand.reference.dose):
        return None, at_hand.no_reference or "the reference holds no doses"
    if case.twin_question is not None:
        return None, "a yes/no question with a twin is two prompts"
    if "edits" not in model.can:
        return None, "the engine cannot edit"
    try:
        return dose(model, case, runs=runs), ""
    except TokenError:  # a variant does not fit; the prompt itself does
        return dose(model, case), ""


def _words(
    model: Backend, case: Case, at_hand: Aids, runs: Recordings
) -> tuple[tuple[WordScores, ...], str]:
    """The concept words' z by the logit lens and the tuned lens; none, with the reason."""
    if not case.context_words or not case.competing_words:
        return (), scores.NO_WORDS
    if at_hand.reference is None:
        return (), f"needs a reference (dst.reference_runs): {at_hand.no_reference}"
    if (n := len(at_hand.reference.sentences)) < LEAST_SENTENCES:
        return (), f"the model knows {n} reference sentences, and {LEAST_SENTENCES} are needed"
    try:
        ready = runs.ready
    except TokenError as error:
        return (), f"no neutral prompt: {error}"
    if not ready.variants.neutral:
        return (), "no neutral prompt: the case names no cue"
    lenses = (None,) if at_hand.lens is None else (None, at_hand.lens)
    sentences = at_hand.reference.sentences
    recorded = runs if ready.variants.twin is None else None  # words are read without the twin
    return (*word_scores(model, ready, sentences, lenses, runs=recorded),), ""


def _senses(model: Backend, runs: Recordings) -> AnswerStates | None:
    """States at i* of the prompt, of x_swap and of the draws of x_0."""
    try:
        return answer_states(model, runs)
    except (CaseError, TokenError):
        return None


def _separations(measured: Measured) -> tuple[Score, ...]:
    """How far apart the cues leave the answer's states: three scores without an answer's sign."""
    names = ("separation", "separation_projected", "separation_neutral")
    senses = measured.senses
    if senses is None:
        n_states = len(measured.seen.resid)
        return tuple(
            scores.undefined(name, n_states, "the case cannot be made ready") for name in names
        )
    projected = [without(states, senses.directions) for states in (senses.x, senses.swap)]
    pairs = ((senses.x, senses.swap), projected, (senses.x, senses.neutral))
    return tuple(
        separation(x, others, name=name) for name, (x, others) in zip(names, pairs, strict=True)
    )


def _cas_signed(measured: Measured) -> tuple[Score, Score]:
    """CAS* by the tuned lens, and by the logit lens as a check."""
    n_states = len(measured.seen.resid)

    def made(name: str, place: int, missing: str) -> Score:
        if measured.no_words or place >= len(measured.words):
            return scores.undefined(name, n_states, measured.no_words or missing)
        z = measured.words[place]
        notes = [measured.aids.note] if measured.aids.note else []
        notes += [f"left out: {', '.join(z.left_out)}"] if z.left_out else []
        both = (z.context, z.competing, z.context_neutral, z.competing_neutral)
        return scores.cas_signed(*both, name=name, note="; ".join(notes))

    return (
        made("cas_signed", 1, measured.aids.no_lens),
        made("cas_signed_logit_lens", 0, ""),
    )


def _margin_tuned(measured: Measured) -> Score:
    if measured.tuned is None:
        n_states = len(measured.seen.resid)
        return scores.undefined("margin_tuned", n_states, measured.aids.no_lens)
    return scores.margin(measured.tuned.margin, name="margin_tuned")


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
    if model not in CENTRES:
        sentences = reference_sentences(model.spec.name)
        known = [text for text in sentences if concepts.knows(model, text)]
        with kept_for_later():
            CENTRES[model] = concepts.mean_residual(model, known) if known else None
    return CENTRES[model]
