"""`reference_runs`: what correct runs of a model look like, to see beside them what is unusual.

Two things come with it. The margins and doses of runs that ended well give the band that an
onset leaves and the dose that a commitment exceeds. The reference sentences give each word's
ordinary lens logit, against which CAS* standardises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from dst.analysis.markers import NEEDS_CORRECT_RUNS
from dst.analysis.readout import contrast
from dst.analysis.readout import outcome as outcome_of
from dst.core.case import Case
from dst.core.errors import InputError, ResultError, TokenError
from dst.core.lens_results import LOGIT_LENS, TUNED_LENS, ReferenceRuns, TunedLens
from dst.core.results import open_result
from dst.core.sites import site_of_state
from dst.models.backend import Backend, require
from dst.models.pretrained import folder_of
from dst.models.reference import reference_sentences
from dst.models.tokens import TokenizedCase, tokenize_case
from dst.tracing.concept_vectors import knows
from dst.tracing.dose import dose
from dst.tracing.lens import read_state
from dst.tracing.progress import progress
from dst.tracing.tuned_lens import STEPS, fit_tuned_lens, refuse_another_model

DOSES = 64
"""Correct runs whose doses are measured."""

LENS_FILE, REFERENCE_FILE = "tuned_lens.npz", "reference.npz"
"""What a model's folder may hold beside its weights."""

CORRECT = "correct"

NEEDS_LENS = "needs a tuned lens (dst.fit_tuned_lens)"


def reference_runs(
    model: Backend,
    cases: Sequence[Case],
    *,
    lens: TunedLens | None = None,
    doses: int = DOSES,
    show: bool = True,
) -> ReferenceRuns:
    """Lens margins (logits) and doses (shares of the state's norm) of the runs that end well.

    A run is correct if its greedy token at i* begins a contextual form (METHOD 8). Yes/no
    questions with a twin, and cases that do not fit the tokenizer, are left out and named.

    Args:
        model: The model.
        cases: Cases of the kind that will be compared with them, whatever they end in.
        lens: A tuned lens of this model: the margins are then read with it too.
        doses: Correct runs whose doses are measured, the first ones; 0 for none.
        show: Show the progress of long runs.

    Returns:
        `ReferenceRuns`: which runs were correct, their margins [lens run state] and doses
        [run state], and the reference sentences that the model knows.

    Raises:
        InputError: No case was answered correctly, or the lens is of another model.
        CapabilityError: The engine cannot edit, and doses are asked for.

    Source: METHOD 4 (``reference=``), 3b.
    """
    if lens is not None:
        refuse_another_model(model, lens)
    if doses:
        require(model, "edits")
    outcomes, margins, correct = list[str](), list[np.ndarray](), list[Case]()
    with progress("reference runs", len(cases), unit="case", show=show) as tick:
        for case, outcome, margin in _read(model, cases, lens, tick):
            outcomes.append(outcome)
            if outcome == CORRECT:
                margins.append(margin)
                correct.append(case)
    if not correct:
        raise InputError(
            f"None of the {len(cases)} cases was answered correctly",
            expected="cases of which the model gets some right",
        )
    values = []
    with progress("doses", min(doses, len(correct)), unit="case", show=show) as tick:
        for case in correct[:doses]:
            values.append(dose(model, case).value)
            tick(1)
    n_states = model.spec.n_layers + 1
    sentences = tuple(text for text in reference_sentences(model.spec.name) if knows(model, text))
    return ReferenceRuns(
        case_ids=tuple(case.case_id for case in cases),
        outcomes=tuple(outcomes),
        lenses=(LOGIT_LENS,) if lens is None else (LOGIT_LENS, TUNED_LENS),
        margin=np.stack(margins, axis=1),
        dose=np.array(values, dtype=np.float64).reshape(-1, n_states),
        tuned_lens="" if lens is None else lens.fingerprint,
        sentences=sentences,
        provenance=model.provenance(doses=doses),
    )


def refuse_another_reference(
    model: Backend, reference: ReferenceRuns, lens: TunedLens | None
) -> None:
    """Stop where a reference is of other weights, or was read with another tuned lens.

    Raises:
        InputError: In one sentence.
    """
    if reference.provenance.weights_hash != model.spec.weights_hash:
        raise InputError(
            f"The reference is of {reference.provenance.model} ({reference.provenance.dtype}), "
            f"and the model given has other weights ({model.spec.name}, {model.spec.dtype})",
            do="Make one of this model with dst.reference_runs",
        )
    if lens is not None and reference.tuned_lens not in ("", lens.fingerprint):
        raise InputError(
            "The reference was read with another tuned lens than the one given",
            do="Make it with dst.reference_runs(model, cases, lens=lens)",
        )


# -- what ships with a model ----------------------------------------------------------------------


