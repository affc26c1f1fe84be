"""A twin for a yes/no prompt: the same prompt, its question about the other category."""

from __future__ import annotations

import re
from typing import Any

from dst.core.case import Case, mentions
from dst.core.errors import TokenError
from dst.models.tokens import tokenize_case
from dst.models.variants import tokenize_variants

PROPOSED = "proposed"
"""What to give as a twin to accept the one that is proposed."""

_NOUN = r"(?:(?:an?|the)\s+)?\w+"
_CHOICE = re.compile(rf"\b({_NOUN})\s+or\s+({_NOUN})", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)


def is_yes_no(case: Case) -> bool:
    """Whether both answers are yes or no."""
    answers = {form.strip().casefold() for form in (*case.contextual, *case.associative)}
    return bool(case.contextual) and answers <= {"yes", "no"}


def propose_twin(tokenizer: Any, case: Case) -> tuple[str | None, str]:
    """The twin of a yes/no prompt, or None and why there is none.

    The prompt has to name both categories as a choice outside its question: "a bass is a fish
    or an instrument". The one of the two that the question names is replaced there by the
    other, article and all. The question is ``case.question``, or else the last sentence of the
    prompt that ends in "?". A twin has as many tokens as the prompt.
    """
    if case.twin_question is not None:
        return None, "it was given"
    if not is_yes_no(case):
        return None, "this is no yes/no prompt"
    if not isinstance(case.prompt, str):
        return None, "the prompt is a list of messages"
    span = _question(case)
    if span is None:
        return None, "the prompt has no question"
    start, end = span
    question, outside = case.prompt[start:end], f"{case.prompt[:start]}\n{case.prompt[end:]}"
    found: list[str] = []
    for match in _CHOICE.finditer(outside):
        for asked, other in ((match[1], match[2]), (match[2], match[1])):
            place = _asked(question, asked)
            if place is not None:
                (a, b), with_article = place
                put = other if with_article else _ARTICLE.sub("", other, count=1)
                found.append(
                    f"{case.prompt[:start]}{question[:a]}{put}{question[b:]}{case.prompt[end:]}"
                )
    different = list(dict.fromkeys(found))
    if len(different) != 1:
        what = "several choices" if different else "no choice of two categories with the asked one"
        return None, f"the prompt names {what}"
    try:
        with_twin = case.replace(twin_question=different[0])
        tokenize_variants(tokenizer, tokenize_case(tokenizer, with_twin))
    except TokenError:
        return None, "the other category has another number of tokens"
    return different[0], ""


def _question(case: Case) -> tuple[int, int] | None:
    """Where the question is in the prompt."""
    text = str(case.prompt)
    if case.question is not None:
        places = mentions(text, case.question)
        return places[-1] if places else None
    asked = list(re.finditer(r"[^.!?\n]+\?", text))
    return asked[-1].span() if asked else None


def _asked(question: str, category: str) -> tuple[tuple[int, int], bool] | None:
    """Where the question names a category, and whether with its article."""
    bare = _ARTICLE.sub("", category, count=1)
    for text in dict.fromkeys((category, bare)):
        if places := mentions(question, text):
            return places[-1], text != bare
    return None
