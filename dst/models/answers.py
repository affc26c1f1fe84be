"""Answers as tokens, where they stand: forms in place, and where two answers part (METHOD 0)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dst.core.case import unspaced
from dst.core.errors import TokenError
from dst.models.text import Encoding, Rendered, encode, nearest_words, unknown_id

CHANGES = "changes the prompt's own tokens"
"""Why a form cannot stand where it was put."""


@dataclass(frozen=True)
class Answer:
    """One form of an answer, and its tokens in place."""

    form: str
    ids: tuple[int, ...]


def forms_in_place(
    tokenizer: Any, rendered: Rendered, encoding: Encoding, forms: Sequence[str]
) -> tuple[tuple[Answer, ...], tuple[str, ...]]:
    """Tokenise answers where they stand: ids(prompt + form) minus ids(prompt).

    A form is read as it naturally stands there: with a space after a word, without one
    after a bracket or at the start of a line. Its variants (space, first capital) are added
    as far as they keep the prompt's own tokens, hold nothing unknown, decode back, and take
    no more tokens. No form is ever glued to a word.

    Returns:
        The forms that are used, those given first; and what was dropped, with reasons.

    Raises:
        TokenError: A given form cannot be tokenised in place.
    """
    natural: list[Answer] = []
    variants: list[Answer] = []
    dropped: list[str] = []
    for form in forms:
        own, *others = _spellings(rendered, form)
        ids, reason = _in_place(tokenizer, rendered, encoding, own)
        if reason:
            raise _no_form(tokenizer, rendered, form, reason)
        natural.append(Answer(own, ids))
        for spelling in others:
            other, reason = _in_place(tokenizer, rendered, encoding, spelling)
            if not reason and len(other) > len(ids):
                reason = "takes more tokens than the form as given"
            if reason:
                dropped.append(f"{spelling!r}: {reason}")
            else:
                variants.append(Answer(spelling, other))
    used: dict[tuple[int, ...], Answer] = {}
    for answer in (*natural, *variants):
        used.setdefault(answer.ids, answer)
    return tuple(used.values()), tuple(dict.fromkeys(dropped))


def first_divergence(
    contextual: Sequence[Answer], associative: Sequence[Answer]
) -> tuple[tuple[int, ...], tuple[Answer, ...], tuple[Answer, ...], tuple[str, ...]]:
    """Where the two answers part: the tokens they share, and the forms that part right there.

    Returns:
        The shared leading tokens of the first given forms (teacher-forced), the forms of
        each answer that begin with them and go on differently, and what was dropped.

    Raises:
        TokenError: The first given forms are equal, or one is a prefix of the other.
    """
    if not associative:
        return (), tuple(contextual), (), ()
    plus, minus = contextual[0], associative[0]
    n_shared = 0
    while plus.ids[n_shared : n_shared + 1] == minus.ids[n_shared : n_shared + 1]:
        n_shared += 1
        if n_shared == min(len(plus.ids), len(minus.ids)):
            raise TokenError(
                f"The answers {plus.form!r} and {minus.form!r} are the same tokens, or one "
                "begins with the other",
                expected="two answers that part at some token",
            )
    shared = plus.ids[:n_shared]
    dropped: list[str] = []

    def parting(answers: Sequence[Answer]) -> list[Answer]:
        here = [a for a in answers if a.ids[:n_shared] == shared and len(a.ids) > n_shared]
        dropped.extend(
            f"{a.form!r}: parts from the other answer at another token"
            for a in answers
            if a not in here
        )
        return here

    kept_plus, kept_minus = parting(contextual), parting(associative)
    # A further form of one answer may begin like a form of the other: then it says neither.
    begin_plus, begin_minus = ({a.ids[n_shared] for a in kept} for kept in (kept_plus, kept_minus))
    both = begin_plus & begin_minus
    dropped.extend(
        f"{a.form!r}: begins like a form of the other answer"
        for a in (*kept_plus, *kept_minus)
        if a.ids[n_shared] in both and a not in (plus, minus)
    )
    return (
        shared,
        tuple(a for a in kept_plus if a is plus or a.ids[n_shared] not in both),
        tuple(a for a in kept_minus if a is minus or a.ids[n_shared] not in both),
        tuple(dropped),
    )


def _spellings(rendered: Rendered, form: str) -> list[str]:
    """A form and its variants, the natural one at the end of this text first."""
    bare = form.strip()
    capital = bare[0].upper() + bare[1:]
    plain, spaced = [bare, capital], [f" {bare}", f" {capital}"]
    before, last = rendered.text[-2:-1], rendered.text[-1]
    if last.isspace():
        order = plain  # a second space would be a text nobody writes
    elif rendered.fresh or unspaced(last) or unspaced(bare[0]) or _opens(before, last):
        order = plain + spaced
    elif last.isalnum() and bare[0].isalnum():
        order = spaced  # glued to the prompt's last word it would be another word
    else:
        order = spaced + plain
    lead = form[: len(form) - len(form.lstrip())]
    if lead and not last.isspace():  # the space or new line that was asked for
        order = [(lead if lead.strip(" ") else " ") + bare, *order]
    return list(dict.fromkeys(order))


def _opens(before: str, last: str) -> bool:
    """Whether a character stands right before the next word: brackets, dashes, opening quotes."""
    if last in "\"'":
        return not before.strip() or _opens("", before)
    return unicodedata.category(last) in ("Ps", "Pi", "Pd", "Pc", "Sc") or last in "/#@"


def _in_place(
    tokenizer: Any, rendered: Rendered, encoding: Encoding, form: str
) -> tuple[tuple[int, ...], str]:
    whole = encode(tokenizer, rendered.text + form, special=rendered.special).ids
    ids = whole[len(encoding.ids) :]
    if not ids or whole[: len(encoding.ids)] != encoding.ids:
        return (), CHANGES
    if unknown_id(tokenizer) in ids:
        return (), "is unknown to the tokenizer"
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if text.strip() != form.strip():
        return (), f"decodes to {text!r}"
    return ids, ""


def _no_form(tokenizer: Any, rendered: Rendered, form: str, reason: str) -> TokenError:
    if reason != CHANGES:
        near = ", ".join(nearest_words(tokenizer, form.strip()))
        return TokenError(
            f"The model does not know the answer {form!r}: it {reason} (near it: {near})",
            do="Give an answer that it can say",
        )
    if rendered.text[-1].isspace():
        return TokenError(
            f"The answer {form!r} cannot follow a prompt that ends in white space",
            do="Remove the space at the end of the prompt: it belongs to the answer",
        )
    return TokenError(
        f"The answer {form!r} cannot follow this prompt: it {reason}",
        expected="an answer that leaves the prompt's tokens as they are",
        do="End the prompt at the end of a word",
    )
