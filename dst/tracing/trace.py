"""`trace`: record the residual stream and what each block adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import overload

import numpy as np
import torch

from dst.analysis.readout import contrast
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.core.results import Trace
from dst.core.sites import Site, site_of_state
from dst.models.backend import Backend
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
    sites = {
        "resid": [site_of_state(state, n_layers) for state in range(n_layers + 1)],
        "attn_out": [Site(layer, "attn_out") for layer in range(n_layers)],
        "mlp_out": [Site(layer, "mlp_out") for layer in range(n_layers)],
    }
    run = model.run([case.ids for case in cases], capture=[*chain(*sites.values())], logits_at=[-1])
    logits = run.last_logits.to("cpu", torch.float32).numpy()
    states = dict(run.states)
    del run
    recorded = _recorded(states, sites, [len(case.ids) for case in cases], model.spec.d_model)
    return [
        _trace(model, case, arrays, logits[row].copy())
        for row, (case, arrays) in enumerate(zip(cases, recorded, strict=True))
    ]


def _recorded(
    states: dict[Site, torch.Tensor],
    sites: Mapping[str, Sequence[Site]],
    lengths: Sequence[int],
    d_model: int,
) -> list[dict[str, np.ndarray]]:
    """Per row and name [site pos d_model], float32 on the CPU, without the row's padding.

    Takes every state out of ``states``, so that no more than one of them is held twice.
    """
    rows = [
        {
            name: np.empty((len(of_name), length, d_model), dtype=np.float32)
            for name, of_name in sites.items()
        }
        for length in lengths
    ]
    for name, of_name in sites.items():
        for place, site in enumerate(of_name):
            state = states.pop(site).to("cpu", torch.float32).numpy()
            for row, (arrays, length) in enumerate(zip(rows, lengths, strict=True)):
                arrays[name][place] = state[row, :length]
    return rows


def _trace(
    model: Backend, case: TokenizedCase, arrays: Mapping[str, np.ndarray], logits: np.ndarray
) -> Trace:
    length = len(case.ids)
    plus, minus = case.contextual_ids, case.associative_ids
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
        resid=arrays["resid"],
        attn_out=arrays["attn_out"],
        mlp_out=arrays["mlp_out"],
        logits=logits,
        contrast=float(contrast(logits, plus, minus)),
        model_output=model.tokenizer.decode([int(logits.argmax())]),
        case=case.case,
        provenance=model.provenance(site="resid, attn_out, mlp_out"),
        notes=case.notes,
    )
