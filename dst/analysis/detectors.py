"""Scores of known hallucination detectors, from numbers that a run has already recorded.

Comparators for our own scores, on the same cases and the same split. Arrays in, arrays out; no
model and nothing fitted. `DETECTORS` says for each which way it runs; ReDeEP's are in
`dst.analysis.redeep`, the linear probe in `dst.analysis.probe`. Source: METHOD 13.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import xlogy

from dst.analysis.readout import entropy as entropy
from dst.core.errors import InputError


class Definition(NamedTuple):
    """A detector in one sentence; ``rises`` says whether more of it should mean an error."""

    says: str
    unit: str
    rises: bool | None
    source: str


DETECTORS = {
    "max_probability": Definition(
        "Probability of the likeliest next token.",
        "probability",
        False,
        "Hendrycks and Gimpel (2017)",
    ),
    "entropy": Definition("Entropy of the next token's distribution.", "nats", True, "Shannon"),
    "dola_divergence": Definition(
        "Largest Jensen-Shannon divergence between the final distribution and an earlier lens.",
        "nats",
        None,
        "Chuang et al. (ICLR 2024), DoLa",
    ),
    "lookback_ratio": Definition(
        "Mean attention to the context as a share of that and the mean attention to the rest.",
        "share",
        False,
        "Chuang et al. (EMNLP 2024), Lookback Lens",
    ),
    "redeep_ecs": Definition(
        "Cosine of the answer's final state with those of the context tokens a head attends to "
        "most.",
        "1",
        False,
        "Sun et al. (ICLR 2025), ReDeEP",
    ),
    "redeep_pks": Definition(
        "Jensen-Shannon divergence between the lens before and after an MLP.",
        "nats",
        True,
        "Sun et al. (ICLR 2025), ReDeEP",
    ),
    "semantic_entropy": Definition(
        "Entropy over the meanings of sampled answers.", "nats", True, "Kuhn et al. (ICLR 2023)"
    ),
    "linear_probe": Definition(
        "Log-odds of an error by a logistic regression on states, fitted on other clusters.",
        "log-odds",
        True,
        "Alain and Bengio (2016)",
    ),
}
"""Every detector by name. ``rises`` is None where nobody fixed a direction: take it from
development cases."""


def max_probability(
    log_prob: Float[np.ndarray, "*rows vocab"],
) -> Float[np.ndarray, "*rows"]:
    """Probability of the likeliest token, max p; an error should lower it."""
    return np.exp(np.asarray(log_prob, dtype=np.float64).max(axis=-1))


def js_divergence(
    log_p: Float[np.ndarray, "*rows vocab"], log_q: Float[np.ndarray, "*rows vocab"]
) -> Float[np.ndarray, "*rows"]:
    """JSD = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, in nats, from 0 to ln 2.

    Both divergences are *to* the mixture. Public code of DoLa and ReDeEP calls
    ``kl_div(log p, m)``, which is KL(m || p): it is unbounded where p is small, and averages
    over the vocabulary where a sum is meant.
    """
    p, q = np.exp(np.asarray(log_p, np.float64)), np.exp(np.asarray(log_q, np.float64))
    m = (p + q) / 2
    # x log(x / m) summed as x log x - x log m: a token of probability 0 adds nothing.
    mixed = xlogy(m, m).sum(axis=-1)
    divergence = (xlogy(p, p).sum(axis=-1) + xlogy(q, q).sum(axis=-1)) / 2 - mixed
    return np.clip(divergence, 0.0, np.log(2.0))


class Dola(NamedTuple):
    """Divergence of every candidate from the output, and the one that differs most."""

    divergence: Float[np.ndarray, " state"]
    premature: int

    @property
    def score(self) -> float:
        """The largest divergence, in nats."""
        return float(self.divergence[self.premature])


def dola(
    log_prob: Float[np.ndarray, "state vocab"],
    candidates: Int[np.ndarray, " candidate"] | None = None,
) -> Dola:
    """DoLa's premature layer: the candidate whose lens distribution differs most from the output.

    divergence[l] = JSD(output, lens at state l); premature = its argmax over the candidates.

    Args:
        log_prob: Lens log-probabilities per state; the last row is the output.
        candidates: States to choose from; by default all before the last. The paper takes every
            other layer of one half of the model, chosen on a validation set.

    Returns:
        Divergences of all states (NaN at states that are no candidates).

    Raises:
        InputError: A candidate is no state before the last.
    """
    last = len(log_prob) - 1
    chosen = np.arange(last) if candidates is None else np.asarray(candidates, dtype=np.int64)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= last:
        raise InputError(
            f"The candidates are {chosen.tolist()}", expected=f"states from 0 to {last - 1}"
        )
    divergence = np.full(last + 1, np.nan)
    divergence[chosen] = js_divergence(log_prob[chosen], log_prob[last])
    return Dola(divergence, int(chosen[np.argmax(divergence[chosen])]))


def dola_log_ratio(
    log_prob: Float[np.ndarray, "state vocab"], premature: int, *, cut: float = 0.1
) -> Float[np.ndarray, " vocab"]:
    """DoLa's contrast: final minus premature log-probability; -inf where the token is implausible.

    A token is plausible if its final probability is at least ``cut`` times the largest.
    """
    final = np.asarray(log_prob[-1], dtype=np.float64)
    ratio = final - log_prob[premature]
    return np.where(final >= final.max() + np.log(cut), ratio, -np.inf)


def lookback_ratio(
    pattern: Float[np.ndarray, "*heads key"],
    context: Bool[np.ndarray, " key"],
    rest: Bool[np.ndarray, " key"] | None = None,
) -> Float[np.ndarray, "*heads"]:
    """How much a head looks at the context: c / (c + r), of mean attention per token.

    c = mean attention to the context's tokens, r = mean attention to the rest's. The published
    ratio takes the tokens generated so far as the rest, which do not exist where the first token
    is read; here the rest is every other token of the prompt (leave the first out by giving
    ``rest``: it holds the attention of heads that rest).

    Args:
        pattern: Attention of the query at which the answer is read.
        context: Which keys are context.
        rest: Which keys it is compared with; by default all others.

    Returns:
        A share per head; NaN where a head attends to neither.

    Raises:
        InputError: No key is context, no key is rest, or a key is both.
    """
    other = ~context if rest is None else rest
    if not context.any() or not other.any() or (context & other).any():
        raise InputError(
            f"{context.sum()} keys are context and {other.sum()} are the rest",
            expected="at least one of each, and none that is both",
        )
    c, r = pattern[..., context].mean(axis=-1), pattern[..., other].mean(axis=-1)
    total = c + r
    return np.where(total > 0, c / np.where(total > 0, total, 1.0), np.nan)


def semantic_entropy(
    meanings: Any,
    log_prob: Float[np.ndarray, " sample"] | None = None,
    *,
    texts: Any = None,
    normalise: bool = False,
) -> float:
    """Entropy over meanings of sampled answers, in nats: - mean over samples of log P(its meaning).

    Without ``log_prob``, P is the share of samples with that meaning (the discrete form). With
    it, P is the summed probability of the distinct answers with that meaning, as a share of all
    distinct answers sampled where ``normalise``. An answer that was sampled twice
    counts once in the sum (its probability is one), twice in the mean.

    Args:
        meanings: The class of each sample: which samples mean the same.
        log_prob: Log-probability of each sampled answer, in nats.
        texts: The samples themselves, to find repeated ones; by default, samples with equal
            meaning and equal log-probability are taken for repeated.
        normalise: Whether to divide by the probability of all distinct answers.

    Raises:
        InputError: There are no samples, or lengths differ.

    Source: Kuhn et al. (ICLR 2023), equation 4; Farquhar et al. (Nature 2024).
    """
    classes = list(meanings)
    n = len(classes)
    lengths = {n} | {len(part) for part in (log_prob, texts) if part is not None}
    if not n or len(lengths) > 1:
        raise InputError(f"Samples have the lengths {sorted(lengths)}", expected="one, above 0")
    if log_prob is None:
        share = [classes.count(meaning) / n for meaning in classes]
        return float(-np.mean(np.log(share))) + 0.0
    log_p = np.asarray(log_prob, dtype=np.float64)
    keys = list(texts) if texts is not None else list(zip(classes, log_p.tolist(), strict=True))
    once = [keys.index(key) == i for i, key in enumerate(keys)]
    of_class = {
        meaning: np.logaddexp.reduce(
            [log_p[i] for i in range(n) if once[i] and classes[i] == meaning]
        )
        for meaning in set(classes)
    }
    whole = np.logaddexp.reduce(log_p[once]) if normalise else 0.0
    return float(-np.mean([of_class[meaning] - whole for meaning in classes])) + 0.0
