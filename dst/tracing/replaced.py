"""A case's words replaced by neutral words, some at a time, and what LD is then."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dst.core.case import Case, mentions
from dst.core.errors import TokenError
from dst.models.backend import Backend
from dst.models.draws import STOP_WORDS, drawn
from dst.models.reference import neutral_nouns
from dst.models.roles import find_mentions
from dst.models.text import render
from dst.models.variants import Row, combined, tokenize_variants
from dst.tracing.prepare import Prepared
from dst.tracing.progress import progress

MOST_TOKENS = 4096
"""Tokens in one batch."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Words that are replaced together.

    Attributes:
        words: The words, or the spans where a case gives them.
        positions: The tokens of all their mentions.
        rows: The prompt with neutral words in their place, per draw.
        mentions: How often they are named.
        contrast: LD of the rows that were run so far, in logits.
    """

    words: tuple[str, ...]
    positions: tuple[int, ...]
    rows: tuple[Row, ...]
    mentions: int = 1
    contrast: np.ndarray = field(default_factory=lambda: np.empty(0))

    def overlaps(self, other: Unit) -> bool:
        """Whether some token belongs to both."""
        return bool({*self.positions} & {*other.positions})


class ReplacedWords:
    """Draws the neutral words of one case, runs them, and counts the runs.

    Attributes:
        contrast: LD(x), in logits.
        passes: Prompts that were run so far.
        notes: What could not be replaced.
    """

    def __init__(self, model: Backend, run: Prepared, draws: int, seed: int) -> None:
        self.model, self.run, self.draws = model, run, draws
        self.case = run.tokenized.case
        self.rendered = render(model.tokenizer, self.case)
        self.passes = 0
        self.notes: list[str] = []
        self.contrast = float(self.contrasts([run.x])[0])
        said = _words(" ".join([*self.texts, self.case.system or "", *self._answers]))
        nouns = [noun for noun in neutral_nouns(model.spec.name) if noun.casefold() not in said]
        random.Random(seed).shuffle(nouns)
        self.nouns = nouns

    @property
    def texts(self) -> list[str]:
        """What can be replaced: the prompt or its messages, and the prefix."""
        prompt = self.case.prompt
        texts = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]
        return [*texts, self.case.prefix]

    @property
    def _answers(self) -> tuple[str, ...]:
        return (*self.case.contextual, *self.case.associative)

    def contrasts(self, rows: Sequence[Row]) -> np.ndarray:
        """LD of each row; of a yes/no prompt half the difference from its twin's (METHOD 0)."""
        twin, every = self.run.variants.twin, list(rows)
        if twin is not None:
            ids = self.run.tokenized.ids
            every += combined(self.model.tokenizer, ids, rows, [twin], "twin")
        size = max(1, MOST_TOKENS // max(len(row.ids) for row in every))
        read: list[np.ndarray] = []
        with progress("suggesting", len(every)) as tick:
            for start in range(0, len(every), size):
                part = [row.ids for row in every[start : start + size]]
                read.append(self.run.metric(self.model.run(part, logits_at=[-1]).last_logits))
                tick(len(part))
        self.passes += len(every)
        ld = np.concatenate(read)
        return ld if twin is None else (ld[: len(rows)] - ld[len(rows) :]) / 2

    def drawn(self, groups: Iterable[tuple[str, ...]]) -> list[Unit]:
        """Each group of words with its draws, none of them run; what cannot be drawn is noted."""
        return [unit for words in groups if (unit := self._drawn(words)) is not None]

    def measured(self, units: Sequence[Unit], n: int) -> list[Unit]:
        """The same units with LD of their first ``n`` draws."""
        if not units:
            return []
        lacking = [unit.rows[len(unit.contrast) : n] for unit in units]
        rows = [row for part in lacking for row in part]
        ld = self.contrasts(rows) if rows else np.empty(0)
        parts = np.split(ld, np.cumsum([len(part) for part in lacking])[:-1])
        return [
            dataclasses.replace(unit, contrast=np.concatenate([unit.contrast, part]))
            for unit, part in zip(units, parts, strict=True)
        ]

    def with_cue(self, cue: Unit, units: Sequence[Unit], draws: range) -> list[np.ndarray]:
        """LD with the cue and another unit replaced at once, per unit and draw of the cue."""
        rows: list[Row] = []
        for unit in units:
            rows += combined(
                self.model.tokenizer,
                self.run.tokenized.ids,
                [cue.rows[k] for k in draws],
                [unit.rows[partner(k, unit)] for k in draws],
                "other",
            )
        if not rows:
            return [np.empty(0) for _ in units]
        return list(self.contrasts(rows).reshape(len(units), -1))

    def singles(self) -> list[tuple[str, ...]]:
        """The words to try one by one: whole words, no stop words.

        Words of the answers only where one side alone is named: there the context may state the
        answer. Where both are named they are the choice that is asked about.
        """
        said = _words(" ".join(self.texts))
        sides = [_words(" ".join(side)) for side in (self.case.contextual, self.case.associative)]
        answers = set.union(*sides) if all(side & said for side in sides) else set()
        found: dict[str, str] = {}
        for text in self.texts:
            for word in re.findall(r"\w+", text):
                if is_content(word) and word.casefold() not in answers:
                    found.setdefault(word.casefold(), word)
        return [(word,) for word in found.values() if self.positions((word,))]

    def sentences(self, words: Sequence[str]) -> list[tuple[str, ...]]:
        """Of each sentence those of ``words`` that stand in no other; none of under two."""
        sentences = [s for text in self.texts for s in re.split(r"[.!?\n]+", text) if s.strip()]
        found = []
        for i, sentence in enumerate(sentences):
            elsewhere = "\n".join(s for j, s in enumerate(sentences) if j != i)
            own = [w for w in words if mentions(sentence, w) and not mentions(elsewhere, w)]
            if len(own) > 1:
                found.append(tuple(own))
        return found

    def before_the_answer(self, words: Sequence[str]) -> int:
        """How many sentences before the answer all of ``words`` are named last; 0: in its own.

        Their number where they are not named: before all that is.
        """
        parts = [s for s in re.split(r"[.!?\n]+", "\n".join(self.texts)) if s.strip()]
        last = [
            max((i for i, part in enumerate(parts) if mentions(part, word)), default=-1)
            for word in words
        ]
        return len(parts) - 1 - min(last, default=-1)

    def positions(self, spans: Sequence[str]) -> tuple[int, ...]:
        """The tokens of every mention in what the user or the reply wrote."""
        return tuple(self.run.tokenized.encoding.positions(self._mentions(spans)))

    def _mentions(self, spans: Sequence[str]) -> list[tuple[int, int]]:
        return [place for span in spans for place in find_mentions(self.rendered, span)]

    def _drawn(self, words: tuple[str, ...]) -> Unit | None:
        def places(case: Case, text: str) -> list[tuple[int, int]]:
            return sorted(span for word in words for span in mentions(text, word))

        base, tokenizer = self.run.tokenized, self.model.tokenizer
        try:
            draws = drawn(tokenizer, base, "neutral", places, self.nouns, self.draws)
            only = self.case.replace(
                neutral=draws, substitute=(), swap=(), clean=(), twin_question=None
            )
            rows = tokenize_variants(tokenizer, dataclasses.replace(base, case=only)).neutral
            if self.run.variants.twin is not None:  # a word that the twin changes is not replaced
                combined(tokenizer, base.ids, rows, [self.run.variants.twin], "twin")
        except TokenError:
            self.notes.append(f"Not tried, as no neutral noun can stand there: {' '.join(words)}.")
            return None
        return Unit(words, self.positions(words), rows, len(self._mentions(words)))


def partner(k: int, unit: Unit) -> int:
    """Which draw of a unit goes with draw ``k`` of the cue: the next, so that nouns differ."""
    return (k + 1) % len(unit.rows)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in re.findall(r"\w+", text)}


def is_content(word: str) -> bool:
    """Whether a word can carry anything: two letters or more, and no stop word."""
    return sum(map(str.isalpha, word)) > 1 and word.casefold() not in STOP_WORDS
