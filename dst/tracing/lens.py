"""`logit_lens`: what the residual at i* would say if the model stopped after each block.

The logit lens reads a state as it is; a tuned lens (`dst.tracing.tuned_lens`) translates it
first. `read_state` is the one place where either is read.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import contrast, entropy, kl_divergence, log_softmax
from dst.core.errors import InputError, NumericalError
from dst.core.lens_results import LOGIT_LENS, TUNED_LENS, TunedLens
from dst.core.results import LensReadout, Trace
from dst.models.backend import Backend
from dst.models.check import TOLERANCE
from dst.models.tokens import token_texts
from dst.tracing.tuned_lens import refuse_another_model, translate


def logit_lens(
    model: Backend, trace: Trace, *, lens: TunedLens | None = None, k: int = 5
) -> LensReadout:
    """Lens at i*: logits U N(h[l, i*]) at every state, with the real final norm.

    Per state: margin = LD of the lens logits (logits); p(A+) and p(A-) (probability);
    entropy (nats); KL(output || lens) (nats); the k likeliest tokens. The last state is
    the output itself, which every call checks against the logits of the run.

    Args:
        model: The model that was traced.
        trace: Its trace.
        lens: A tuned lens of this model, which reads h + A_l h + b_l in place of h; by default
            the logit lens.
        k: Likeliest tokens to keep per state.

    Returns:
        A `LensReadout`, arrays over states 0..L.

    Raises:
        InputError: The trace or the tuned lens is of another model, or k is out of range.
        NumericalError: The lens at the last state is not the run's logits.

    Source: nostalgebraist (2020); Belrose et al. (2023) for the tuned lens; METHOD 13. The
    published lens reads the next block's input norm instead of the final norm, never reads the
    last block and drops the answer position.
    """
    if trace.provenance.weights_hash != model.spec.weights_hash:
        raise InputError(
            f"The trace is of {trace.provenance.model}, and the model given is another",
            do="Trace the case with this model",
        )
    if not 1 <= k <= model.spec.d_vocab:
        raise InputError(f"k is {k}", expected=f"1 to {model.spec.d_vocab}")
    if lens is not None:
        refuse_another_model(model, lens)
    resid = trace.resid[:, trace.answer_position]
    logits = np.stack([read_state(model, state, h, lens) for state, h in enumerate(resid)])
    _check_last(logits[-1], trace.logits, model.spec.dtype)
    return _read(model, trace, logits, k, LOGIT_LENS if lens is None else TUNED_LENS)


def read_state(
    model: Backend,
    state: int,
    resid: Float[np.ndarray, "*rows d_model"],
    lens: TunedLens | None = None,
) -> Float[np.ndarray, "*rows d_vocab"]:
    """Lens logits of residuals at one state, in float64."""
    read = resid if lens is None else translate(lens, state, resid)
    logits = model.unembed(torch.from_numpy(np.ascontiguousarray(read)))
    return logits.to("cpu", torch.float32).numpy().astype(np.float64)


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


def _read(model: Backend, trace: Trace, logits: np.ndarray, k: int, name: str) -> LensReadout:
    """Every quantity of the readout from lens logits [state d_vocab]."""
    log_prob = log_softmax(logits)
    prob = np.exp(log_prob)
    plus, minus = trace.contextual_ids.tolist(), trace.associative_ids.tolist()
    top = np.argsort(-log_prob, axis=-1, kind="stable")[:, :k]
    forms = np.array(plus + minus)
    best = forms[log_prob[:, forms].argmax(axis=-1)]
    return LensReadout(
        lens=name,
        margin=contrast(logits, plus, minus),
        contextual_prob=prob[:, plus].sum(axis=-1),
        associative_prob=prob[:, minus].sum(axis=-1),
        entropy=entropy(log_prob),
        kl_to_output=kl_divergence(log_prob[-1], log_prob),
        top_ids=top,
        top_log_prob=np.take_along_axis(log_prob, top, axis=-1),
        top_words=tuple(token_texts(model.tokenizer, row.tolist()) for row in top),
        answer_is_final=best == best[-1],
        provenance=model.provenance(lens=name, k=k),
    )
