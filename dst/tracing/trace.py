"""`trace`: record the residual stream and what each block adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch

from dst.analysis.readout import contrast
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.core.results import Trace
from dst.core.sites import Site, site_of_state
from dst.models.backend import Backend, Run
from dst.models.tokens import TokenizedCase, tokenize_case


@overload
def trace(model: Backend, case: Case) -> Trace: ...
@overload
def trace(model: Backend, case: Sequence[Case]) -> list[Trace]: ...
def trace(model: Backend, case: Case | Sequence[Case]) -> Trace | list[Trace]:
    """The residual stream at every state and position, and what attention and MLP add.

    h[0] is the embedding, h[l] the output of block l, attn_out and mlp_out the vectors
    actually added (after any post-norm), so h[L] = h[0] + sum(attn_out + mlp_out).
    The contrast is LD = logsumexp(logits[A+]) - logsumexp(logits[A-]) at i*, in logits.

    Args:
        model: The model.
        case: One case, or several, which then run as one batch.

    Returns:
        A `Trace` (shapes [state pos d_model], [layer pos d_model]) per case; float32.

    Raises:
        CaseError: A case has no associative answer (`dst.explain` finds one).
        TokenError: A case does not fit the model's tokenizer.
        ModelError: Activations are not finite.

    Source: METHOD 0, 1. The published tracer reads chosen layers only, and at positions
    cut to the shorter of two prompts.
    """
    cases = [case] if isinstance(case, Case) else list(case)
    for item in cases:
        if not item.associative:
            raise CaseError(
                "The case has no associative answer",
                expected="what association would say",
                do="Give associative=..., or call dst.explain, which asks the model",
                field="associative",
            )
    tokenized = [tokenize_case(model.tokenizer, item) for item in cases]
    traces = trace_tokenized(model, tokenized)
    return traces[0] if isinstance(case, Case) else traces


def trace_tokenized(model: Backend, cases: Sequence[TokenizedCase]) -> list[Trace]:
    """`trace` of cases whose tokens are known, as one batch."""
    if not cases:
        return []
    n_layers = model.spec.n_layers
    states = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    attn = [Site(layer, "attn_out") for layer in range(n_layers)]
    mlp = [Site(layer, "mlp_out") for layer in range(n_layers)]
    run = model.run([case.ids for case in cases], capture=[*states, *attn, *mlp], logits_at=[-1])
    return [_trace(model, case, run, row, states, attn, mlp) for row, case in enumerate(cases)]


def _trace(
    model: Backend,
    case: TokenizedCase,
    run: Run,
    row: int,
    states: Sequence[Site],
    attn: Sequence[Site],
    mlp: Sequence[Site],
) -> Trace:
    length = len(case.ids)

    def stack(sites: Sequence[Site]) -> np.ndarray:
        """[site pos d_model] of one row, in float32 on the CPU, without its padding."""
        out = np.empty((len(sites), length, model.spec.d_model), dtype=np.float32)
        for i, site in enumerate(sites):
            out[i] = run.states[site][row, :length].to("cpu", torch.float32).numpy()
        return out

    logits = run.last_logits[row].to("cpu", torch.float32).numpy().copy()
    plus, minus = case.contextual_ids, case.associative_ids
    greedy = int(logits.argmax())
    return Trace(
        ids=np.array(case.ids, dtype=np.int64),
        tokens=case.tokens,
        roles=case.roles,
        answer_position=case.answer_position,
        shared=case.tokens[length - len(case.shared) :] if case.shared else (),
        contextual_ids=np.array(plus, dtype=np.int64),
        associative_ids=np.array(minus, dtype=np.int64),
        contextual_forms=tuple(answer.form for answer in case.contextual),
        associative_forms=tuple(answer.form for answer in case.associative),
        dropped_forms=case.dropped,
        resid=stack(states),
        attn_out=stack(attn),
        mlp_out=stack(mlp),
        logits=logits,
        contrast=float(contrast(logits, plus, minus)),
        model_output=model.tokenizer.decode([greedy]),
        case=case.case,
        provenance=model.provenance(site="resid, attn_out, mlp_out"),
        notes=case.notes,
    )
