"""Racing-Thoughts rows: an ambiguous word, its cue, and a yes/no question about one sense.

Columns: prompt, label, object, cue, verbalization, counterfactual_verbalization. Users of these
rows disagree on ``verbalization``: some read it as the sense that the prompt asks about, some as
the sense that is right. So each row is asked: the sense asked about is the verbalization that
stands in the prompt. What the whole file's reading is, the report says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dst.core.case import mentions
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import MISSING, aligned, fields, has, question_of, text, truth

SENSES = ("verbalization", "counterfactual_verbalization")


def convert(
    rows: Sequence[Row], detected: list[str], *, twins: str = "equal"
) -> Iterator[Made | Left]:
    """One case a row: the label says whether yes is right.

    Args:
        rows: The rows.
        detected: Takes the sentences on what ``verbalization`` means here.
        twins: ``equal``: the twin question (the other sense) is made where both senses have as
            many words; ``always``; ``never``.
    """
    detected += _reading(rows)
    swaps = _swaps(rows)
    for row in rows:
        right = truth(row.values.get("label"))
        if not has(row, "prompt"):
            yield Left(row, MISSING)
            continue
        if right is None:
            yield Left(row, "the label is neither true nor false")
            continue
        prompt, derived, lacking = text(row, "prompt"), [], []
        words = ("true", "false") if "true or false" in prompt.casefold() else ("yes", "no")
        derived.append(f"contextual, associative: {words[0]} or {words[1]}, as the label says")
        question = question_of(prompt)
        derived += ["question: the last sentence with a question mark"] if question else []
        twin = None
        asked = _asked(row)
        if asked is None:
            lacking.append("twin_question: the sense asked about cannot be told from the prompt")
        elif twins == "never" or (twins == "equal" and not _equal(row)):
            lacking.append("twin_question: the two senses have unequal numbers of words")
        else:
            other = SENSES[1 - SENSES.index(asked)]
            twin = _replaced(prompt, text(row, asked), text(row, other))
            derived.append("twin_question: the other sense in place of the one asked about")
        swap = swaps.get((row.file, row.number))
        if swap:
            derived.append("swap: the row that differs in its cue alone and has the other label")
        else:
            lacking.append("swap: no row differs in its cue alone")
        yield Made(
            row,
            fields(
                prompt=prompt,
                contextual=words[0] if right else words[1],
                associative=words[1] if right else words[0],
                subject=text(row, "object"),
                cue=text(row, "cue"),
                question=question,
                swap=aligned(prompt, swap) if swap else None,
                twin_question=twin,
                group=text(row, "object"),
            ),
            tuple(derived),
            tuple(lacking),
            extra={"label": right, "asked": text(row, asked) if asked else None},
        )


def _asked(row: Row) -> str | None:
    """The column whose sense stands in the prompt; None where both do or neither does."""
    stand = [name for name in SENSES if text(row, name) and mentions_of(row, name)]
    if len(stand) == 2:  # one may be part of the other: "fish" in "kind of fish"
        one, two = (text(row, name).casefold() for name in SENSES)
        stand = [SENSES[0] if two in one else SENSES[1]] if one != two and _nested(one, two) else []
    return stand[0] if len(stand) == 1 else None


def mentions_of(row: Row, column: str) -> bool:
    """Whether a column's text stands in the prompt."""
    return bool(mentions(text(row, "prompt"), text(row, column)))


def _nested(one: str, two: str) -> bool:
    return one in two or two in one


def _equal(row: Row) -> bool:
    return len(text(row, SENSES[0]).split()) == len(text(row, SENSES[1]).split())


def _replaced(prompt: str, old: str, new: str) -> str:
    start, end = mentions(prompt, old)[-1]
    return f"{prompt[:start]}{new}{prompt[end:]}"


def _reading(rows: Sequence[Row]) -> list[str]:
    """How many rows ask about ``verbalization``, by label, and what that makes of the column."""
    n: dict[tuple[bool, str], int] = {}
    for row in rows:
        right, asked = truth(row.values.get("label")), _asked(row)
        if right is not None and asked:
            n[right, asked] = n.get((right, asked), 0) + 1
    here, other = SENSES
    yes = (n.get((True, here), 0), n.get((True, other), 0))
    no = (n.get((False, here), 0), n.get((False, other), 0))
    counts = (
        f"the prompt asks about `verbalization` in {yes[0]} of {sum(yes)} rows labelled true and "
        f"in {no[0]} of {sum(no)} labelled false"
    )
    if not sum(yes) + sum(no):
        return ["what `verbalization` means cannot be told: neither sense stands in the prompts"]
    if yes[1] + no[1] == 0:
        return [f"`verbalization` is the sense asked about: {counts}"]
    if yes[1] + no[0] == 0:
        return [f"`verbalization` is the right sense: {counts}"]
    if yes[0] + no[0] == 0:
        return [f"`verbalization` is never the sense asked about: {counts}"]
    return [f"`verbalization` follows no rule here, so each row was read by itself: {counts}"]


def _swaps(rows: Sequence[Row]) -> dict[tuple[str, int], str]:
    """For each row the prompt of another that differs in its cue alone and in its label."""
    frames: dict[tuple[str, str], list[tuple[Row, bool | None]]] = {}
    for row in rows:
        cue = text(row, "cue")
        if cue and cue in text(row, "prompt"):
            frame = text(row, "prompt").replace(cue, "\0"), text(row, "object")
            frames.setdefault(frame, []).append((row, truth(row.values.get("label"))))
    found: dict[tuple[str, int], str] = {}
    for alike in frames.values():
        for row, label in alike:
            for other, its in alike:
                if text(other, "cue") != text(row, "cue") and {label, its} == {True, False}:
                    found.setdefault((row.file, row.number), text(other, "prompt"))
    return found
