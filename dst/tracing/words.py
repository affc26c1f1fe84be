"""Lens logits of concept words, each against what is ordinary for it: what CAS* is made of.

    z[l](v) = (lens logit of v at state l - mean) / sd,   mean and sd over reference sentences

Every reference sentence is ended with the case's own last token (through the chat template if
the case goes through it), so that what that token alone makes of the lens is in the mean. The
statistics hold for every word of the vocabulary; they are run once per model, lens and last
token, and kept while the model lives. Source: METHOD 3b.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.core.case import Case, Prompt, mentions
from dst.core.lens_results import TunedLens
from dst.core.sites import site_of_state
from dst.models.backend import Backend
from dst.models.meter import kept_for_later
from dst.models.tokens import encode, render
from dst.tracing.concept_vectors import said
from dst.tracing.lens import read_state
from dst.tracing.prepare import Prepared
from dst.tracing.recordings import Recordings
from dst.tracing.swaps import Recorded

FLAT = 1e-6
"""A word whose lens logit has a smaller standard deviation over the sentences has no z."""

ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""The same, as a share of the largest logit: equal rows of one product differ by this much."""

MOST_KEPT = 2**26
"""Numbers that are kept per model; beyond it the statistics made first are made again."""

BATCH = 32
"""Rows of one run."""

LEAST_SENTENCES = 10
"""Fewer reference sentences than this say nothing of what is ordinary."""


@dataclass(frozen=True)
class WordScores:
    """z of the concept words on the prompt and on its neutral draws, for one lens.

    Attributes:
        context: Of the context words; NaN where the sentences have no spread.
        competing: Of the competing words.
        context_neutral: Of the context words on each neutral draw.
        competing_neutral: Of the competing words on each neutral draw.
        left_out: Words that were given and not read, each with its reason.
    """

    context: Float[np.ndarray, "state context_word"]
    competing: Float[np.ndarray, "state competing_word"]
    context_neutral: Float[np.ndarray, "draw state context_word"]
    competing_neutral: Float[np.ndarray, "draw state competing_word"]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """Mean and sd of every word's lens logit over the reference sentences.

    Attributes:
        mean: In logits.
        sd: In logits; NaN where it is under `FLAT` or under rounding.
    """

    mean: Float[np.ndarray, "state d_vocab"]
    sd: Float[np.ndarray, "state d_vocab"]


def word_scores(
    model: Backend,
    ready: Prepared,
    sentences: Sequence[str],
    lenses: Sequence[TunedLens | None],
    *,
    runs: Recordings | None = None,
) -> list[WordScores]:
    """The z of a case's concept words at i*, on the prompt and on its neutral draws, per lens.

    A word is read by its first token, with its leading space. Words that the prompt names
    and words that begin with an answer's token are left out: they would score the prompt's own
    words, or the answer (which `Case` itself refuses as a concept word).

    Args:
        model: The model.
        ready: The case; its neutral variants are the draws.
        sentences: Reference sentences that the model knows.
        lenses: The lenses to read with; None is the logit lens.
        runs: The runs of this case, if something else is measured on them too.

    Raises:
        TokenError: The tokenizer does not know a word.
    """
    case = ready.tokenized.case
    sides, left_out = [], list[str]()
    for words in (case.context_words, case.competing_words):
        ids, dropped = _first_tokens(model, ready, words)
        sides.append(ids)
        left_out += dropped
    rows = [ready.x, *ready.variants.neutral]
    resid = at_end(model, [row.ids for row in rows]) if runs is None else _recorded(runs(rows))
    out = []
    for lens in lenses:
        ordinary = statistics(model, case, ready.tokenized.ids[-1], sentences, lens)
        z = np.stack(
            [
                (read_state(model, l, h, lens) - ordinary.mean[l]) / ordinary.sd[l]
                for l, h in enumerate(resid)
            ],
            axis=1,
        )  # [row state d_vocab]
        context, competing = (z[:, :, ids] for ids in sides)
        out.append(WordScores(context[0], competing[0], context[1:], competing[1:], (*left_out,)))
    return out


