"""MemoTrap: an instruction that asks for another ending than the memorised one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dst.core.errors import InputError
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import (
    MISSING,
    aligned,
    fields,
    has,
    literal_list,
    question_of,
    text,
)

NEEDS = frozenset(("prompt", "classes", "answer_index"))
_ENDING = re.compile(r'ends in the word "([^"]+)"')
_QUOTED = re.compile(r'"([^"]+)"')
_TRANSLATED = re.compile(r"into English\.\n(.+)\nto:\n", re.DOTALL)
_EVENT = re.compile(r"^(What was [^:\n]*): *(.*)")


def convert(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """One case a row: ``answer_index`` is the ending asked for, the other is the memorised one."""
    for row in rows:
        if not has(row, *NEEDS):
            yield Left(row, MISSING)
            continue
        try:
            classes = [str(ending) for ending in literal_list(row, "classes")]
            wanted = int(text(row, "answer_index"))
        except (InputError, ValueError):
            yield Left(row, "classes is no list of two endings, or answer_index no number")
            continue
        if len(classes) != 2 or wanted not in (0, 1):
            yield Left(row, "classes is no list of two endings, or answer_index no number")
            continue
        yield _case(row, classes[wanted], classes[1 - wanted])


def _case(row: Row, right: str, wrong: str) -> Made:
    prompt, derived = text(row, "prompt"), []
    if right.rstrip().endswith(".") and wrong.rstrip().endswith("."):
        right, wrong = right.rstrip().rstrip("."), wrong.rstrip().rstrip(".")
        derived.append("contextual, associative: the final full stop is dropped")
    cue, swap, stem = None, None, prompt.rsplit("\n", 1)[-1].strip()
    lacking = ["subject: a memorised text has no word of its own that carries the association"]
    if found := _ENDING.search(prompt):
        cue = found[1]
        swap = prompt[: found.start(1)] + wrong.strip() + prompt[found.end(1) :]
        derived += [
            "cue: the word that the instruction asks for",
            "swap: the instruction asks for the memorised ending",
        ]
        stem = prompt[found.end() :].lstrip(": ")
    elif found := _TRANSLATED.search(prompt):
        cue = found[1].strip()
        derived.append("cue: the sentence to translate")
    elif found := _EVENT.search(prompt):
        cue, stem = found[1].strip(), found[2].strip()
        derived.append("cue: the question that asks for what was believed before")
    elif found := _QUOTED.search(prompt):
        cue, stem = found[1], prompt[found.end() :].lstrip(": ")
        derived.append("cue: the quoted words of the instruction")
    elif cue := question_of(prompt):
        stem = prompt.partition(cue)[0].strip()
        derived.append("cue: the question that asks for what was believed before")
    if swap is None:
        lacking.append("swap: the instruction for the memorised ending cannot be made from it")
    return Made(
        row,
        fields(
            prompt=prompt,
            contextual=right,
            associative=wrong,
            cue=cue,
            swap=aligned(prompt, swap) if swap else None,
            group=stem,
        ),
        tuple(derived),
        tuple(lacking),
    )
