"""The subspace of a set of concepts: what their words' states have in context and nouns have not.

A word is put after the same beginnings of sentences as neutral nouns are, and the residual at its
last token is read at every state. P spans the top principal directions of

    h[l](word in a sentence) - mean over neutral nouns of h[l](noun in the same sentence)

so that what the sentence and the place bring is out of it, and what all the words share is in it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dst.core.case import mentions
from dst.core.errors import InputError
from dst.models.backend import Backend
from dst.models.draws import STOP_WORDS
from dst.models.reference import neutral_nouns, reference_sentences
from dst.models.text import encode, refuse_unknown
from dst.tracing.concept_vectors import knows
from dst.tracing.words import at_end

LEAST_SENTENCES = 50
"""Sentences of a concept under which its directions say more of the sentences than of it."""

NOUNS = 4
"""Neutral nouns in each sentence that a word is held against."""

FLAT = 1e-5
"""Directions with a smaller singular value, as a share of the largest state's size, are none."""

_SLOT = re.compile(r"\b(?:a|an|the)\s+(\w+)(?=[.?!,;])", re.IGNORECASE)
"""A noun phrase of two words that ends a clause: "wants a crane."."""


@dataclass(frozen=True)
class ConceptSubspace:
    """Principal directions of some words at every state.

    Attributes:
        words: The words that it is of.
        basis: Orthonormal columns; zero columns where a state has fewer directions.
        share: Share of the words' squared displacement from the nouns along each direction.
        sentences: Sentences of each word.
        left_out: Words that have too few sentences, each with the number.
    """

    words: tuple[str, ...]
    basis: Float[np.ndarray, "state d_model component"]
    share: Float[np.ndarray, "state component"]
    sentences: Int[np.ndarray, " word"]
    left_out: tuple[str, ...]

    @property
    def rank(self) -> Int[np.ndarray, " state"]:
        """Directions of each state."""
        return self.basis.any(axis=1).sum(axis=-1)


def concept_subspace(
    model: Backend,
    words: Sequence[str],
    n: int,
    *,
    sentences: Sequence[str] | None = None,
    seed: int = 0,
) -> ConceptSubspace:
    """The top ``n`` principal directions of words' states in context, at every state.

    Second moments about the neutral nouns, every word with the same weight whatever the number
    of its sentences. Only what stands before a word can change its state, so a sentence is cut
    off after the word, and equal beginnings count once.

    Args:
        model: The model.
        words: The concept words.
        n: Directions to keep; fewer where the states have fewer.
        sentences: Texts that mention the words; by default beginnings of reference sentences, with
            each word in turn in place of a noun.
        seed: Of the choice of sentences and nouns.

    Returns:
        `ConceptSubspace`, without words where none has `LEAST_SENTENCES` sentences.

    Raises:
        InputError: n is no positive number, or no neutral noun is known to the model.
        TokenError: The tokenizer does not know a word; the nearest known are named.

    Source: METHOD 1a. The published code pools each word alone over its tokens: ten strings, no
    sentence, and no more directions than strings.
    """
    if n < 1:
        raise InputError(f"n is {n}", expected="a number of directions, 1 or more")
    for word in words:
        refuse_unknown(model.tokenizer, encode(model.tokenizer, word))
    beginnings = _given(model, words, sentences) if sentences is not None else None
    made = _beginnings(model, seed) if beginnings is None else []
    found, left_out = {}, []
    for word in words:
        starts = made if beginnings is None else beginnings[word]
        if len(starts) < LEAST_SENTENCES:
            left_out.append(f"{word!r} has {len(starts)} sentences, {LEAST_SENTENCES} are needed")
        else:
            found[word] = starts
    n_states, d = model.spec.n_layers + 1, model.spec.d_model
    basis, share = np.zeros((n_states, d, n), dtype=np.float32), np.zeros((n_states, n))
    if found:
        displaced, size = _displacements(model, found, seed)
        for state, rows in enumerate(displaced):
            _, s, right = np.linalg.svd(rows, full_matrices=False)
            kept = min(n, int((s > FLAT * size[state]).sum()))
            basis[state, :, :kept] = right[:kept].T
            share[state, :kept] = s[:kept] ** 2 / max(float((s**2).sum()), 1e-300)
    counts = np.array([len(starts) for starts in found.values()], dtype=int)
    return ConceptSubspace(tuple(found), basis, share, counts, tuple(left_out))


# -- sentences -------------------------------------------------------------------------------


def _beginnings(model: Backend, seed: int) -> list[str]:
    """Beginnings of reference sentences, each up to a noun; `LEAST_SENTENCES` different ones."""
    nouns = set(neutral_nouns(model.spec.name))
    starts: dict[str, None] = {}
    for text in reference_sentences(model.spec.name):
        ends = [match.start(1) for match in _SLOT.finditer(text) if match[1] not in STOP_WORDS]
        ends += [match.start() for match in re.finditer(r"\w+", text) if match[0] in nouns]
        starts |= dict.fromkeys(text[:end] for end in sorted(ends) if text[:end].strip())
    order = sorted(starts)
    random.Random(seed).shuffle(order)
    known: list[str] = []
    for start in order:
        if len(known) == LEAST_SENTENCES:
            break
        if knows(model, start.rstrip()):
            known.append(start)
    return known


def _given(model: Backend, words: Sequence[str], sentences: Sequence[str]) -> dict[str, list[str]]:
    """What stands before each word's first mention, sentence by sentence, each once."""
    out: dict[str, list[str]] = {}
    for word in words:
        starts = [text[: found[0][0]] for text in sentences if (found := mentions(text, word))]
        out[word] = [
            start for start in dict.fromkeys(starts) if start.strip() and knows(model, start)
        ]
    return out


# -- states ----------------------------------------------------------------------------------


def _displacements(
    model: Backend, starts: dict[str, list[str]], seed: int
) -> tuple[Float[np.ndarray, "state row d_model"], Float[np.ndarray, " state"]]:
    """Each word's state less the nouns' mean in the same sentence, over the root of its number.

    Also the size of the largest state, against which a displacement is rounding or not.
    """
    taken = {word.casefold() for word in starts}
    nouns = [noun for noun in neutral_nouns(model.spec.name) if noun.casefold() not in taken]
    random.Random(seed + 1).shuffle(nouns)
    known = [noun for noun in nouns if knows(model, noun)][:NOUNS]
    if not known:
        raise InputError(
            "The model knows none of the neutral nouns",
            do="Put neutral_nouns.txt, words of its vocabulary, beside the model",
        )
    every = list(dict.fromkeys(start for each in starts.values() for start in each))
    place = {start: i for i, start in enumerate(every)}
    neutral = [_states(model, [start + noun for start in every]) for noun in known]
    mean = np.mean(neutral, axis=0)  # [state sentence d_model]
    rows = []
    for word, each in starts.items():
        states = _states(model, [start + word for start in each])
        rows.append((states - mean[:, [place[s] for s in each]]) / np.sqrt(len(each)))
    size = np.abs(mean).max(axis=(1, 2))
    return np.concatenate(rows, axis=1).astype(np.float64), size


def _states(model: Backend, texts: Sequence[str]) -> Float[np.ndarray, "state text d_model"]:
    """Residual at the last token of each text's last word."""
    rows = []
    for text in texts:
        encoding = encode(model.tokenizer, text)
        last = encoding.positions([(len(text) - 1, len(text))])[-1]
        rows.append(encoding.ids[: last + 1])
    return at_end(model, rows)
