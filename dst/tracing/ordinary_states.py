"""What is ordinary at every state of a model: the mean and covariance of reference sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dst.analysis.drift import StateSpace, fit_space
from dst.core.errors import InputError
from dst.core.sites import site_of_state
from dst.models.backend import Backend
from dst.models.reference import reference_sentences
from dst.tracing.concept_vectors import knows
from dst.tracing.progress import progress
from dst.tracing.reference_states import token_states

MOST_NUMBERS = 2**27
"""Numbers of reference states that are held at a time."""


@dataclass(frozen=True)
class OrdinaryStates:
    """Mean and covariance of reference sentences' states, at every state of one model.

    Attributes:
        spaces: One per state, the embedding first.
        n_tokens: Tokens that they are from.
        weights_hash: Of the model.
    """

    spaces: tuple[StateSpace, ...]
    n_tokens: int
    weights_hash: str


def ordinary_states(
    model: Backend, texts: Sequence[str] | None = None, *, show_progress: bool = True
) -> OrdinaryStates:
    """What is ordinary at every state: made once, used for many cases.

    Args:
        model: The model.
        texts: Sentences; by default those of the shipped ones that the tokenizer knows.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: The model knows none of the shipped sentences, or they do not vary.
    """
    if texts is None:
        texts = [text for text in reference_sentences(model.spec.name) if knows(model, text)]
        if not texts:
            raise InputError(
                "The model's tokenizer knows none of the shipped reference sentences",
                do="Give texts=[...], ordinary sentences in its own words",
            )
    n_states = model.spec.n_layers + 1
    sites = [site_of_state(state, n_states - 1) for state in range(n_states)]
    n_tokens = sum(len(s) for part in token_states(model, sites[:1], texts) for s in part.values())
    at_once = max(1, MOST_NUMBERS // (n_tokens * model.spec.d_model))
    spaces: list[StateSpace] = []
    with progress("ordinary states", n_states, unit="state", show=show_progress) as tick:
        for start in range(0, n_states, at_once):
            some = sites[start : start + at_once]
            parts = list(token_states(model, some, texts))
            for site in some:
                states = np.concatenate([part[site].float().cpu().numpy() for part in parts])
                spaces.append(fit_space(states))
                tick(1)
    if flat := [state for state, space in enumerate(spaces) if np.isnan(space.rest)]:
        raise InputError(
            f"The states of the reference texts do not vary at state {flat[0]}",
            do="Give texts=[...] of different words",
        )
    return OrdinaryStates(tuple(spaces), n_tokens, model.spec.weights_hash)
