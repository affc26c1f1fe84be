"""The whole words of a prompt that can be resampled, and the tokens of their mentions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from dst.core.errors import InputError
from dst.models.text import Span, render
from dst.tracing.prepare import Prepared
from dst.tracing.replaced import is_content

Among = Literal["content", "all"]
Mentions = Literal["together", "apart"]

WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass(frozen=True)
class Word:
    """A word of the prompt, at all its mentions or at one.

    Attributes:
        text: As the prompt writes it first.
        spans: Its characters in the text that the model reads.
        positions: Its tokens.
    """

    text: str
    spans: tuple[Span, ...]
    positions: tuple[int, ...]


def words_of(
    tokenizer: Any, run: Prepared, among: Among = "content", mentions: Mentions = "together"
) -> tuple[list[Word], list[str]]:
    """The words that may be replaced, in the order of the prompt, and those that may not.

    Only what the user or the reply wrote. Left out: the word after which the answer is read, words
    that share a token with another, words that a yes/no twin changes.

    Raises:
        InputError: ``among`` or ``mentions`` has another value.
    """
    if among not in ("content", "all"):
        raise InputError(f"among is {among!r}", expected="content or all")
    if mentions not in ("together", "apart"):
        raise InputError(f"mentions is {mentions!r}", expected="together or apart")
    base = run.tokenized
    rendered = render(tokenizer, base.case)
    places = [
        (start + match.start(), start + match.end())
        for start, end in rendered.content
        for match in WORD.finditer(rendered.text[start:end])
    ]
    at = [tuple(base.encoding.positions([place])) for place in places]
    owners: dict[int, set[int]] = {}
    for i, positions in enumerate(at):
        for position in positions:
            owners.setdefault(position, set()).add(i)
    twin = run.variants.twin
    asked = {p for p, place in enumerate(twin.places) if place < 0 or twin.ids[place] != base.ids[p]
             } if twin is not None else set()  # fmt: skip
    groups: dict[object, list[int]] = {}
    left_out: dict[str, None] = {}
    for i, (start, end) in enumerate(places):
        text = rendered.text[start:end]
        if among == "content" and not is_content(text):
            continue
        if base.answer_position in at[i]:
            left_out[f"{text!r}: the answer is read after it"] = None
        elif not at[i] or any(len(owners[p]) > 1 for p in at[i]):
            left_out[f"{text!r}: it shares a token with another word"] = None
        elif asked & {*at[i]}:
            left_out[f"{text!r}: the twin question has another word there"] = None
        else:
            groups.setdefault(text.casefold() if mentions == "together" else i, []).append(i)
    words = [
        Word(
            rendered.text[slice(*places[group[0]])],
            tuple(places[i] for i in group),
            tuple(chain.from_iterable(at[i] for i in group)),
        )
        for group in groups.values()
    ]
    return words, list(left_out)
