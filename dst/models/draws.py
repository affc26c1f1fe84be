"""Drawing the variants that a case lacks: a neutral cue, another subject (METHOD 0)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import chain, islice
from typing import Any, NamedTuple

from dst.core.case import AlignedPrompt, Case, Prompt, Variant, mentions, prompt_of, text_of
from dst.core.errors import TokenError
from dst.models.text import encode, render, unknown_id
from dst.models.tokens import TokenizedCase

_FUNCTION_WORDS = """
a an the of at in on to from by for with and or but as is was are were be been has have had
this that these those it its he she they his her their there then while who which what
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words of a cue that carry no sense of their own and stay when a neutral cue is drawn."""

_MORE_STOP_WORDS = """
not no yes so if than too very can could will would shall should may might must do does did i you
we us me him them my your our who whom whose why how where when all any some each every both few
more most other such only own same just also into out up down over under again one
"""
LONGEST_PHRASE = 4
"""Nouns in a row that stand in for one word of many tokens."""
STOP_WORDS = FUNCTION_WORDS | frozenset(_MORE_STOP_WORDS.split())
"""Words that start no answer, and carry neither an association nor a context."""

Places = Callable[[Case, str], list[tuple[int, int]]]
"""Character ranges of what a variant replaces in a text."""


def draw_variants(
    tokenizer: Any, base: TokenizedCase, *, nouns: Sequence[str] = (), n: int = 8, seed: int = 0
) -> Case:
    """The case with the variants that it lacks, drawn by the stated rule (METHOD 0).

    Neutral: every content word of the cue becomes a neutral noun, there and nowhere else.
    Substitute: every mention of the subject becomes a neutral noun, also in the prefix.
    A noun is used if the prompt keeps its number of tokens and all its other tokens, and if
    it is none of the case's own words. Without a cue (subject) there is no neutral
    (substitute) variant.

    Args:
        tokenizer: The model's tokenizer.
        base: The case, tokenised.
        nouns: The nouns to draw from; by default the shipped list.
        n: Draws of each; fewer where fewer nouns fit.
        seed: Seed of the draws.

    Raises:
        TokenError: Fewer than two nouns fit; says which words need replacing.
    """
    case = base.case
    own = (case.text, case.prefix, case.system or "", *case.contextual, *case.associative)
    own += (*case.context_words, *case.competing_words)
    taken = _words(" ".join(own))
    fresh = [noun for noun in nouns or shipped_nouns() if noun.casefold() not in taken]
    random.Random(seed).shuffle(fresh)
    changes: dict[str, Any] = {}
    if case.cue and not case.neutral:
        changes["neutral"] = drawn(tokenizer, base, "neutral", _cue_words, fresh, n)
        used = _words(" ".join(text_of(prompt_of(drawn)) for drawn in changes["neutral"]))
        fresh.sort(key=lambda noun: noun.casefold() in used)  # others for the subject, if any
    if case.subject and not case.substitute:
        changes["substitute"] = drawn(tokenizer, base, "substitute", _subject, fresh, n)
    return case.replace(**changes, case_id=case.case_id) if changes else case


def shipped_nouns() -> tuple[str, ...]:
    """200 frequent concrete nouns that belong to no particular topic."""
    text = resources.files("dst.models").joinpath("neutral_nouns.txt").read_text("utf-8")
    return tuple(text.split())


def _words(text: str) -> set[str]:
    return {word.casefold() for word in re.findall(r"\w+", text)}


def _subject(case: Case, text: str) -> list[tuple[int, int]]:
    return mentions(text, case.subject) if case.subject else []


def _cue_words(case: Case, text: str) -> list[tuple[int, int]]:
    """The content words of every mention of the cue, those of the subject left out."""
    subject = _subject(case, text)
    words = {
        (start + word.start(), start + word.end())
        for span in case.cue
        for start, end in mentions(text, span)
        for word in re.finditer(r"\w+", text[start:end])
        if word[0].casefold() not in FUNCTION_WORDS
    }
    return sorted(
        (start, end) for start, end in words if not any(a < end and start < b for a, b in subject)
    )


def drawn(
    tokenizer: Any, base: TokenizedCase, name: str, places: Places, nouns: Sequence[str], n: int
) -> tuple[Variant, ...]:
    """Up to ``n`` different variants with the words at some places replaced by nouns that fit.

    Where too few single nouns have as many tokens as a word, two to four nouns in a row have.

    Raises:
        TokenError: Fewer than two fit; says which word needs replacing.
    """
    case = base.case
    texts = [case.prompt] if isinstance(case.prompt, str) else [m["content"] for m in case.prompt]
    texts.append(case.prefix)
    words = dict.fromkeys(_key(text[a:b]) for text in texts for a, b in places(case, text))
    if not words:
        raise TokenError(
            f"No {name} variant can be drawn: the prompt itself has no word to replace",
            do=f"Give {name} variants of your own",
        )
    fitting: dict[str, list[Noun]] = {}
    for word in words:
        longest = min(LONGEST_PHRASE, _most_tokens(base, places, word))
        for capital in (True, False):  # few tokenizers know "Guitar" as well as "guitar"
            lengths = (phrases(nouns, length) for length in range(1, longest + 1))
            candidates = (Noun(noun, capital) for noun in chain.from_iterable(lengths))
            fits = (noun for noun in candidates if _fits(tokenizer, base, places, word, noun))
            fitting[word] = list(islice(fits, max(n, 2) + len(words)))
            if len(fitting[word]) >= 2:
                break
        else:
            raise TokenError(
                f"No {name} variant can be drawn: too few neutral nouns have as many tokens as "
                f"{word!r}",
                do=f"Give {name} variants of your own",
            )
    draws: list[Variant] = []
    for i in range(n):
        chosen: dict[str, Noun] = {}
        for j, (word, turned) in enumerate(fitting.items()):
            start = (i + j) % len(turned)
            turned = turned[start:] + turned[:start]
            used = {noun.word for noun in chosen.values()}
            chosen[word] = next((noun for noun in turned if noun.word not in used), turned[0])
        drawn = _replaced(case, places, chosen)
        if drawn not in draws:
            draws.append(drawn)
    return tuple(draws)


def _most_tokens(base: TokenizedCase, places: Places, word: str) -> int:
    """Tokens of the longest mention of ``word``: no more nouns than these can replace it."""
    text = base.encoding.text
    found = [span for span in places(base.case, text) if _key(text[slice(*span)]) == word]
    return max((len(base.encoding.positions([span])) for span in found), default=1)


def phrases(nouns: Sequence[str], length: int) -> Iterator[str]:
    """Each noun with the ``length - 1`` after it, the first ones following the last."""
    for i in range(len(nouns)):
        yield " ".join(nouns[(i + j) % len(nouns)] for j in range(length))


class Noun(NamedTuple):
    """What is put in place of a word, and whether it takes over a capital."""

    word: str
    capital: bool


def _fits(tokenizer: Any, base: TokenizedCase, places: Places, word: str, noun: Noun) -> bool:
    """Whether ``noun`` for ``word`` keeps the number of tokens and all the others."""
    changed_text = _replaced(base.case, places, {word: noun})
    prefix = changed_text.prefix if isinstance(changed_text, AlignedPrompt) else None
    rendered = render(tokenizer, base.case, prompt_of(changed_text), prefix)
    ids = encode(tokenizer, rendered.text, special=rendered.special).ids
    if len(ids) != len(base.encoding.ids) or unknown_id(tokenizer) in ids:
        return False
    touched = set(base.encoding.positions(places(base.case, base.encoding.text)))
    changed = {i for i, (x, y) in enumerate(zip(base.encoding.ids, ids, strict=True)) if x != y}
    return bool(changed) and changed <= touched


def _replaced(case: Case, places: Places, chosen: Mapping[str, Noun]) -> Variant:
    """The prompt with nouns in place of words, and the prefix where a word is in it."""

    def change(text: str) -> str:
        for start, end in reversed(places(case, text)):
            if noun := chosen.get(_key(text[start:end])):
                capital = noun.capital and text[start].isupper()
                word = noun.word[0].upper() + noun.word[1:] if capital else noun.word
                text = text[:start] + word + text[end:]
        return text

    prompt: Prompt
    if isinstance(case.prompt, str):
        prompt = change(case.prompt)
    else:
        prompt = tuple({**m, "content": change(m["content"])} for m in case.prompt)
    prefix = change(case.prefix)
    return prompt if prefix == case.prefix else AlignedPrompt(prompt, prefix=prefix)


def _key(word: str) -> str:
    return " ".join(word.split()).casefold()