def fit_defaults(
    model: Backend,
    folder: str | Path,
    cases: Sequence[Case],
    texts: Sequence[str] | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    show: bool = True,
) -> tuple[TunedLens, ReferenceRuns]:
    """Fit a tuned lens, make a reference with it, and put both beside a model's weights.

    From then on `dst.coherence` and `dst.markers` use them for that model by default.

    Args:
        model: The model in ``folder``, loaded in the number type that it will be used in.
        folder: Its folder; ``tuned_lens.npz`` and ``reference.npz`` are written there.
        cases: Cases for the reference; see `reference_runs`.
        texts: Text for the lens; see `fit_tuned_lens`.
        steps: Steps of the fit.
        seed: Seed of the fit.
        show: Show progress.
    """
    lens = fit_tuned_lens(model, texts, steps=steps, seed=seed, show=show)
    reference = reference_runs(model, cases, lens=lens, show=show)
    lens.save(Path(folder) / LENS_FILE)
    reference.save(Path(folder) / REFERENCE_FILE)
    return lens, reference


def shipped_lens(model: Backend) -> tuple[TunedLens | None, str]:
    """The tuned lens in the model's folder; None with the reason where there is none to use."""
    return _shipped(model, LENS_FILE, TunedLens)


def shipped_reference(model: Backend) -> tuple[ReferenceRuns | None, str]:
    """The reference in the model's folder; None with the reason where there is none to use."""
    return _shipped(model, REFERENCE_FILE, ReferenceRuns)


@dataclass(frozen=True)
class Aids:
    """The tuned lens and the reference that a case is read with.

    Attributes:
        lens: The tuned lens, None where there is none.
        reference: The reference of correct runs, None where there is none.
        no_lens: Why there is no lens.
        no_reference: Why there is no reference.
        note: Where they are from, where nobody gave them.
    """

    lens: TunedLens | None
    reference: ReferenceRuns | None
    no_lens: str
    no_reference: str
    note: str

    def margins(self, lens: str) -> tuple[np.ndarray | None, str]:
        """The correct runs' margins by one lens [run state]; None with the reason."""
        if self.reference is None:
            return None, self.no_reference
        if lens == TUNED_LENS and self.lens is not None:
            if not self.reference.tuned_lens:
                return None, "the reference was read without a tuned lens"
            if self.reference.tuned_lens != self.lens.fingerprint:
                return None, "the reference was read with another tuned lens"
        return self.reference.margin_of(lens), ""


def aids(
    model: Backend, lens: TunedLens | None = None, reference: ReferenceRuns | None = None
) -> Aids:
    """The lens and the reference given, else those in the model's folder.

    Raises:
        InputError: What was given belongs to other weights, or one to another of the other.
    """
    if lens is not None:
        refuse_another_model(model, lens)
    if reference is not None:
        refuse_another_reference(model, reference, lens)
    no_lens = no_reference = ""
    own = []
    if lens is None:
        lens, no_lens = shipped_lens(model)
        own += ["tuned lens"] if lens is not None else []
    if reference is None:
        reference, no_reference = shipped_reference(model)
        own += ["reference of correct runs"] if reference is not None else []
    return Aids(
        lens,
        reference,
        no_lens or ("" if lens else NEEDS_LENS),
        no_reference or ("" if reference else NEEDS_CORRECT_RUNS),
        f"with the {' and '.join(own)} shipped with {model.spec.name}" if own else "",
    )


Shipped = TypeVar("Shipped", TunedLens, ReferenceRuns)


def _shipped(model: Backend, name: str, kind: type[Shipped]) -> tuple[Shipped | None, str]:
    if not model.spec.name:
        return None, ""
    path = folder_of(model.spec.name) / name
    if not path.is_file():
        return None, ""
    try:
        found = open_result(path)
    except ResultError:
        return None, f"the model's {name} cannot be read"
    if not isinstance(found, kind):
        return None, f"the model's {name} holds another result"
    if found.provenance.weights_hash != model.spec.weights_hash:
        return None, f"the model's {name} belongs to other weights or another number type"
    return found, ""


# -- inside ------------------------------------------------------------------------------------


def _read(
    model: Backend, cases: Sequence[Case], lens: TunedLens | None, tick: Callable[[int], None]
) -> Iterator[tuple[Case, str, np.ndarray]]:
    """Each case with its outcome and its margins [lens state] (empty where it was left out)."""
    lenses = (None,) if lens is None else (None, lens)
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    for start in range(0, len(cases), 32):
        batch = [(case, *_tokens(model, case)) for case in cases[start : start + 32]]
        rows = [found.ids for _, found, _ in batch if found is not None]
        if rows:
            run = model.run(rows, capture=sites, logits_at=[-1])
            last = run.lengths - 1
            states = [
                run.states[site][range(len(rows)), last.to(run.states[site].device)]
                .float()
                .cpu()
                .numpy()
                for site in sites
            ]
            greedy = run.last_logits.argmax(dim=-1).tolist()
            read = [[read_state(model, l, h, one) for l, h in enumerate(states)] for one in lenses]
        row = 0
        for case, found, why in batch:
            if found is None:
                yield case, f"left out: {why}", np.empty(0)
                continue
            plus, minus = found.contextual_ids, found.associative_ids
            margin = [[contrast(at[row], plus, minus) for at in states_] for states_ in read]
            yield case, outcome_of(greedy[row], plus, minus), np.array(margin)
            row += 1
        tick(len(batch))


def _tokens(model: Backend, case: Case) -> tuple[TokenizedCase | None, str]:
    if not case.associative:
        return None, "no associative answer"
    if case.twin_question is not None:
        return None, "a yes/no question with a twin is two prompts"
    try:
        return tokenize_case(model.tokenizer, case), ""
    except TokenError as error:
        return None, str(error)