def statistics(
    model: Backend, case: Case, last: int, sentences: Sequence[str], lens: TunedLens | None
) -> Statistics:
    """What is ordinary for every word at a prompt's last token, run or remembered.

    Args:
        model: The model.
        case: The case; only whether and how it is a chat matters.
        last: Id of its last token.
        sentences: Reference sentences that the model knows.
        lens: The lens; None is the logit lens.
    """
    known = KNOWN.setdefault(model, {})
    key = (tuple(sentences), last, case.is_chat, "" if lens is None else lens.fingerprint)
    if key not in known:
        with kept_for_later():
            made = _statistics(model, ended(model, case, last, sentences), lens)
        while known and (len(known) + 1) * 2 * made.mean.size > MOST_KEPT:
            known.pop(next(iter(known)))
        known[key] = made
    return known[key]


def ended(
    model: Backend, case: Case, last: int, sentences: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Token ids of the reference sentences, each ended with a token if it does not end so."""
    rows = []
    for text in sentences:
        prompt: Prompt = ({"role": "user", "content": text},) if case.is_chat else text
        rendered = render(model.tokenizer, case, prompt, prefix="")
        ids = encode(model.tokenizer, rendered.text, special=rendered.special).ids
        ids = ids if ids[-1] == last else (*ids, last)
        if len(ids) <= model.spec.window:
            rows.append(ids)
    return tuple(rows)


# -- inside ------------------------------------------------------------------------------------

_Key = tuple[tuple[str, ...], int, bool, str]
KNOWN: weakref.WeakKeyDictionary[Backend, dict[_Key, Statistics]] = weakref.WeakKeyDictionary()


def _first_tokens(
    model: Backend, ready: Prepared, words: Sequence[str]
) -> tuple[list[int], list[str]]:
    """First token of each word that may be read, and the others with their reasons."""
    tokenized = ready.tokenized
    answers = {*tokenized.contextual_ids, *tokenized.associative_ids}
    ids, dropped = [], []
    for word, tokens in zip(words, said(model, tokenized.case, words), strict=True):
        if mentions(tokenized.encoding.text, word):
            dropped.append(f"{word!r} is in the prompt")
        elif tokens[0] in answers:
            dropped.append(f"{word!r} begins as an answer does")
        else:
            ids.append(tokens[0])
    return ids, dropped


def at_end(model: Backend, rows: Sequence[Sequence[int]]) -> Float[np.ndarray, "state row d"]:
    """Residual states at each row's last position, float32."""
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    out = np.empty((n_layers + 1, len(rows), model.spec.d_model), dtype=np.float32)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        run = model.run(batch, capture=sites, logits_at=[-1])
        index = torch.arange(len(batch))
        for state, site in enumerate(sites):
            resid = run.states[site]
            last = resid[index.to(resid.device), (run.lengths - 1).to(resid.device)]
            out[state, start : start + len(batch)] = last.float().cpu().numpy()
    return out


def _recorded(run: Recorded) -> Float[np.ndarray, "state row d"]:
    """Recorded states at each draw's last position, float32."""
    assert run.base is not None
    rows = list(run.recorded[: len(run)])
    last = [len(ids) - 1 for ids in run.rows[: len(run)]]
    return np.asarray(run.base.states[:, rows, last].float().cpu().numpy())


def _statistics(
    model: Backend, rows: Sequence[Sequence[int]], lens: TunedLens | None
) -> Statistics:
    resid = at_end(model, rows)
    mean = np.empty((len(resid), model.spec.d_vocab), dtype=np.float32)
    sd = np.empty_like(mean)
    for state, h in enumerate(resid):
        logits = read_state(model, state, h, lens)
        spread = logits.std(axis=0)
        flat = spread < max(FLAT, ROUNDING * float(np.abs(logits).max()))
        mean[state], sd[state] = logits.mean(axis=0), np.where(flat, np.nan, spread)
    return Statistics(mean, sd)
