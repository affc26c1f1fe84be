"""Concept words as vectors and directions: what the word-based scores are made of."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import log_softmax
from dst.core.case import Case, mentions
from dst.core.errors import TokenError
from dst.core.results import Trace
from dst.core.sites import site_of_state
from dst.models.backend import Backend
from dst.models.meter import kept_for_later
from dst.models.tokens import encode, forms_in_place, refuse_unknown, render, tokenize_case

MOST_KEPT = 2**24
"""Numbers of words run by themselves that are kept per model; the first are forgotten first."""

# -- vectors of words in the prompt ---------------------------------------------------------


def published_vectors(
    model: Backend, trace: Trace, words: Sequence[str]
) -> Float[np.ndarray, "state word d_model"]:
    """Mean residual over each word's tokens, found as the published code finds them.

    The word is tokenised without its leading space and looked up in the prompt's ids; if
    it is not there (with byte-level BPE it rarely is), the word is run alone, and the
    vector no longer depends on the prompt. Source: METHOD 3a (DSS-v1-as-coded).
    """
    vectors = []
    for word in words:
        ids = [int(i) for i in model.tokenizer(word, add_special_tokens=False)["input_ids"]]
        place = _find(trace.ids.tolist(), ids)
        vectors.append(
            trace.resid[:, place : place + len(ids)].mean(axis=1)
            if place is not None
            else isolated(model, word)
        )
    return _stacked(vectors, trace)


def in_context_vectors(
    model: Backend, trace: Trace, words: Sequence[str]
) -> Float[np.ndarray, "state word d_model"]:
    """Residual at the last token of each word's first mention in the prompt; NaN where absent.

    Source: METHOD 3a (DSS-v1-fixed).
    """
    encoding = tokenize_case(model.tokenizer, trace.case).encoding
    absent = np.full((trace.resid.shape[0], trace.resid.shape[2]), np.nan, dtype=np.float32)
    vectors = []
    for word in words:
        places = mentions(encoding.text, word)
        positions = encoding.positions(places[:1])
        vectors.append(trace.resid[:, positions[-1]] if positions else absent)
    return _stacked(vectors, trace)


def knows(model: Backend, text: str) -> bool:
    """Whether the tokenizer knows every word of ``text``."""
    try:
        refuse_unknown(model.tokenizer, encode(model.tokenizer, text))
    except TokenError:
        return False
    return True


def mean_residual(model: Backend, texts: Sequence[str]) -> Float[np.ndarray, "state d_model"]:
    """Mean residual over all positions of some texts but their first (the attention sink)."""
    n_layers = model.spec.n_layers
    states = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    total, count = np.zeros((n_layers + 1, model.spec.d_model)), 0
    rows = [encode(model.tokenizer, text).ids for text in texts]
    for start in range(0, len(rows), 32):
        batch = rows[start : start + 32]
        run = model.run(batch, capture=states, logits_at=[-1])
        for i, row in enumerate(batch):
            for state, site in enumerate(states):
                total[state] += run.states[site][i, 1 : len(row)].double().sum(0).cpu().numpy()
            count += len(row) - 1
    return (total / max(count, 1)).astype(np.float32)


# -- directions of words in the unembedding ---------------------------------------------------


def published_directions(model: Backend, words: Sequence[str]) -> Float[np.ndarray, "word d_model"]:
    """Mean unembedding row over each word's tokens, tokenised without its space (METHOD 3b)."""
    rows = []
    for word in words:
        ids = model.tokenizer(word, add_special_tokens=False)["input_ids"]
        rows.append(_float(model.directions(ids)).mean(axis=0))
    return _rows(rows, model)


def concept_directions(
    model: Backend, trace: Trace, words: Sequence[str]
) -> Float[np.ndarray, "word d_model"]:
    """Mean row of Uc (U minus its mean row) over each word's tokens, in place at i*.

    The word is tokenised as it would be said next, with its leading space (METHOD 3b, 6).

    Raises:
        TokenError: The tokenizer does not know a word; the nearest known are named.
    """
    mean = _float(model.directions()).mean(axis=0)
    rows = [
        _float(model.directions(ids)).mean(axis=0) - mean for ids in said(model, trace.case, words)
    ]
    return _rows(rows, model)


def concept_probability(
    model: Backend, trace: Trace, words: Sequence[str]
) -> Float[np.ndarray, " state"]:
    """Lens probability at i* of the words' first tokens, summed, per state."""
    if not words:
        return np.full(trace.resid.shape[0], np.nan)
    first = sorted({ids[0] for ids in said(model, trace.case, words)})
    resid = torch.from_numpy(trace.resid[:, trace.answer_position])
    prob = np.exp(log_softmax(_float(model.unembed(resid))))
    return prob[:, first].sum(axis=-1)


def normed(
    model: Backend, resid: Float[np.ndarray, "state d_model"]
) -> Float[np.ndarray, "state d_model"]:
    """N(h): residual states after the final norm, in whose space the unembedding reads."""
    return _float(model.final_norm(torch.from_numpy(resid)))


def said(model: Backend, case: Case, words: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of each word as it would be said next, with its leading space.

    Raises:
        TokenError: The tokenizer does not know a word; the nearest known are named.
    """
    rendered = render(model.tokenizer, case)
    encoding = encode(model.tokenizer, rendered.text, special=rendered.special)
    for word in words:
        refuse_unknown(model.tokenizer, encode(model.tokenizer, word))
    return [forms_in_place(model.tokenizer, rendered, encoding, [word])[0][0].ids for word in words]


# -- inside ------------------------------------------------------------------------------------


def isolated(model: Backend, word: str) -> np.ndarray:
    """[state d_model]: mean residual over the word's tokens, run with nothing around it.

    It does not depend on the prompt: each word is run once per model, by itself.
    """
    known = ISOLATED.setdefault(model, {})
    ids = encode(model.tokenizer, word).ids
    if ids not in known:
        n_layers = model.spec.n_layers
        states = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
        with kept_for_later():
            run = model.run([ids], capture=states, logits_at=[-1])
        made = np.stack([_float(run.states[site][0]).mean(axis=0) for site in states])
        made.flags.writeable = False
        while known and (len(known) + 1) * made.size > MOST_KEPT:
            known.pop(next(iter(known)))
        known[ids] = made
    return known[ids]


ISOLATED: weakref.WeakKeyDictionary[Backend, dict[tuple[int, ...], np.ndarray]] = (
    weakref.WeakKeyDictionary()
)


def _find(ids: Sequence[int], part: Sequence[int]) -> int | None:
    for start in range(len(ids) - len(part) + 1):
        if list(ids[start : start + len(part)]) == list(part):
            return start
    return None


def _stacked(vectors: Sequence[np.ndarray], trace: Trace) -> np.ndarray:
    empty = np.zeros((trace.resid.shape[0], 0, trace.resid.shape[2]), dtype=np.float32)
    return np.stack(vectors, axis=1) if vectors else empty


def _rows(rows: Sequence[np.ndarray], model: Backend) -> np.ndarray:
    return np.stack(rows) if rows else np.zeros((0, model.spec.d_model), dtype=np.float32)


def _float(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().to("cpu", torch.float32).numpy())
