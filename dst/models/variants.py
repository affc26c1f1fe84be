"""The variants of a case as tokens: x_0, x_sub, x_0,sub, swap, clean (METHOD 0).

A variant has as many tokens as the prompt, so that position p means the same word in both;
or it says which of its spans correspond, and positions are matched through those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dst.core.case import AlignedPrompt, Variant, mentions, prompt_of
from dst.core.errors import TokenError
from dst.models.draws import FUNCTION_WORDS, draw_variants, shipped_nouns
from dst.models.text import Encoding, encode, refuse_unknown, render, token_texts
from dst.models.tokens import TokenizedCase

__all__ = [
    "FUNCTION_WORDS",
    "Row",
    "Variants",
    "combined",
    "draw_variants",
    "shipped_nouns",
    "show",
    "tokenize_variants",
]


@dataclass(frozen=True)
class Row:
    """A variant's token ids, and where in it each position of the prompt is.

    Attributes:
        ids: Its own token ids.
        places: For each position of the prompt, the position here; -1 where there is none.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]

    @classmethod
    def same_length(cls, ids: Sequence[int]) -> Row:
        """A row whose position p is position p of the prompt."""
        return cls(tuple(ids), tuple(range(len(ids))))

    @property
    def is_same_length(self) -> bool:
        """Whether position p here is position p of the prompt, for every p."""
        return self.places == tuple(range(len(self.ids)))

    @property
    def coverage(self) -> float:
        """Share of the prompt's positions that are matched."""
        return sum(place >= 0 for place in self.places) / len(self.places)


@dataclass(frozen=True)
class Variants:
    """Every variant of one case, as rows of tokens matched to the prompt's positions.

    Attributes:
        neutral: Draws of x_0, the cue replaced by a neutral one.
        substitute: Draws of x_sub, the subject replaced by an unrelated noun, cue kept.
        neutral_substitute: Draws of x_0,sub, both at once.
        swap: Draws of x_swap, the cue of the other sense.
        clean: Draws of x_clean that are matched: the twin with neutral distractors.
        shorter: Draws of x_clean of another length, compared by outcome only.
        twin: The twin of a yes/no prompt, which asks for the other sense.
    """

    neutral: tuple[Row, ...]
    substitute: tuple[Row, ...]
    neutral_substitute: tuple[Row, ...]
    swap: tuple[Row, ...]
    clean: tuple[Row, ...]
    shorter: tuple[tuple[int, ...], ...]
    twin: Row | None = None


def tokenize_variants(tokenizer: Any, base: TokenizedCase) -> Variants:
    """Every variant that the case gives, with its prefix and the shared answer tokens.

    Raises:
        TokenError: A variant has another number of tokens than the prompt and no alignment,
            its alignment does not fit, or the neutral and the substitute variant change the
            same position; both rows are shown.
    """
    case = base.case

    def rows(name: str, variants: Sequence[Variant]) -> tuple[Row, ...]:
        return tuple(_row(tokenizer, base, name, variant) for variant in variants)

    neutral, substitute = rows("neutral", case.neutral), rows("substitute", case.substitute)
    clean = [_ids(tokenizer, base, variant) for variant in case.clean]
    matched = [
        _row(tokenizer, base, "clean", variant)
        for variant, ids in zip(case.clean, clean, strict=True)
        if len(ids) == len(base.ids) or (isinstance(variant, AlignedPrompt) and variant.aligned)
    ]
    return Variants(
        neutral=neutral,
        substitute=substitute,
        neutral_substitute=combined(tokenizer, base.ids, neutral, substitute),
        swap=rows("swap", case.swap),
        clean=tuple(matched),
        shorter=tuple(ids for ids in clean if len(ids) != len(base.ids)),
        twin=None
        if case.twin_question is None
        else _row(tokenizer, base, "twin", case.twin_question),
    )


