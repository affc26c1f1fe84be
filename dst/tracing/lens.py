"""`logit_lens`: what the residual at i* would say if the model stopped after each block."""

from __future__ import annotations

import numpy as np
import torch

from dst.analysis.readout import contrast, entropy, kl_divergence, log_softmax
from dst.core.errors import InputError, NumericalError
from dst.core.results import LensReadout, Trace
from dst.models.backend import Backend
from dst.models.check import TOLERANCE
from dst.models.tokens import token_texts


def logit_lens(model: Backend, trace: Trace, *, k: int = 5) -> LensReadout:
    """Logit lens at i*: logits U N(h[l, i*]) at every state, with the real final norm.

    Per state: margin = LD of the lens logits (logits); p(A+) and p(A-) (probability);
    entropy (nats); KL(output || lens) (nats); the k likeliest tokens. The last state is
    the output itself, which every call checks against the logits of the run.

    Args:
        model: The model that was traced.
        trace: Its trace.
        k: Likeliest tokens to keep per state.

    Returns:
        A `LensReadout`, arrays over states 0..L.

    Raises:
        InputError: The trace is of another model, or k is out of range.
        NumericalError: The lens at the last state is not the run's logits.

    Source: nostalgebraist (2020); METHOD 13. The published lens reads the next block's
    input norm instead of the final norm, never reads the last block and drops the answer
    position.
    """
    if trace.provenance.weights_hash != model.spec.weights_hash:
        raise InputError(
            f"The trace is of {trace.provenance.model}, and the model given is another",
            do="Trace the case with this model",
        )
    if not 1 <= k <= model.spec.d_vocab:
        raise InputError(f"k is {k}", expected=f"1 to {model.spec.d_vocab}")
    resid = torch.from_numpy(trace.resid[:, trace.answer_position])
    logits = model.unembed(resid).to("cpu", torch.float32).numpy().astype(np.float64)
    _check_last(logits[-1], trace.logits, model.spec.dtype)
    return _read(model, trace, logits, k)


def _check_last(lens: np.ndarray, output: np.ndarray, dtype: str) -> None:
    difference = float(np.abs(lens - output).max() / max(np.abs(output).max(), 1e-30))
    # The trace holds states in float32; half-precision models round once more on the way.
    allowed = 10 * TOLERANCE.get(dtype, 4e-2)
    if not difference <= allowed:
        raise NumericalError(
            f"The lens at the last state misses the logits by {difference:.1e} of their size",
            expected=f"at most {allowed:.0e}",
            do="Report this model's family: its final norm or head is not where dst thinks",
        )


def _read(model: Backend, trace: Trace, logits: np.ndarray, k: int) -> LensReadout:
    """Every quantity of the readout from lens logits [state d_vocab]."""
    log_prob = log_softmax(logits)
    prob = np.exp(log_prob)
    plus, minus = trace.contextual_ids.tolist(), trace.associative_ids.tolist()
    top = np.argsort(-log_prob, axis=-1, kind="stable")[:, :k]
    forms = np.array(plus + minus)
    best = forms[log_prob[:, forms].argmax(axis=-1)]
    return LensReadout(
        lens="logit_lens",
        margin=contrast(logits, plus, minus),
        contextual_prob=prob[:, plus].sum(axis=-1),
        associative_prob=prob[:, minus].sum(axis=-1),
        entropy=entropy(log_prob),
        kl_to_output=kl_divergence(log_prob[-1], log_prob),
        top_ids=top,
        top_log_prob=np.take_along_axis(log_prob, top, axis=-1),
        top_words=tuple(token_texts(model.tokenizer, row.tolist()) for row in top),
        answer_is_final=best == best[-1],
        provenance=model.provenance(lens="logit_lens", k=k),
    )
