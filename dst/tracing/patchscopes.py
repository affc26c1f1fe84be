"""Patchscopes: put a state of one run into another prompt, and read what the model says of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.patchscope_results import Patchscope, PatchscopeMap
from dst.core.sites import site_of_state
from dst.models.backend import Backend, require
from dst.models.reference import reference_sentences
from dst.models.text import token_texts
from dst.tracing.concept_vectors import knows
from dst.tracing.inspection import (
    IDENTITY,
    Generated,
    Inspection,
    Placed,
    generate,
    inspection_of,
    known_ids,
)
from dst.tracing.patchscope_maps import check_mapping, mapped, states_of
from dst.tracing.progress import progress
from dst.tracing.transfers import source_tokens


def patchscope(
    model: Backend,
    source: str | Case,
    at: str | Sequence[int],
    *,
    states: Sequence[int] | None = None,
    target_prompt: str = IDENTITY,
    target_position: int | str = -1,
    target_state: int | Sequence[int] | None = None,
    target_model: Backend | None = None,
    mapping: PatchscopeMap | None = None,
    n: int = 8,
    other: str | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> Patchscope:
    """What an inspection prompt goes on with when a state of another prompt is put into it.

    The state h[l, i] of (source, model) goes through f, the identity or an affine map, and
    replaces h[l', i'] of (inspection prompt, target model), which then generates ``n`` tokens
    greedily, the state in place at every step; [state pos step].

    A prompt goes on with something whatever is put into it. Two controls run beside: the prompt
    as it is, and the same with a state of another prompt, from the same layer into the same
    layer. ``claimed`` are the tokens that neither of them says; the rest says nothing of the
    source.

    Args:
        model: The model whose states are inspected.
        source: The prompt that they are of: text, or a case.
        at: Positions of it: a role (``subject``), a text of the prompt, or positions.
        states: States that are inspected, all by default.
        target_prompt: ``identity`` ("cat -> cat; 1135 -> 1135; hello -> hello; ?"),
            ``description`` ("Syria: Country in the Middle East, ..., x"), or a text. Where the
            tokenizer does not know the words of ``identity``, nouns that it knows stand in.
        target_position: The token of it that is replaced, the last by default.
        target_state: Where each state is put in: one state for all, or one for each; by default
            the same, in a model of another depth the one at the same share of depth.
        target_model: The model that generates, ``model`` by default.
        mapping: f, by `fit_patchscope_map`; needed where the two models differ in width.
        n: Tokens to generate; a text ends before at the tokenizer's end token.
        other: The control's prompt; by default a shipped reference sentence, if the tokenizer
            knows one.
        seed: Which sentence, and which of its tokens.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InterventionError: A position or state does not exist, the widths differ without a
            mapping, or an edit did not fire.
        InputError: The mapping is of other models, or the text does not fit the window.
        TokenError: The tokenizer does not know a word.
        CapabilityError: The engine cannot edit.

    Source: Ghandeharioun et al. 2024 (Patchscopes), 3; METHOD 13. The controls are ours.
    """
    target = model if target_model is None else target_model
    require(target, "edits")
    here = states_of(states, model)
    there = check_mapping(model, target, mapping, here, target_state)
    inspection = inspection_of(target, target_prompt, target_position)
    ids, positions = source_tokens(model, source, at)
    values = _mapped_states(model, ids, positions, here, there, mapping)
    control, other_source = _control(model, ids, other, seed)
    against = (
        _mapped_states(model, control[0], [control[1]], here, there, mapping)
        if control
        else torch.empty(len(here), 0, target.spec.d_model)
    )
    cells: list[Placed | None] = [
        (state, vector)
        for state, *rows in zip(there, values, against, strict=True)
        for vector in torch.cat(rows)
    ]
    n_here = len(positions) + against.shape[1]
    with progress("patchscope", (len(cells) + 1) * n, show=show_progress) as tick:
        plain = generate(inspection, [None], n, range(target.spec.d_vocab), tick)
        said = generate(inspection, cells, n, (), tick)
    shape = (len(here), n_here)
    said_ids, log_prob = said.ids.reshape(*shape, n), said.log_prob.reshape(*shape, n)
    found, others = said_ids[:, : len(positions)], said_ids[:, len(positions) :].reshape(-1, n)
    return Patchscope(
        states=np.array(here),
        target_states=np.array(there),
        positions=tuple(positions),
        tokens=token_texts(model.tokenizer, [ids[p] for p in positions]),
        source=token_texts(model.tokenizer, ids),
        target_prompt=inspection.text,
        target_tokens=inspection.tokens,
        target_position=inspection.position,
        target_model=target.spec.name,
        mapping=_mapping_name(mapping, here),
        ids=found,
        words=tuple(tuple(_text(target, row) for row in rows) for rows in found),
        log_prob=log_prob[:, : len(positions)],
        plain_log_prob=_first(plain, found[:, :, 0]),
        plain_ids=plain.ids[0],
        plain_words=_text(target, plain.ids[0]),
        other_ids=others,
        other_words=tuple(_text(target, row) for row in others),
        other_log_prob=log_prob[:, len(positions) :].reshape(-1, n),
        other_source=other_source,
        claimed=_claimed(found, plain.ids[0], others),
        fired=said.fired.reshape(shape)[:, : len(positions)],
        delta_norm=_norms(inspection, there, values),
        notes=(*inspection.notes, *(() if control else (NO_CONTROL,))),
        provenance=model.provenance(
            seed=seed,
            target_model=target.spec.name,
            target_weights=target.spec.weights_hash,
            target_prompt=inspection.text,
            n=n,
        ),
    )


NO_CONTROL = (
    "No state of another prompt was tried, as the tokenizer knows none of the reference "
    "sentences: other=... gives one."
)


def _mapped_states(
    model: Backend,
    ids: Sequence[int],
    positions: Sequence[int],
    states: Sequence[int],
    target_states: Sequence[int],
    mapping: PatchscopeMap | None,
) -> torch.Tensor:
    """f(h) of a prompt, [state pos d_model of the target]."""
    sites = [site_of_state(state, model.spec.n_layers) for state in states]
    found = model.run([ids], capture=sites, logits_at=[-1]).states
    return torch.stack(
        [
            mapped(found[site][0, list(positions)], l, m, mapping)
            for site, l, m in zip(sites, states, target_states, strict=True)
        ]
    )


def _control(
    model: Backend, ids: Sequence[int], other: str | None, seed: int
) -> tuple[tuple[tuple[int, ...], int] | None, str]:
    """Another prompt and a token of it, and how it reads; None where there is none."""
    texts = [other] if other is not None else list(reference_sentences(model.spec.name))
    rng = random.Random(seed)
    rng.shuffle(texts)
    for text in texts:
        if other is None and not knows(model, text):
            continue
        row = known_ids(model, text)
        if len(row) > 1 and row != tuple(ids):
            place = rng.randrange(1, len(row))
            tokens = [token.strip() for token in token_texts(model.tokenizer, row)]
            tokens[place] = f"[{tokens[place]}]"
            return (row, place), " ".join(tokens)
    if other is not None:
        raise InputError(
            f"The other prompt {other!r} is no control",
            expected="another text than the source, of two tokens or more",
        )
    return None, ""


def _claimed(
    said: Int[np.ndarray, "state pos step"],
    plain: Int[np.ndarray, " step"],
    others: Int[np.ndarray, "other step"],
) -> Bool[np.ndarray, "state pos step"]:
    """Tokens that are in no control's text."""
    out = (said >= 0) & ~np.isin(said, plain)
    for state, other in enumerate(others):
        out[state] &= ~np.isin(said[state], other)
    return out