def combined(
    tokenizer: Any,
    ids: Sequence[int],
    neutral: Sequence[Row],
    other: Sequence[Row],
    name: str = "substitute",
) -> tuple[Row, ...]:
    """x_0 and another variant at once: its token where it differs from x, else that of x_0.

    With the substitute variant this is x_0,sub. Draws are paired in order; the shorter
    list starts again from its beginning.

    Raises:
        TokenError: Both change some position, or both have another length than the prompt;
            both rows are shown.
    """
    if not neutral or not other:
        return ()
    draws = []
    for i in range(max(len(neutral), len(other))):
        zero, sub = neutral[i % len(neutral)], other[i % len(other)]
        longer, same = (zero, sub) if sub.is_same_length else (sub, zero)
        changed = (
            [p for p in range(len(ids)) if same.ids[p] != ids[p]] if same.is_same_length else []
        )
        if not same.is_same_length or any(
            longer.places[p] < 0 or longer.ids[longer.places[p]] != ids[p] for p in changed
        ):
            width = max(len("neutral"), len(name)) + 1
            raise TokenError(
                f"The neutral and the {name} variant change the same token:\n"
                f"  {'neutral:':{width}} {show(tokenizer, zero.ids)}\n"
                f"  {name + ':':{width}} {show(tokenizer, sub.ids)}\n",
                expected="variants that change different tokens, one of them as long as the prompt",
            )
        both = list(longer.ids)
        for p in changed:
            both[longer.places[p]] = same.ids[p]
        draws.append(Row(tuple(both), longer.places))
    return tuple(draws)


def show(tokenizer: Any, ids: Sequence[int]) -> str:
    """A row of tokens as text, one bar between two of them."""
    return "|".join(token_texts(tokenizer, ids))


def _ids(tokenizer: Any, base: TokenizedCase, variant: Variant) -> tuple[int, ...]:
    """A variant's token ids, with the shared answer tokens."""
    return _encoded(tokenizer, base, variant).ids + base.shared


def _encoded(tokenizer: Any, base: TokenizedCase, variant: Variant) -> Encoding:
    prefix = variant.prefix if isinstance(variant, AlignedPrompt) else None
    rendered = render(tokenizer, base.case, prompt_of(variant), prefix)
    encoding = encode(tokenizer, rendered.text, special=rendered.special)
    refuse_unknown(tokenizer, encoding)
    return encoding


def _row(tokenizer: Any, base: TokenizedCase, name: str, variant: Variant) -> Row:
    """A variant matched to the prompt's positions.

    Raises:
        TokenError: It has another number of tokens and no alignment that fits.
    """
    ids = _ids(tokenizer, base, variant)
    if isinstance(variant, AlignedPrompt) and variant.aligned:
        return _aligned(tokenizer, base, name, variant)
    if len(ids) != len(base.ids):
        raise _unaligned(
            tokenizer,
            base,
            name,
            ids,
            f"The {name} variant has {len(ids)} tokens and the prompt {len(base.ids)}",
        )
    return Row.same_length(ids)


def _aligned(tokenizer: Any, base: TokenizedCase, name: str, variant: AlignedPrompt) -> Row:
    """Match tokens outside the spans one to one, inside each span from the right."""
    encoding = _encoded(tokenizer, base, variant)
    ids = encoding.ids + base.shared
    ours, theirs = list(range(len(base.ids))), list(range(len(ids)))
    places = [-1] * len(base.ids)
    for from_text, to_text in variant.aligned:
        here = base.encoding.positions(mentions(base.encoding.text, from_text)[:1])
        there = encoding.positions(mentions(encoding.text, to_text)[:1])
        if not here or not there:
            absent = from_text if not here else to_text
            raise TokenError(
                f"The alignment of the {name} variant names {absent!r}, which is not there",
                expected="a span of the prompt, and a span of the variant",
            )
        for p, q in zip(reversed(here), reversed(there), strict=False):
            places[p] = q
        ours = [p for p in ours if p not in here]
        theirs = [q for q in theirs if q not in there]
    if [base.ids[p] for p in ours] != [ids[q] for q in theirs]:
        raise _unaligned(
            tokenizer, base, name, ids, f"Outside its spans the {name} variant is another text"
        )
    for p, q in zip(ours, theirs, strict=True):
        places[p] = q
    return Row(ids, tuple(places))


def _unaligned(
    tokenizer: Any, base: TokenizedCase, name: str, ids: Sequence[int], found: str
) -> TokenError:
    return TokenError(
        f"{found}:\n  prompt:  {show(tokenizer, base.ids)}\n  {name}: {show(tokenizer, ids)}\n",
        expected="as many tokens as the prompt, or an alignment of its spans",
        do="Choose words that the tokenizer splits into as many tokens, or say which spans "
        "correspond ('aligned')",
    )
