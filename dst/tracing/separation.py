"""The states at i* of a prompt and of its variants, as the unembedding reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dst.models.backend import Backend
from dst.tracing.concept_vectors import normed
from dst.tracing.recordings import Recordings


@dataclass(frozen=True)
class AnswerStates:
    """Normed states at i*, in the units of the final norm.

    Attributes:
        x: Of the prompt.
        swap: Of the variants under the cue of the other sense; none where there is none.
        neutral: Of the draws under neutral cues; likewise.
        directions: Rows of U of all forms of both answers.
    """

    x: Float[np.ndarray, "state d_model"]
    swap: Float[np.ndarray, "swap state d_model"]
    neutral: Float[np.ndarray, "draw state d_model"]
    directions: Float[np.ndarray, "form d_model"]


def answer_states(model: Backend, runs: Recordings) -> AnswerStates:
    """States at i* of x, its x_swap and its x_0, after the final norm.

    Raises:
        CaseError, TokenError: The case cannot be made ready.
        ModelError: The model cannot be run on it.
    """
    ready = runs.ready
    variants = ready.variants
    rows = [ready.x, *variants.swap, *variants.neutral]
    states = runs(rows).states[:, : len(rows), -1].transpose(0, 1).cpu().numpy()
    x, swap, neutral = np.split(normed(model, states), [1, 1 + len(variants.swap)])
    forms = [*ready.metric.plus, *ready.metric.minus]
    return AnswerStates(x[0], swap, neutral, model.directions(forms).cpu().double().numpy())
