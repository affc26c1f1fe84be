"""How far apart a model holds what it was told and what it was not, without asking for an answer.

Two prompts that differ in the cue alone leave states at i* that differ as much as the context has
arrived there. No answer's direction enters: a score that knows the answer restates the output
(METHOD 9), one that does not may warn of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from dst.analysis.coherence import score_of, undefined
from dst.core.errors import InputError, NumericalError
from dst.core.results import Score

NO_STATE = "the states are 0"


def separation(
    states: Float[np.ndarray, "state d_model"],
    others: Float[np.ndarray, "draw state d_model"],
    *,
    name: str = "separation",
) -> Score:
    """Distance at i* between the prompt's states and those under another cue, as a share of both.

        s[l] = mean_j ||h[l] - h_j[l]|| / ((||h[l]|| + mean_j ||h_j[l]||) / 2)

    0 where the cue makes no difference, at most 2. It is the same for states in other units; two
    directions at an angle phi with equal norms give 2 sin(phi / 2).

    Args:
        states: States of the prompt at i*, normed as the unembedding reads them.
        others: States of the variants at their i*: x_swap (``separation``), x_swap and the prompt
            without the answers' directions (``separation_projected``, see `without`), or the draws
            of x_0 (``separation_neutral``).
        name: Which of the three.

    Returns:
        A number from 0 to 2 per state; NaN where all states are 0, or without a variant.

    Raises:
        InputError: The shapes do not fit one another.
        NumericalError: A value is NaN or infinite.

    Source: dst. Tried before as raw distance (METHOD, first tries of the correlation experiment).
    """
    states, others = np.asarray(states, np.float64), np.asarray(others, np.float64)
    if others.ndim != 3 or others.shape[1:] != states.shape:
        raise InputError(
            f"The variants' states are {list(others.shape)}, the prompt's {list(states.shape)}",
            expected="[draw state d_model] and [state d_model]",
        )
    if not len(others):
        return undefined(name, len(states), "no variant to compare with")
    if not (np.isfinite(states).all() and np.isfinite(others).all()):
        raise NumericalError(
            "The states hold NaN or infinite values", do="Check the run that they are from"
        )
    apart = np.linalg.norm(states - others, axis=-1).mean(axis=0)
    size = (np.linalg.norm(states, axis=-1) + np.linalg.norm(others, axis=-1).mean(axis=0)) / 2
    value = np.divide(apart, size, out=np.full(len(size), np.nan), where=size > 0)
    return score_of(name, value, ["" if one > 0 else NO_STATE for one in size])


def without(
    states: Float[np.ndarray, "*any d_model"], directions: Float[np.ndarray, "k d_model"]
) -> Float[np.ndarray, "*any d_model"]:
    """States without their part in the span of some directions: what is left knows nothing of them.

    With the rows of U of every answer form, on normed states, all lens logits of these forms
    become 0.
    """
    _, sizes, rows = np.linalg.svd(np.asarray(directions, np.float64), full_matrices=False)
    span = rows[sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-300)]
    return np.asarray(states, np.float64) - (states @ span.T) @ span
