"""Text that adapters share: lists in cells, spans that correspond, answers that do not overlap."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dst.core.case import AlignedPrompt, mentions
from dst.core.errors import InputError
from dst.studies.adapters.reading import Row

PRONOUNS = frozenset(
    """
    he she they him her them his hers their theirs himself herself themself themselves
    """.split()  # noqa: SIM905 - a list of words reads better as text
)

MISSING = "a cell that must not be empty is"


def literal_list(row: Row, column: str) -> list[Any]:
    """A list written as Python or JSON text, such as MemoTrap's ``"[' heavy.', ' fonder.']"``.

    Raises:
        InputError: The cell holds no list; names the row and the column.
    """
    value = row.values.get(column)
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    for read in (ast.literal_eval, json.loads):
        try:
            found = read(str(value).strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, (list, tuple, set, frozenset)):
            return list(found)
    raise InputError(
        f"{row}: the column {column} holds {str(value)[:60]!r}", expected="a list as text"
    )


def listed(value: Any, separator: str = "; ") -> list[str]:
    """Texts of a cell: a list as it is, or text that is split; empty ones are dropped."""
    parts = value if isinstance(value, (list, tuple)) else str(value or "").split(separator)
    return [part.strip() for part in map(str, parts) if part.strip()]


def text(row: Row, column: str) -> str:
    """A cell as text, "" where it is missing."""
    value = row.values.get(column)
    return "" if value is None else str(value)


def has(row: Row, *columns: str) -> bool:
    """Whether none of these cells is empty."""
    return all(text(row, column).strip() for column in columns)


def fold(value: str) -> str:
    """Text for comparing: case and runs of white space do not count."""
    return " ".join(value.split()).casefold()


def apart(
    plus: Iterable[str], minus: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Answers of both sides, each once and none on both; and how many were on both."""
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for forms, side in ((plus, ours), (minus, theirs)):
        for form in forms:
            if form.strip():
                side.setdefault(fold(form), form)
    both = set(ours) & set(theirs)
    kept = [tuple(form for key, form in side.items() if key not in both) for side in (ours, theirs)]
    return kept[0], kept[1], len(both)


def aligned(prompt: str, variant: str) -> AlignedPrompt:
    """A variant with the span in which it differs from the prompt named on both sides.

    The span is widened to whole words and then to the right until its first mention in either
    text is the one that is meant, for it is found again by its words. Spans are matched from the
    right, so that what is added there corresponds token by token.
    """
    ours, theirs = _words(prompt), _words(variant)
    left = 0
    while left < min(len(ours), len(theirs)) and ours[left] == theirs[left]:
        left += 1
    right = 0
    while right < min(len(ours), len(theirs)) - left and ours[-1 - right] == theirs[-1 - right]:
        right += 1
    for start, end in [(left, r) for r in range(right, -1, -1)] + [
        (b, right) for b in range(left - 1, -1, -1)
    ]:
        spans = []
        for whole, words in ((prompt, ours), (variant, theirs)):
            span = "".join(words[start : len(words) - end])
            begin = len("".join(words[:start])) + len(span) - len(span.lstrip())
            found = mentions(whole, span)
            if not span.strip() or not found or found[0][0] != begin:
                break
            spans.append(span.strip())
        if len(spans) == 2:
            return AlignedPrompt(variant, ((spans[0], spans[1]),))
    return AlignedPrompt(variant)


def _words(whole: str) -> list[str]:
    """Text cut into words, each with the white space before it and its punctuation apart."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+$", whole)


def question_of(prompt: str) -> str | None:
    """The last sentence that ends with a question mark."""
    asked = re.findall(r"[^.?!\n]*\?", prompt)
    return asked[-1].strip() if asked else None


def rest_after(sentence: str, word: str) -> str | None:
    """What follows a word's first mention in a sentence, without the final full stop."""
    places = mentions(sentence, word)
    rest = sentence[places[0][1] :].strip().rstrip(".") if places else ""
    return rest.strip(" ,") or None


def truth(value: Any) -> bool | None:
    """True or false however it is written, None where it is neither."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return known.get(str(value).strip().casefold())


def fields(**given: Any) -> Mapping[str, Any]:
    """Fields of a case, those that are empty left out."""
    return {name: value for name, value in given.items() if value not in (None, "", (), [])}


def first_of(row: Row, columns: Sequence[str]) -> str | None:
    """The first of some columns that the row has."""
    return next((column for column in columns if row.values.get(column) is not None), None)