def _first(
    plain: Generated, tokens: Int[np.ndarray, "state pos"]
) -> Float[np.ndarray, "state pos"]:
    """Log-probability of each token in the unpatched prompt; NaN where there is none."""
    found: np.ndarray = plain.first[0][tokens]
    return np.where(tokens >= 0, found, np.nan)


def _norms(
    inspection: Inspection, states: Sequence[int], values: torch.Tensor
) -> Float[np.ndarray, "state pos"]:
    """|f(h) - what is there|."""
    sites = [site_of_state(state, inspection.model.spec.n_layers) for state in states]
    run = inspection.model.run([inspection.ids], capture=sites, logits_at=[-1])
    return np.array(
        [
            (value.float().cpu() - run.states[site][0, inspection.position].float().cpu())
            .norm(dim=-1)
            .numpy()
            for site, value in zip(sites, values, strict=True)
        ],
        dtype=np.float64,
    )


def _text(model: Backend, ids: np.ndarray) -> str:
    """Generated tokens as text."""
    return str(model.tokenizer.decode([int(i) for i in ids if i >= 0]))


def _mapping_name(mapping: PatchscopeMap | None, states: Sequence[int]) -> str:
    if mapping is None:
        return "identity"
    used = mapping.r2[np.isin(mapping.source_states, states)]
    return f"affine, held-out R^2 {used.min():.2f} to {used.max():.2f}"
