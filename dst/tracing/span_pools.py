"""Where filling words come from, and which of them are the search's and which the scores'.

Three kinds: ``neutral`` nouns that belong to no topic, ``random`` words of the vocabulary,
``reference`` words of ordinary sentences of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from dst.models.backend import Backend
from dst.models.draws import STOP_WORDS
from dst.models.reference import neutral_nouns, reference_sentences
from dst.models.text import token_texts
from dst.tracing.prepare import Prepared
from dst.tracing.replaced import is_content
from dst.tracing.span_words import WORD

KINDS = ("neutral", "random", "reference")
"""The kinds of fills."""

MOST = 2000
"""Words of a kind that are looked at."""


def said(run: Prepared) -> set[str]:
    """Words that never fill in: those of the prompt, the answers and the concept words."""
    case = run.tokenized.case
    texts = [run.tokenized.encoding.text, *case.contextual, *case.associative]
    texts += [*case.context_words, *case.competing_words]
    return {word.casefold() for word in WORD.findall(" ".join(texts))}


def pool(model: Backend, kind: str, taken: set[str], rng: np.random.Generator) -> list[str]:
    """Up to `MOST` words of a kind, stop words too, each once; none that is taken."""
    if kind == "neutral":
        words: list[str] = [*neutral_nouns(model.spec.name), *sorted(STOP_WORDS)]
    elif kind == "random":
        words = vocabulary_words(model.tokenizer)
    else:
        sentences = " ".join(reference_sentences(model.spec.name))
        words = WORD.findall(sentences)
    fresh = [word for word in dict.fromkeys(words) if word.casefold() not in taken]
    return fresh if len(fresh) <= MOST else [fresh[i] for i in rng.permutation(len(fresh))[:MOST]]


def vocabulary_words(tokenizer: Any) -> list[str]:
    """The tokens of a vocabulary that begin a word and are of letters only, as words.

    In a vocabulary that marks the space before a word these are the marked ones; in one that marks
    pieces inside words (##) the others; else all.
    """
    ids = range(len(tokenizer))
    special = {*tokenizer.all_special_ids}
    texts = token_texts(tokenizer, ids)
    marked = any(
        text.startswith(" ") for i, text in zip(ids, texts, strict=True) if i not in special
    )
    found = dict.fromkeys(
        text.strip()
        for i, text in zip(ids, texts, strict=True)
        if i not in special and text.startswith(" ") == marked and text.strip().isalpha()
        and len(text.strip()) > 1
    )  # fmt: skip
    return list(found)


def halves(pools: Mapping[str, Sequence[str]], seed: int) -> dict[str, dict[str, list[str]]]:
    """Each kind's words for the search and for the scores: whatever its kind, a word is in one.

    The smallest kinds are shared out first, so that each has as many on either side.
    """
    rng = np.random.default_rng([seed, 0])
    side: dict[str, str] = {}
    for kind in sorted(pools, key=lambda kind: len(pools[kind])):
        for group in (True, False):  # content and stop words each half and half
            new = dict.fromkeys(
                word.casefold() for word in pools[kind]
                if is_content(word) == group and word.casefold() not in side
            )  # fmt: skip
            for turn, i in enumerate(rng.permutation(len(new))):
                side[list(new)[i]] = ("search", "scoring")[turn % 2]
    return {
        half: {
            kind: [word for word in pool if side[word.casefold()] == half]
            for kind, pool in pools.items()
        }
        for half in ("search", "scoring")
    }


def lengths(tokenizer: Any, pools: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many tokens each word takes after another word."""
    words = list(dict.fromkeys(chain.from_iterable(pools.values())))
    coded = tokenizer(["a", *(f"a {word}" for word in words)], add_special_tokens=False)
    before, *sizes = [len(ids) for ids in coded["input_ids"]]
    return {word: size - before for word, size in zip(words, sizes, strict=True)}
