"""Many short continuations of one prompt: the prompt is run once, then only what is appended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float

from dst.core.errors import CapabilityError
from dst.core.sites import Site, site_of_state
from dst.models import memory, suffix
from dst.models.backend import Backend
from dst.models.batch import check_finite
from dst.models.hooks import HooksBackend, _evaluating, _Hooks
from dst.models.memory import device_of, prefix_bytes, suffix_bytes
from dst.models.request import work_out

FULL_BATCH = 32
"""Rows of one run where the whole prompt is run again with every continuation."""


def last_states(
    model: Backend, ids: Sequence[int], continuations: Sequence[Sequence[int]]
) -> Float[torch.Tensor, "state row d_model"]:
    """Residual states at the last position of a prompt with each continuation after it.

    An engine that can replay keeps the prompt's keys and values; any other runs every row whole,
    with the same numbers.

    Args:
        model: The model.
        ids: The prompt.
        continuations: Tokens after it, at least one each.

    Raises:
        InputError: A row does not fit the model.
        ModelError: States are not finite.
    """
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    out = torch.empty(n_layers + 1, len(continuations), model.spec.d_model)
    lengths = sorted({len(row) for row in continuations})
    own = isinstance(model, HooksBackend) and type(model).run is HooksBackend.run
    if own and "replay" in model.can and continuations:
        engine = cast(HooksBackend, model)
        try:
            _, prefix = suffix.record(engine, [ids])
            for length in lengths:
                index = [i for i, row in enumerate(continuations) if len(row) == length]
                for part in _parts(index, _most(engine, len(ids) + length)):
                    rows = [continuations[i] for i in part]
                    out[:, part] = _appended(engine, prefix, sites, rows)
            return out
        except CapabilityError:
            pass
    for start in range(0, len(continuations), FULL_BATCH):
        rows = [(*ids, *row) for row in continuations[start : start + FULL_BATCH]]
        run = model.run(rows, capture=sites, logits_at=[-1])
        at = torch.arange(len(rows)), run.lengths - 1
        states = [run.states[site][at[0], at[1]].float().cpu() for site in sites]
        out[:, start : start + len(rows)] = torch.stack(states)
    return out


def _appended(
    engine: HooksBackend,
    prefix: suffix.Prefix,
    sites: Sequence[Site],
    rows: Sequence[Sequence[int]],
) -> Float[torch.Tensor, "state row d_model"]:
    """The same by the keys and values of the prompt, for continuations of one length."""
    from transformers import DynamicCache

    request = work_out(engine.spec, engine.anatomy.missing, rows, None, sites, (), (), [-1])
    hooks, cache = _Hooks(engine.anatomy, request), DynamicCache()
    for layer, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
        wide = (part.expand(len(rows), -1, -1, -1) for part in (keys, values))
        cache.update(*wide, layer)
    with engine._lock, torch.no_grad(), _evaluating(engine.model), hooks.placed():
        device = next(engine.model.parameters()).device
        output = engine.anatomy.body(
            input_ids=request.batch.ids.to(device), use_cache=True, past_key_values=cache
        )
        logits = engine._head(output[0][:, -1:])
    check_finite(
        request.answer(engine.spec, logits, hooks.states, hooks.readable), engine.spec.name
    )
    return torch.stack([hooks.states[site][:, -1].float().cpu() for site in sites])


def _parts(index: Sequence[int], size: int) -> list[list[int]]:
    return [list(index[start : start + size]) for start in range(0, len(index), size)]


def _most(engine: HooksBackend, length: int) -> int:
    """How many rows fit into memory at a time, each with keys and values of its own."""
    each = prefix_bytes(engine, length) + suffix_bytes(engine, 1, length, engine.spec.d_vocab)
    return max(1, memory.budget(device_of(engine)) // each)
