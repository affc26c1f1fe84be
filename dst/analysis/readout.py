"""What a row of logits says about two answers: contrast, probability, entropy, divergence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float


def log_softmax(logits: Float[np.ndarray, "*rows vocab"]) -> Float[np.ndarray, "*rows vocab"]:
    """Log-probabilities in nats, in float64."""
    wide = np.asarray(logits, dtype=np.float64)
    return wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)


def contrast(
    logits: Float[np.ndarray, "*rows vocab"], plus: Sequence[int], minus: Sequence[int]
) -> Float[np.ndarray, "*rows"]:
    """LD = logsumexp(logits[A+]) - logsumexp(logits[A-]), in logits; LD > 0 is contextual.

    The same for logits and for log-probabilities (a constant cancels). Source: METHOD 0.
    """
    wide = np.asarray(logits, dtype=np.float64)
    return np.logaddexp.reduce(wide[..., list(plus)], axis=-1) - np.logaddexp.reduce(
        wide[..., list(minus)], axis=-1
    )


def outcome(token: int, plus: Collection[int], minus: Collection[int]) -> str:
    """``correct``, ``hallucination`` or ``neither``: whose form the greedy token begins.

    Args:
        token: The likeliest token at i*.
        plus: First tokens of the contextual forms (A+).
        minus: First tokens of the associative forms (A-).

    Source: METHOD 8.
    """
    return "correct" if token in plus else "hallucination" if token in minus else "neither"


def entropy(log_prob: Float[np.ndarray, "*rows vocab"]) -> Float[np.ndarray, "*rows"]:
    """H = -sum p log p, in nats: 0 for one certain token, log(vocab) for none preferred."""
    return -(np.exp(log_prob) * log_prob).sum(axis=-1)


def kl_divergence(
    log_p: Float[np.ndarray, " vocab"], log_q: Float[np.ndarray, "*rows vocab"]
) -> Float[np.ndarray, "*rows"]:
    """KL(p || q) = sum p (log p - log q), in nats; 0 if and only if they are equal.

    Rounding can leave a value a hair under 0; it is set to 0.
    """
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).clip(min=0.0)
