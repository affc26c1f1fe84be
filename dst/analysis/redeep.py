"""ReDeEP: does an answer come from what attention read, or from what the MLPs know?

Choosing heads or layers on the cases that are scored afterwards, as public ports do, reports the
choice: here `redeep_select` is given development cases only. Source: METHOD 13; Sun et al. (ICLR
2025).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dst.analysis.detectors import js_divergence
from dst.core.errors import InputError


def redeep_ecs(
    pattern: Float[np.ndarray, "*heads key"],
    states: Float[np.ndarray, "key d_model"],
    answer: Float[np.ndarray, " d_model"],
    context: Bool[np.ndarray, " key"],
    *,
    share: float = 0.1,
) -> Float[np.ndarray, "*heads"]:
    """External context score: does the answer's state resemble what the head read?

    ECS = cos(mean of the final-layer states of the context tokens that the head attends to most,
    final-layer state of the answer); the most attended ``share`` of the context, at least one
    token. Of tokens attended to equally, the earlier is taken.

    Args:
        pattern: Attention of the answer's query.
        states: Final-layer state per key.
        answer: Final-layer state of the answer.
        context: Which keys are context.
        share: Share of the context's tokens that count as read.

    Raises:
        InputError: No key is context, or the share is not in (0, 1].
    """
    keys = np.flatnonzero(context)
    if not len(keys) or not 0 < share <= 1:
        raise InputError(
            f"{len(keys)} keys are context, and the share is {share}",
            expected="at least one key, and a share above 0, up to 1",
        )
    n = max(1, round(share * len(keys)))
    most = np.argsort(-pattern[..., keys], axis=-1, kind="stable")[..., :n]
    read = np.asarray(states, np.float64)[keys][most].mean(axis=-2)
    wide = np.asarray(answer, np.float64)
    size = np.linalg.norm(read, axis=-1) * np.linalg.norm(wide)
    return np.where(size > 0, read @ wide / np.where(size > 0, size, 1.0), np.nan)


def redeep_pks(
    before: Float[np.ndarray, "layer vocab"], after: Float[np.ndarray, "layer vocab"]
) -> Float[np.ndarray, " layer"]:
    """Parametric knowledge score: how far each MLP moves what the lens reads.

    PKS[l] = JSD(lens log-probabilities before block l's MLP, after it), in nats; see
    `js_divergence` for the published code's reversed arguments.
    """
    return js_divergence(before, after)


class RedeepHeads(NamedTuple):
    """What `redeep_select` chose on development cases, and the scales it saw there."""

    heads: Int[np.ndarray, "chosen 2"]
    layers: Int[np.ndarray, " chosen"]
    ecs_mean: float
    ecs_sd: float
    pks_mean: float
    pks_sd: float


def redeep_select(
    ecs: Float[np.ndarray, "case layer head"],
    pks: Float[np.ndarray, "case layer"],
    labels: Any,
    *,
    n_heads: int = 3,
    n_layers: int = 3,
) -> RedeepHeads:
    """The heads whose ECS falls most with errors, and the layers whose PKS rises most.

    By the difference of means between errors and correct answers, in standard deviations. Give
    development cases only; `redeep_score` then scores others.

    Raises:
        InputError: One class only, or fewer heads or layers than are asked for.
    """
    error = np.asarray(labels, dtype=np.float64) == 1
    if error.all() or not error.any():
        raise InputError("The development cases are of one class", expected="errors and others")
    if n_heads > ecs[0].size or n_layers > pks.shape[1] or min(n_heads, n_layers) < 1:
        raise InputError(
            f"{n_heads} heads and {n_layers} layers are asked for",
            expected=f"1 to {ecs[0].size} heads and 1 to {pks.shape[1]} layers",
        )

    def gap(values: np.ndarray) -> np.ndarray:
        spread = values.std(axis=0)
        away = values[error].mean(axis=0) - values[~error].mean(axis=0)
        return away / np.where(spread > 0, spread, np.inf)

    flat = np.argsort(gap(ecs).ravel(), kind="stable")[:n_heads]
    heads = np.stack(np.unravel_index(flat, ecs.shape[1:]), axis=1)
    layers = np.argsort(-gap(pks), kind="stable")[:n_layers]
    external, internal = _redeep_means(ecs, pks, heads, layers)
    scales = (external.mean(), external.std(), internal.mean(), internal.std())
    return RedeepHeads(heads, layers, *(float(scale) for scale in scales))


def redeep_score(
    ecs: Float[np.ndarray, "case layer head"],
    pks: Float[np.ndarray, "case layer"],
    chosen: RedeepHeads,
    *,
    beta: float = 1.0,
) -> Float[np.ndarray, " case"]:
    """ReDeEP: parametric minus external, mean PKS of the layers - beta * mean ECS of the heads.

    Each is first put on the scale of the development cases. The published form is a sum with
    tuned weights over (layer, head); means on one scale need no tuning but beta.
    """
    external, internal = _redeep_means(ecs, pks, chosen.heads, chosen.layers)
    return (internal - chosen.pks_mean) / (chosen.pks_sd or 1.0) - beta * (
        external - chosen.ecs_mean
    ) / (chosen.ecs_sd or 1.0)


def _redeep_means(
    ecs: np.ndarray, pks: np.ndarray, heads: np.ndarray, layers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return ecs[:, heads[:, 0], heads[:, 1]].mean(axis=1), pks[:, layers].mean(axis=1)
