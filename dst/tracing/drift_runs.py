"""The runs of a drift: the prompt's twins, and the runs that mean the same as one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from dst.analysis.drift import LEAST_ROWS
from dst.core.case import VARIANTS, Case, Prompt, mentions, prompt_of, text_of
from dst.core.errors import CaseError, InputError, TokenError
from dst.models.backend import Backend
from dst.models.variants import Row
from dst.tracing.donors import Donor, donor_rows
from dst.tracing.prepare import Prepared, prepare

PARAPHRASES, NEUTRAL, TEXTS = "paraphrases", "neutral", "texts"
"""What a null's runs are."""

Null = str | Sequence[str | Case] | None
"""``paraphrases``, ``neutral``, texts that mean the same as each other, or None to choose."""


@dataclass(frozen=True)
class Seen:
    """What some rows read at each of the prompt's positions.

    Attributes:
        rows: The rows.
        places: [row pos], -1 where a row has no counterpart.
        same: [row pos], whether it has the prompt's own token there.
    """

    rows: Sequence[Row]
    places: np.ndarray
    same: Bool[np.ndarray, "row pos"]

    @classmethod
    def of(cls, x: Row, rows: Sequence[Row]) -> Seen:
        """What each row reads, beside the prompt ``x``."""
        places = np.array([row.places for row in rows])
        words = [[row.ids[p] if p >= 0 else -1 for p in row.places] for row in rows]
        return cls(rows, places, np.array(words) == np.array(x.ids))

    def matched(self, rows: Sequence[int]) -> Bool[np.ndarray, " pos"]:
        """Positions that all of the rows have."""
        return np.asarray((self.places[list(rows)] >= 0).all(axis=0))

    def read_the_same(self, a: int, b: int) -> Bool[np.ndarray, " pos"]:
        """Positions up to which, and with which, two rows have read the same tokens."""
        one, two = self.rows[a].ids, self.rows[b].ids
        shorter = min(len(one), len(two))
        differs = np.flatnonzero(np.array(one[:shorter]) != np.array(two[:shorter]))
        first = int(differs[0]) if len(differs) else shorter
        here, there = self.places[a], self.places[b]
        return np.asarray((here == there) & (here >= 0) & (here < first))

    def distinct(self, rows: Sequence[int]) -> Bool[np.ndarray, "row pos"]:
        """Where a row has the prompt's own token in a context that no row before it has."""
        out = self.same[list(rows)].copy()
        for i, row in enumerate(rows):
            for earlier in rows[:i]:
                out[i] &= ~self.read_the_same(earlier, row)
        return out


def twins_of(
    model: Backend, ready: Prepared, against: Donor
) -> tuple[str, tuple[Row, ...], list[str]]:
    """The rows that the prompt is held against; a clean prompt of another length by its roles."""
    case = ready.tokenized.case
    by_role = against == "clean" and ready.variants.shorter and not ready.variants.clean
    if not by_role:
        name, rows = donor_rows(model, ready, against)
    else:
        name = "clean"
        siblings = [_sibling(case, prompt_of(variant)) for variant in case.clean]
        rows = tuple(row for one in siblings for row in donor_rows(model, ready, one)[1])
    notes = []
    coverage = min(row.coverage for row in rows)
    if not all(row.is_same_length for row in rows):
        notes.append(
            f"The twin ({name}) has another length: {coverage:.0%} of the prompt's positions are "
            "matched, role by role from the right. Its words stand elsewhere, which counts as "
            "drift and is not in a null of equal length."
        )
    return name, rows, notes


def null_of(
    model: Backend, ready: Prepared, null: Null, draws: int, seed: int
) -> tuple[str, tuple[Row, ...], list[str]]:
    """The rows whose distances from one another are no drift, what they are, and notes.

    Where nothing is asked for: the paraphrases if the case has any, unless neutral draws score
    more positions. A position is scored where enough rows read its word in different contexts;
    paraphrases that differ at the end say nothing of what stands before.
    """
    case = ready.tokenized.case
    if null is None:
        neutral = _neutral(model, ready, draws, seed)
        if not case.paraphrases:
            return neutral
        other = _paraphrased(model, ready)
        n_other, n_neutral = _n_scored(ready, other[1]), _n_scored(ready, neutral[1])
        if n_other >= n_neutral:
            return other
        said = f"Null: neutral draws, as they score {n_neutral} positions, paraphrases {n_other}."
        return *neutral[:2], [*neutral[2], said]
    if isinstance(null, str):
        if null == PARAPHRASES:
            return _paraphrased(model, ready)
        if null == NEUTRAL:
            return _neutral(model, ready, draws, seed)
        raise InputError(
            f"null={null!r} is no null", expected="'paraphrases', 'neutral', or a list of texts"
        )
    every = [text if isinstance(text, Case) else _sibling(case, text) for text in null]
    return TEXTS, tuple(row for one in every for row in donor_rows(model, ready, one)[1]), []


def _n_scored(ready: Prepared, rows: Sequence[Row]) -> int:
    """Positions whose word enough rows read in different contexts."""
    if not rows:
        return 0
    distinct = Seen.of(ready.x, rows).distinct(range(len(rows)))
    return int((distinct.sum(axis=0) >= LEAST_ROWS).sum())


def _neutral(
    model: Backend, ready: Prepared, draws: int, seed: int
) -> tuple[str, tuple[Row, ...], list[str]]:
    """The case's neutral draws; drawn ones where it gives too few."""
    given, case = ready.variants.neutral, ready.tokenized.case
    if len(given) >= LEAST_ROWS:
        return NEUTRAL, given, []
    if not case.cue:
        return "", (), ["No null: the case has no cue, so there are no neutral draws."]
    with_more = prepare(
        model, case.replace(neutral=()), draws=max(draws, LEAST_ROWS), seed=seed
    ).variants.neutral
    if len(with_more) <= len(given):
        return NEUTRAL, given, []
    return NEUTRAL, with_more, [f"The null's {len(with_more)} neutral draws are shipped nouns."]


def _paraphrased(model: Backend, ready: Prepared) -> tuple[str, tuple[Row, ...], list[str]]:
    """The prompt and those of its paraphrases that can be matched to it."""
    rows, notes = [ready.x], []
    for variant in ready.tokenized.case.paraphrases:
        try:
            sibling = _sibling(ready.tokenized.case, prompt_of(variant))
            rows += donor_rows(model, ready, sibling)[1]
        except (CaseError, TokenError) as error:
            notes.append(f"A paraphrase was left out: {error}")
    return PARAPHRASES, tuple(rows), notes


def _sibling(case: Case, prompt: Prompt) -> Case:
    """The case with another prompt, with those of its spans that stand there."""
    text = "\n".join((text_of(prompt), case.prefix, case.system or ""))

    def there(spans: Sequence[str]) -> tuple[str, ...]:
        return tuple(span for span in spans if mentions(text, span))

    return case.replace(
        prompt=prompt,
        subject=case.subject if case.subject and there([case.subject]) else None,
        cue=there(case.cue),
        question=case.question if case.question and there([case.question]) else None,
        distractor=there(case.distractor),
        twin_question=None,
        **dict.fromkeys((*VARIANTS, "paraphrases"), ()),
    )
