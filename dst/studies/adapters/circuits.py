"""Prompts whose circuits are known: indirect objects, greater-than, agreement, and MIB's.

They come with a counterfactual prompt, which is what a swap or neutral variant is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dst.core.case import mentions
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import MISSING, aligned, fields, has, text

IOI = frozenset(("clean", "corrupted", "corrupted_hard"))
IOI_BARE = frozenset(("prompt", "answer"))
GREATER = frozenset(("clean", "corrupted", "label"))
AGREEMENT = frozenset(("clean_prefix", "patch_prefix", "clean_answer", "patch_answer"))
MIB = frozenset(("prompt", "choices", "answerKey"))
TEMPLATES = frozenset(("template", "names", "places", "objects"))


def indirect_object(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """IOI of EAP-IG: the name said once is right, the name said twice is the association.

    ``*_idx`` are one tokenizer's ids and are not read: the names are taken from the text.
    """
    for row in rows:
        if not has(row, *IOI):
            yield Left(row, MISSING)
            continue
        clean, flipped = text(row, "clean"), text(row, "corrupted_hard")
        said = _difference(clean, flipped)
        if said is None or not mentions(clean, said[1]):
            yield Left(row, "the two counterfactuals do not exchange one name")
            continue
        twice, once = said
        yield Made(
            row,
            fields(
                prompt=clean,
                contextual=once,
                associative=twice,
                subject=twice,
                swap=aligned(clean, flipped),
                neutral=aligned(clean, text(row, "corrupted")),
                group=" / ".join(sorted(said)),
            ),
            (
                "contextual, associative: the name said once, the name said twice",
                "subject: the name said twice",
                "swap: corrupted_hard",
                "neutral: corrupted",
            ),
            (NO_IOI_CUE,),
        )


NO_IOI_CUE = "cue: which name is said twice has no words of its own"


def indirect_object_bare(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """IOI rows of prompt and answer: the name that is said twice is found in the prompt."""
    for row in rows:
        if not has(row, *IOI_BARE):
            yield Left(row, MISSING)
            continue
        prompt, once = text(row, "prompt"), text(row, "answer").strip()
        names = dict.fromkeys(re.findall(r"\b[A-Z][a-z]+\b", prompt))
        twice = [name for name in names if name != once and len(mentions(prompt, name)) > 1]
        if len(twice) != 1:
            yield Left(row, "not one name is said twice")
            continue
        yield Made(
            row,
            fields(
                prompt=prompt,
                contextual=once,
                associative=twice[0],
                subject=twice[0],
                group=" / ".join(sorted((once, twice[0]))),
            ),
            ("associative, subject: the name that the prompt says twice",),
            (NO_IOI_CUE, "swap, neutral: the file has no counterfactual"),
        )


def greater_than(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """Greater-than of EAP-IG: a war that began in 1352 ended in a later year of that century.

    The prompt ends with the century ("... to the year 13"), to which digits would be glued. It is
    moved to the answers ("1353"), whose shared beginning is given to the model anyway.
    """
    for row in rows:
        clean, label = text(row, "clean").rstrip(), text(row, "label").strip().zfill(2)
        found = re.fullmatch(r"(.*?\b(\d\d)(\d\d)\b.*\S) (\d\d)", clean, re.DOTALL)
        if not found or found[3] != label or found[2] != found[4]:
            yield Left(row, "not a year, then its century, with the label as the year's end")
            continue
        prompt, century, first = found[1], found[2], int(label)
        later = [f"{century}{year:02d}" for year in range(first + 1, 100)]
        earlier = [f"{century}{year:02d}" for year in range(2, first + 1)]
        if not later or not earlier:
            yield Left(row, "no later year in the century, or no earlier one")
            continue
        other = text(row, "corrupted").rstrip()
        same = other.endswith(f" {century}") and other != clean
        neutral = other[: -len(century) - 1] if same else None
        yield Made(
            row,
            fields(
                prompt=prompt,
                contextual=later,
                associative=earlier,
                cue=f"{century}{label}",
                neutral=aligned(prompt, neutral) if neutral else None,
                group=f"{century}{label}",
            ),
            (
                "contextual, associative: later and earlier years of the century",
                "prompt: its final century is moved to the answers, where it is given",
                "cue: the first year",
                "neutral: corrupted (the year 01, after which every year is later)",
            ),
            ("subject: no word carries an association",),
        )


def agreement(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """Subject-verb agreement of feature circuits: the verb's number is that of the noun patched."""
    for row in rows:
        if not has(row, *AGREEMENT):
            yield Left(row, MISSING)
            continue
        clean, patch = text(row, "clean_prefix"), text(row, "patch_prefix")
        differ = _difference(clean, patch)
        if differ is None:
            yield Left(row, "the two prefixes do not differ in one word")
            continue
        words = clean.split()
        attractor = next((w for w in (words[1], words[-1]) if w != differ[0]), None)
        # The answer is read at the last word: it can have no other role.
        cue, subject = (word if word != words[-1] else None for word in (differ[0], attractor))
        yield Made(
            row,
            fields(
                prompt=clean,
                contextual=text(row, "clean_answer"),
                associative=text(row, "patch_answer"),
                subject=subject,
                cue=cue,
                swap=aligned(clean, patch),
                group=text(row, "case"),
            ),
            (
                "swap: patch_prefix",
                *((CUE,) if cue else ()),
                *((ATTRACTOR,) if subject else ()),
            ),
            (
                *(() if cue else (f"cue: {LAST}",)),
                *(() if attractor else ("subject: the sentence has one noun",)),
                *((f"subject: {LAST}",) if attractor and not subject else ()),
            ),
        )


