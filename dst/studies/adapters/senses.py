"""Words with several senses: WordNet's, with concept words, and Wikipedia's homographs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dst.core.case import mentions
from dst.core.errors import InputError
from dst.studies.adapters.account import Left, Made
from dst.studies.adapters.reading import Row, read_rows
from dst.studies.adapters.wording import MISSING, fields, fold, has, text

WORDNET = frozenset(("lemma", "senses"))
HOMOGRAPHS = frozenset(("homograph", "wordid", "sentence", "start", "end"))
WORDS = 8
"""Concept words per sense."""

_COMMON = frozenset(
    """
    a an and any are as at be been being but by can do does etc for from has have how in into is
    it its like made more most not of off on one or other out over part person some someone
    something such that the their them these they thing things this those to under up use used
    usually very was were what when where which who whose with without you your
    """.split()  # noqa: SIM905 - a list of words reads better as text
)


def wordnet(rows: Sequence[Row], detected: list[str]) -> Iterator[Made | Left]:
    """One case a sense that has an example: what the word means there, against its first sense.

    The right answer is the hypernym of the example's sense, the association that of the most
    frequent other sense; concept words are synonyms, hypernyms and content words of definitions.
    """
    for row in rows:
        senses = row.values.get("senses")
        if not has(row, "lemma") or not isinstance(senses, (list, tuple)):
            yield Left(row, MISSING)
            continue
        for place, sense in enumerate(senses):
            yield _sense(row, place, sense, senses)


def concept_words(sense: Mapping[str, Any], lemma: str, n: int = WORDS) -> tuple[str, ...]:
    """Single words of a sense: synonyms, hypernyms, then its definition; never the lemma."""
    said = [*sense.get("synonyms", ()), *sense.get("hypernym", ())]
    said += re.findall(r"[a-z]{3,}", str(sense.get("definition", "")).casefold())
    words = (word for word in said if " " not in word and word not in _COMMON)
    return tuple(dict.fromkeys(w for w in words if w.casefold() != lemma.casefold()))[:n]


def _sense(row: Row, place: int, sense: Mapping[str, Any], senses: Sequence[Any]) -> Made | Left:
    lemma = text(row, "lemma")
    said = [e for e in sense.get("example") or () if mentions(str(e), lemma)]
    if not said:
        return Left(row, "no example of the sense that holds the word")
    right = list(sense.get("hypernym") or ())
    rivals = [
        other
        for i, other in enumerate(senses)
        if i != place and other.get("field") != sense.get("field") and other.get("hypernym")
    ]
    if not right or not rivals:
        return Left(row, "no hypernym here, or none of a sense in another field")
    wrong = [h for h in rivals[0]["hypernym"] if fold(h) not in map(fold, right)]
    if not wrong:
        return Left(row, "the two senses have the same hypernym")
    example = str(said[0]).strip().rstrip(".")
    answers = {fold(answer) for answer in (*right, *wrong)}
    here = [w for w in concept_words(sense, lemma, 99) if fold(w) not in answers]
    there = [w for w in concept_words(rivals[0], lemma, 99) if fold(w) not in answers]
    shared = set(here) & set(there)
    return Made(
        row,
        fields(
            prompt=f"{example}. In this sentence, {lemma} means a kind of",
            contextual=right,
            associative=wrong,
            subject=lemma,
            cue=example,
            context_words=[w for w in here if w not in shared][:WORDS],
            competing_words=[w for w in there if w not in shared][:WORDS],
            group=lemma,
        ),
        (
            "prompt: an example of the sense, then what the word means there",
            "contextual, associative: hypernyms of the sense and of the first sense elsewhere",
            "cue: the example",
            "context_words, competing_words: synonyms, hypernyms, words of the definitions",
        ),
        ("swap: no example differs in its context alone",),
        extra={"synset": sense.get("synset"), "sense": place},
    )


def homographs(
    rows: Sequence[Row], detected: list[str], *, folder: Path | None = None
) -> Iterator[Made | Left]:
    """Wikipedia homographs whose senses have a name in ``wordids.tsv`` (bass: music, animal).

    ``start`` and ``end`` count bytes of the UTF-8 sentence, not characters.
    """
    senses = _sense_names(rows, folder)
    for row in rows:
        if not has(row, *HOMOGRAPHS):
            yield Left(row, "not a sentence with a homograph in it")
            continue
        word, sense = text(row, "homograph"), text(row, "wordid")
        named = senses.get(word, {})
        if sense not in named or len(named) < 2:
            yield Left(row, "its pronunciations are parts of speech, not senses with names")
            continue
        content = text(row, "sentence").encode("utf-8")
        try:
            said = content[int(text(row, "start")) : int(text(row, "end"))].decode("utf-8")
        except ValueError:
            said = ""
        if said.casefold() != word.casefold():
            yield Left(row, "the bytes named are not the word")
            continue
        sentence = text(row, "sentence").strip()
        yield Made(
            row,
            fields(
                prompt=f'{sentence} In this sentence, "{word}" has to do with',
                contextual=named[sense],
                associative=[n for key, names in named.items() if key != sense for n in names],
                subject=word,
                cue=sentence.rstrip("."),
                group=word,
            ),
            (
                "prompt: the sentence, then what the word has to do with",
                "contextual, associative: names of the senses in wordids.tsv",
                "cue: the sentence",
            ),
            ("swap: no sentence differs in its context alone",),
            extra={"wordid": sense},
        )


def _sense_names(rows: Sequence[Row], folder: Path | None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Homograph -> wordid -> names, for homographs all of whose senses have one."""
    table = [row for row in rows if "homograph_type" in row.values]
    if not table and folder is not None:
        beside = next((f for f in (folder, *folder.parents[:3]) if (f / NAMES).is_file()), None)
        table = read_rows(beside / NAMES) if beside else []
    if not table:
        raise InputError(
            "The homographs' senses have no names here",
            expected=f"{NAMES} beside the sentences",
            do="Give the folder that holds it",
        )
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for row in table:
        names = [name.strip() for name in text(row, "label").split("/")]
        meant = tuple(name for name in names if name and not set(name.split("-")) <= GRAMMAR)
        found.setdefault(text(row, "homograph"), {})[text(row, "wordid")] = meant
    return {word: senses for word, senses in found.items() if all(senses.values())}


GRAMMAR = frozenset(("noun", "verb", "adjective", "adverb", "interjection", "preposition"))
"""Labels that say what part of speech a word is, not what it means."""

NAMES = "wordids.tsv"
