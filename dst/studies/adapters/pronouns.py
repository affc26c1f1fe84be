"""Whose pronoun is it: WinoBias as questions, WinoBias in brackets, Winogender.

The association is what people of one gender are taken to work as; the pronoun carries it. What the
sentence says after the pronoun decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dst.core.case import mentions
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row
from dst.studies.adapters.wording import MISSING, PRONOUNS, fields, fold, has, rest_after, text

QUESTIONS = frozenset(("sentence", "answer", "incorrect_answer", "pronoun", "q"))
BRACKETS = frozenset(("text",))
WINOGENDER = frozenset(("sentid", "sentence"))
CUE = "cue: what the sentence says after the pronoun"
ASKED = "prompt: the sentence, then whose pronoun it is"


def questions(
    rows: Sequence[Row], detected: list[str], *, instruct: bool = False
) -> Iterator[Made | Left]:
    """WinoBias-QA of LLMsKnow: one case a row.

    Args:
        rows: The rows.
        detected: Takes nothing.
        instruct: Ask with ``q_instruct`` ("Who does ...?") instead of ``q`` ("... refers to the").
    """
    for row in rows:
        column = "q_instruct" if instruct else "q"
        if not has(row, *QUESTIONS, column):
            yield Left(row, MISSING)
            continue
        sentence, pronoun = text(row, "sentence").strip(), text(row, "pronoun")
        yield _case(
            row,
            f"{sentence} {text(row, column).strip()}",
            sentence,
            pronoun,
            text(row, "answer").strip(),
            text(row, "incorrect_answer").strip(),
            extra={"stereotype": text(row, "stereotype"), "type": text(row, "type")},
        )


def brackets(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """WinoBias lines, whose brackets mark a pronoun and the one it refers to.

    Such as ``1 [The chief] met the baker because [he] was hungry.`` The other person is the
    occupation, among those that the file brackets anywhere, that the line names besides.
    """
    read = {row.number: _bracketed(text(row, "text")) for row in rows}
    known = {fold(found[2]) for found in read.values() if found}
    for row in rows:
        found = read[row.number]
        if found is None:
            yield Left(row, "not one pronoun and one person in [brackets]")
            continue
        sentence, pronoun, right = found
        others = sorted(name for name in known - {fold(right)} if mentions(sentence, name))
        if len(others) != 1:
            yield Left(row, "which other person the line names cannot be told")
            continue
        made = _case(
            row,
            f"{sentence} The pronoun '{pronoun}' refers to the",
            sentence,
            pronoun,
            right,
            others[0],
            extra={"stereotype": next((s for s in ("anti", "pro") if s in row.file), "")},
            derived=(ASKED, "associative: the other occupation of the line"),
        )
        yield made


def winogender(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """Winogender sentences: ``sentid`` says occupation, participant and who is meant."""
    frames: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        stem, gender = _sentid(row)
        frames.setdefault(stem, []).append((gender, text(row, "sentence")))
    for row in rows:
        parts = text(row, "sentid").removesuffix(".txt").split(".")
        if len(parts) != 4 or parts[2] not in ("0", "1"):
            yield Left(row, "the sentid is not occupation.participant.answer.gender")
            continue
        sentence = text(row, "sentence").strip()
        pronoun = _pronoun(sentence, [other for _, other in frames[_sentid(row)[0]]])
        if pronoun is None:
            yield Left(row, "no pronoun tells the sentence from its other genders")
            continue
        right, wrong = (parts[0], parts[1]) if parts[2] == "0" else (parts[1], parts[0])
        yield _case(
            row,
            f"{sentence} The pronoun '{pronoun}' refers to the",
            sentence,
            pronoun,
            right,
            wrong,
            extra={"occupation": parts[0], "gender": parts[3], "answer": parts[2]},
            derived=(ASKED, "subject: the pronoun, by which the genders' sentences differ"),
        )


def _case(
    row: Row,
    prompt: str,
    sentence: str,
    pronoun: str,
    right: str,
    wrong: str,
    *,
    extra: dict[str, str],
    derived: tuple[str, ...] = ("subject: the pronoun", ASKED),
) -> Made:
    cue = rest_after(sentence, pronoun)
    return Made(
        row,
        fields(
            prompt=prompt,
            contextual=right,
            associative=wrong,
            subject=pronoun,
            cue=cue,
            group=" / ".join(sorted((right, wrong))),
        ),
        (*derived, *((CUE,) if cue else ())),
        (
            *(() if cue else ("cue: nothing follows the pronoun",)),
            "swap: no row changes only what follows the pronoun",
        ),
        extra={name: value for name, value in extra.items() if value},
    )


def _bracketed(line: str) -> tuple[str, str, str] | None:
    """Sentence without brackets, pronoun, and the person it refers to."""
    line = re.sub(r"^\d+\s+", "", line.strip())
    inside = re.findall(r"\[([^\]]*)\]", line)
    said = [span for span in inside if span.casefold() in PRONOUNS]
    people = [span for span in inside if span.casefold() not in PRONOUNS]
    if len(said) != 1 or len(people) != 1:
        return None
    person = re.sub(r"^(the|a|an)\s+", "", people[0].strip(), flags=re.IGNORECASE)
    return line.replace("[", "").replace("]", ""), said[0], person


def _sentid(row: Row) -> tuple[str, str]:
    stem, _, gender = text(row, "sentid").removesuffix(".txt").rpartition(".")
    return stem, gender


def _pronoun(sentence: str, others: Sequence[str]) -> str | None:
    """The pronoun that stands here and not in some other gender's sentence."""
    words = re.findall(r"\w+", sentence)
    for other in others:
        theirs = re.findall(r"\w+", other)
        for mine, its in zip(words, theirs, strict=False):
            if mine != its:
                if mine.casefold() in PRONOUNS:
                    return mine
                break
    return None
