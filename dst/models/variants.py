"""The variants of a case as tokens: x_0, x_sub, x_0,sub, swap, clean (METHOD 0).

Every variant but the clean one has as many tokens as the prompt, so that position p means
the same word in all of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from dst.core.case import Case, Prompt, mentions
from dst.core.errors import TokenError
from dst.models.tokens import TokenizedCase, encode, refuse_unknown, render, token_texts

FUNCTION_WORDS = frozenset(
    "a an the of at in on to from by for with and or but as is was are were be been has have had "
    "this that these those it its he she they his her their there then while who which what".split()
)
"""Words of a cue that carry no sense of their own and stay when a neutral cue is drawn."""


@dataclass(frozen=True)
class Variants:
    """Token ids of every variant of one case; all but ``clean`` as long as the prompt.

    Attributes:
        neutral: Draws of x_0, the cue replaced by a neutral one.
        substitute: Draws of x_sub, the subject replaced by an unrelated noun, cue kept.
        neutral_substitute: Draws of x_0,sub, both at once.
        swap: Draws of x_swap, the cue of the other sense.
        clean: x_clean, distractors removed; any length.
    """

    neutral: tuple[tuple[int, ...], ...]
    substitute: tuple[tuple[int, ...], ...]
    neutral_substitute: tuple[tuple[int, ...], ...]
    swap: tuple[tuple[int, ...], ...]
    clean: tuple[tuple[int, ...], ...]


def tokenize_variants(tokenizer: Any, base: TokenizedCase) -> Variants:
    """Every variant that the case gives, with its prefix and the shared answer tokens.

    Raises:
        TokenError: A variant has another number of tokens than the prompt, or the neutral
            and the substitute variant change the same position; both rows are shown.
    """
    case = base.case

    def rows(name: str, prompts: Sequence[Prompt], *, aligned: bool) -> tuple[tuple[int, ...], ...]:
        return tuple(_variant(tokenizer, base, name, p, aligned=aligned) for p in prompts)

    neutral = rows("neutral", case.neutral, aligned=True)
    substitute = rows("substitute", case.substitute, aligned=True)
    return Variants(
        neutral=neutral,
        substitute=substitute,
        neutral_substitute=combined(tokenizer, base.ids, neutral, substitute),
        swap=rows("swap", case.swap, aligned=True),
        clean=rows("clean", case.clean, aligned=False),
    )


def combined(
    tokenizer: Any,
    ids: Sequence[int],
    neutral: Sequence[Sequence[int]],
    other: Sequence[Sequence[int]],
    name: str = "substitute",
) -> tuple[tuple[int, ...], ...]:
    """x_0 and another variant at once: its token where it differs from x, else that of x_0.

    With the substitute variant this is x_0,sub. Draws are paired in order; the shorter
    list starts again from its beginning.

    Raises:
        TokenError: Both change some position; both rows are shown.
    """
    if not neutral or not other:
        return ()
    draws = []
    for i in range(max(len(neutral), len(other))):
        zero, sub = neutral[i % len(neutral)], other[i % len(other)]
        if any(x != z and x != s for x, z, s in zip(ids, zero, sub, strict=True)):
            width = max(len("neutral"), len(name)) + 1
            raise TokenError(
                f"The neutral and the {name} variant change the same token:\n"
                f"  {'neutral:':{width}} {show(tokenizer, zero)}\n"
                f"  {name + ':':{width}} {show(tokenizer, sub)}\n",
                expected="variants that change different tokens",
            )
        draws.append(tuple(s if s != x else z for x, z, s in zip(ids, zero, sub, strict=True)))
    return tuple(draws)


def draw_variants(
    tokenizer: Any, base: TokenizedCase, *, nouns: Sequence[str] = (), n: int = 8, seed: int = 0
) -> Case:
    """The case with the variants that it lacks, drawn by the stated rule (METHOD 0).

    Neutral: every content word of the cue becomes a neutral noun. Substitute: every
    mention of the subject becomes a neutral noun. A noun is used if the prompt keeps its
    number of tokens and all its other tokens. Without a cue (subject) there is no neutral
    (substitute) variant.

    Args:
        tokenizer: The model's tokenizer.
        base: The case, tokenised.
        nouns: The nouns to draw from; by default the shipped list.
        n: Draws of each.
        seed: Seed of the draws.

    Raises:
        TokenError: Fewer than two nouns fit; says which words need replacing.
    """
    case = base.case
    nouns = tuple(nouns) or shipped_nouns()
    taken = {word.casefold() for word in re.findall(r"\w+", case.text)}
    answers = {form.strip().casefold() for form in (*case.contextual, *case.associative)}
    fresh = [noun for noun in nouns if noun.casefold() not in taken | answers]
    changes: dict[str, Any] = {}
    if case.cue and not case.neutral:
        words = [w for span in case.cue for w in re.findall(r"\w+", span)]
        subject = {w.casefold() for w in re.findall(r"\w+", case.subject or "")}
        content = [w for w in words if w.casefold() not in FUNCTION_WORDS | subject]
        changes["neutral"] = _drawn(tokenizer, base, "neutral", content, fresh, n, seed)
    if case.subject and not case.substitute:
        changes["substitute"] = _drawn(
            tokenizer, base, "substitute", [case.subject], fresh, n, seed + 1
        )
    return case.replace(**changes, case_id=case.case_id) if changes else case


def shipped_nouns() -> tuple[str, ...]:
    """200 frequent concrete nouns that belong to no particular topic."""
    text = resources.files("dst.models").joinpath("neutral_nouns.txt").read_text("utf-8")
    return tuple(line for line in text.split() if line)


def show(tokenizer: Any, ids: Sequence[int]) -> str:
    """A row of tokens as text, one bar between two of them."""
    return "|".join(token_texts(tokenizer, ids))


def _variant(
    tokenizer: Any, base: TokenizedCase, name: str, prompt: Prompt, *, aligned: bool
) -> tuple[int, ...]:
    rendered = render(tokenizer, base.case, prompt)
    encoding = encode(tokenizer, rendered.text, special=rendered.special)
    refuse_unknown(tokenizer, encoding)
    ids = encoding.ids + base.shared
    if aligned and len(ids) != len(base.ids):
        raise TokenError(
            f"The {name} variant has {len(ids)} tokens and the prompt {len(base.ids)}:\n"
            f"  prompt:  {show(tokenizer, base.ids)}\n  {name}: {show(tokenizer, ids)}\n",
            expected="as many tokens as the prompt",
            do="Choose words that the tokenizer splits into as many tokens",
        )
    return ids


def _drawn(
    tokenizer: Any,
    base: TokenizedCase,
    name: str,
    words: Sequence[str],
    nouns: Sequence[str],
    n: int,
    seed: int,
) -> tuple[Prompt, ...]:
    """``n`` prompts with every mention of ``words`` replaced by nouns that fit in place."""
    case = base.case
    order = list(nouns)
    random.Random(seed).shuffle(order)
    fitting: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        fitting[word] = [noun for noun in order if _fits(tokenizer, base, word, noun)]
    if not fitting or min(map(len, fitting.values())) < 2:
        short = [word for word, fits in fitting.items() if len(fits) < 2]
        raise TokenError(
            f"No {name} variant can be drawn: too few neutral nouns have as many tokens as "
            f"{short[0] if short else 'the cue'!r}",
            do=f"Give {name} variants of your own",
        )
    draws = []
    for i in range(n):
        prompt = case.prompt
        for offset, (word, fits) in enumerate(fitting.items()):
            prompt = _replace(prompt, word, fits[(i + offset) % len(fits)])
        draws.append(prompt)
    return tuple(draws)


def _fits(tokenizer: Any, base: TokenizedCase, word: str, noun: str) -> bool:
    """Whether ``noun`` for ``word`` keeps the number of tokens and all the others."""
    changed = _replace(base.case.prompt, word, noun)
    rendered = render(tokenizer, base.case, changed)
    ids = encode(tokenizer, rendered.text, special=rendered.special).ids + base.shared
    if len(ids) != len(base.ids) or getattr(tokenizer, "unk_token_id", None) in ids:
        return False
    touched = set(base.encoding.positions(mentions(base.encoding.text, word)))
    return all(
        old == new or i in touched
        for i, (old, new) in enumerate(zip(base.ids, ids, strict=True))
    )


def _replace(prompt: Prompt, word: str, noun: str) -> Prompt:
    if not isinstance(prompt, str):
        return tuple({**m, "content": _swap_words(m["content"], word, noun)} for m in prompt)
    return _swap_words(prompt, word, noun)


def _swap_words(text: str, word: str, noun: str) -> str:
    for start, end in reversed(mentions(text, word)):
        capital = text[start].isupper()
        text = text[:start] + (noun.capitalize() if capital else noun) + text[end:]
    return text
