"""Quick cases for studies: a small random model that knows a few words, and prompts of them."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from dst.core.case import Case
from tests import tiny

NOUNS, PLACES = ("bass", "bat", "crane", "guitar", "drum"), ("lake", "concert", "harbor", "river")
BUSY = "the people play a song . "
UNKNOWN = "xylophone"
"""A word that the model does not know."""


@cache
def model() -> Any:
    """A random model of three blocks."""
    return tiny.backend("llama", tiny.word_level)


def saved(folder: Path) -> Path:
    """The same model in a folder."""
    made = model()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


def cases(n: int = 8, *, flows: int = 1) -> list[Case]:
    """Cases of two lengths with two draws each.

    The fourth cannot be tokenised, the sixth has no cue. With ``flows=5`` only every fifth has
    one, which makes the others quick.
    """
    made = []
    pairs = product(("", BUSY), ("Anna", "Ben"), NOUNS, PLACES)
    for i, (busy, name, noun, place) in zip(range(n), _alternating(list(pairs)), strict=False):
        text = f"{busy}{name} is at the {place} . {name} sees a {noun} . the {noun} is a"
        bare = i == 5 or i % flows
        made.append(
            Case(
                prompt=text.replace(noun, UNKNOWN) if i == 3 else text,
                contextual="fish",
                associative="instrument",
                subject=UNKNOWN if i == 3 else noun,
                cue=() if bare else f"at the {place}",
                neutral=() if bare else [text.replace(place, p) for p in ("city", "bank")],
                substitute=[text.replace(noun, w) for w in ("song", "money")],
                distractor=busy.strip() or (),
                context_words=("water", "river") if place != "river" else ("water", "lake"),
                competing_words=("song", "play") if not busy else ("money", "bank"),
                group=noun,
                case_id=f"case-{i}",
            )
        )
    return made


def _alternating(pairs: list[Any]) -> list[Any]:
    """Short and long prompts in turn, so that a batch's order is not the table's."""
    half = len(pairs) // 2
    return [pair for both in zip(pairs[:half], pairs[half:], strict=True) for pair in both]


def write(path: Path, some: list[Case]) -> Path:
    """A cases file."""
    path.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in some), "utf-8")
    return path
