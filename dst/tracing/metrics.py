"""What is read from a patched run: LD, log-probability, probability, divergence, whole answers.

* ``LD``: logsumexp(logits[A+]) - logsumexp(logits[A-]) at i*, in logits;
* ``log_prob``: log P(A+) at i*, logsumexp over its forms' log-probabilities, in nats;
* ``prob``: P(A+) at i*;
* ``log_prob_associative``, ``prob_associative``: the same of A-;
* ``kl``: KL(P || Q) at i*, P of the run that is changed, Q of the patched run, in nats;
* ``sequence_log_prob``: log P of *all* tokens of the first form of A+, teacher-forced, in nats;
* ``sequence_log_prob_associative``: the same of A-.

LD of answers of several tokens is read where they part (METHOD 0); a whole answer's
log-probability is the second view of them. With a yes/no twin LD is half the difference of
prompt and twin; every other metric is of the prompt's own run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import contrast, kl_divergence, log_softmax
from dst.core.errors import InputError
from dst.core.patch_results import UNITS
from dst.models.tokens import TokenizedCase

SEQUENCES = ("sequence_log_prob", "sequence_log_prob_associative")
"""Metrics that need the answer's own tokens appended to the prompt."""


@dataclass(frozen=True)
class Metrics:
    """Some metrics of one case, LD first.

    Attributes:
        names: Their names.
        plus: First tokens of A+ at i*.
        minus: First tokens of A- at i*.
    """

    names: tuple[str, ...]
    plus: tuple[int, ...]
    minus: tuple[int, ...]

    @property
    def at_answer(self) -> tuple[str, ...]:
        """Those that are read at i*."""
        return tuple(name for name in self.names if name not in SEQUENCES)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Those of whole answers."""
        return tuple(name for name in self.names if name in SEQUENCES)

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """The tokens whose logits suffice; None for the whole vocabulary."""
        return (*self.plus, *self.minus) if self.at_answer == ("LD",) else None

    def read(
        self, logits: torch.Tensor, base: Float[np.ndarray, "cell vocab"]
    ) -> Float[np.ndarray, "metric cell"]:
        """The metrics at i* of each cell.

        Args:
            logits: [cell vocab], or [cell token] of `tokens`.
            base: Log-probabilities of the run that each cell changes; unused for LD alone.
        """
        wide = logits.float().cpu().numpy()
        if self.tokens is not None:
            n = len(self.plus)
            return contrast(wide, range(n), range(n, wide.shape[1]))[None]
        log_prob = log_softmax(wide)
        return np.stack([self._one(name, log_prob, base) for name in self.at_answer])

    def _one(
        self, name: str, log_prob: Float[np.ndarray, "cell vocab"], base: np.ndarray
    ) -> Float[np.ndarray, " cell"]:
        if name == "LD":
            return contrast(log_prob, self.plus, self.minus)
        if name == "kl":
            return np.array(
                [kl_divergence(p, q) for p, q in zip(base, log_prob, strict=True)]
            ).reshape(len(base))
        side = self.minus if name.endswith("_associative") else self.plus
        value = np.logaddexp.reduce(log_prob[:, list(side)], axis=-1)
        return np.exp(value) if name.startswith("prob") else value


def metrics_of(names: str | Sequence[str], tokenized: TokenizedCase) -> Metrics:
    """The metrics asked for, LD put before them.

    Raises:
        InputError: A metric does not exist.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name not in UNITS:
            raise InputError(f"The metric {name!r} does not exist", expected=", ".join(UNITS))
    ordered = ("LD", *(name for name in dict.fromkeys(wanted) if name != "LD"))
    return Metrics(ordered, tokenized.contextual_ids, tokenized.associative_ids)


def answer_tokens(name: str, tokenized: TokenizedCase) -> tuple[int, ...]:
    """All tokens of the answer that a sequence metric is of, those both answers share too."""
    side = tokenized.associative if name.endswith("_associative") else tokenized.contextual
    return side[0].ids