CUE = "cue: the noun in which the two prefixes differ"
LAST = "the noun is the last word, where the answer is read"
ATTRACTOR = "subject: the other noun, which the verb does not agree with"


def mib(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """MIB's rows: a prompt, its choices, and ``*_counterfactual`` columns that flip the answer."""
    for row in rows:
        right, choices = _answer(row.values)
        if right is None:
            yield Left(row, "answerKey is no place in choices")
            continue
        wrong = tuple(choice for choice in choices if choice != right)
        swap, used = None, None
        for column in sorted(row.values):
            other = row.values[column]
            if not column.endswith("_counterfactual") or not isinstance(other, Mapping):
                continue
            if _answer(other)[0] in wrong and other.get("prompt"):
                swap, used = str(other["prompt"]), column
                break
        yield Made(
            row,
            fields(
                prompt=text(row, "prompt").rstrip(),
                contextual=right,
                associative=wrong,
                swap=aligned(text(row, "prompt").rstrip(), swap.rstrip()) if swap else None,
            ),
            (f"swap: {used}",) if used else (),
            ("subject, cue: the file names none",)
            + (() if swap else ("swap: no counterfactual has another choice as its answer",)),
        )


def templates(
    rows: Sequence[Row], detected: list[str], *, per_template: int = 5, seed: int = 0
) -> Iterator[Made | Left]:
    """MIB's IOI templates with names, places and objects drawn by a seed.

    Args:
        rows: One a template, with the word lists beside it.
        detected: Takes what was drawn.
        per_template: Draws for each template.
        seed: Of the draws.
    """
    detected.append(f"drawn: {per_template} prompts a template with seed {seed}")
    for row in rows:
        stem = text(row, "template")
        if any(stem.count(f"{{{name}}}") != 1 for name in ("name_A", "name_B", "name_C")):
            yield Left(row, "the template does not name three people")
            continue
        draw = random.Random(f"{seed}/{row.number}")
        things = [w for w in row.values["objects"] if _article_fits(stem, w)]
        if not things:
            yield Left(row, "no object of the list goes with the template's article")
            continue
        for _ in range(per_template):
            once, twice, third = draw.sample(list(row.values["names"]), 3)
            first, second = draw.sample((once, twice), 2)
            words = {"place": draw.choice(row.values["places"]), "object": draw.choice(things)}

            def said(
                name: str, a: str = first, b: str = second, w: Mapping[str, str] = words
            ) -> str:
                return stem.format(name_A=a, name_B=b, name_C=name, **w)  # noqa: B023

            prompt = said(twice)
            yield Made(
                row,
                fields(
                    prompt=prompt,
                    contextual=once,
                    associative=twice,
                    subject=twice,
                    swap=aligned(prompt, said(once)),
                    neutral=aligned(prompt, said(third)),
                    group=stem,
                ),
                ("prompt, swap, neutral: the template with drawn names",),
                (NO_IOI_CUE,),
            )


def _article_fits(stem: str, word: str) -> bool:
    vowel = word[0] in "aeiou"
    return not re.search(r"\b(an|a) \{object\}", stem) or (" an {object}" in stem) == vowel


def _answer(values: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The right choice and all of them; MIB's choices are texts, or {label, text}."""
    choices = values.get("choices")
    if isinstance(choices, Mapping):
        choices = choices.get("text")
    found = [str(choice) for choice in choices] if isinstance(choices, (list, tuple)) else []
    key = str(values.get("answerKey"))
    place = int(key) if key.isdigit() else "ABCDEFGH".find(key) if len(key) == 1 else -1
    return (found[place] if 0 <= place < len(found) else None), found


def _difference(one: str, two: str) -> tuple[str, str] | None:
    """The one word in which two texts of as many words differ, in each of them."""
    ours, theirs = re.findall(r"\w+", one), re.findall(r"\w+", two)
    if len(ours) != len(theirs):
        return None
    differ = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    return differ[0] if len(differ) == 1 else None
