"""`suggest`: the subject and the cue of a prompt, from what LD loses when words are replaced."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dst.analysis.flows import estimate
from dst.analysis.necessity import (
    LEVEL,
    NONE,
    Choice,
    Draws,
    Pair,
    choose,
    choose_subject,
    excess,
    further_cues,
    known,
    promising,
    threshold,
)
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.results import Estimate
from dst.core.suggestion import Alternative, Candidate, Suggestion
from dst.models.backend import Backend
from dst.models.variants import Row
from dst.tracing.prepare import prepare
from dst.tracing.replaced import ReplacedWords, Unit, partner
from dst.tracing.twins import propose_twin

NOTHING = Estimate(math.nan, math.nan, math.nan, 0)
GIVEN = "it was given"
NO_CUE = (
    "no word and no sentence holds the contextual answer up by more than neutral words in its "
    "place differ"
)
ASKED_ABOUT = (
    "the word that holds the contextual answer up is what the prompt asks about, and no other "
    "word works on it"
)
NO_SUBJECT = "no word brings an answer by more than neutral words in its place differ"
NO_TWIN = "yes/no without twin: another noun changes the question's truth"

DRAWS = 16
"""Neutral words that a word is compared with before it is suggested."""

SCREEN = 4
"""Draws with which every word is tried before some of them get all draws."""


def suggest(
    model: Backend, case: Case, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Suggestion:
    """The cue and the subject of a case that does not name them, each with its evidence.

    Every word of the prompt and the prefix that is no stop word, no part of an answer and no
    part of the chat template is replaced, at all its mentions, by neutral nouns of as many
    tokens (METHOD 0; ``draws`` of them), and LD is read, in logits:

        N(w) = LD(x) - LD(x^w),    P(w | c) = LD(x^c) - LD(x^{c,w})

    The *cue* c is the word with the largest N > 0 that stands out (`dst.analysis.necessity`);
    of several that are worth as much, the first in the prompt. Where no word does, the words of
    whole sentences are tried. Words that hold the contextual answer up once c is gone
    join it. Where none does but another word stands out with N < 0, a cue is looked for that
    counts once that word is replaced (``masked_by``). The *subject* is the word without which c
    has nothing to work on and the association is gone:
    `dst.analysis.necessity.choose_subject`. Without a cue it is the word with the largest -N
    that stands out; and a word that looks like a cue, without a subject to work on, is the
    subject itself if the prompt names it again in one of its last two sentences. What stands
    out nowhere is not suggested.

    Args:
        model: The model.
        case: The case; what it names is kept, and only the rest is inferred.
        draws: Neutral words per candidate.
        seed: Seed of the draws.
        level: Rate at which a word like any neutral word is suggested all the same.

    Returns:
        A `Suggestion`; ``.suggested`` is the case with what was inferred.

    Raises:
        CaseError, TokenError, ModelError: As `dst.trace`.
        InputError: ``draws`` is under 2, or ``level`` is no rate.

    Source: ours. The published subsequence tracing replaces words by "[MASK]" and reads the
    probability at the start of the prompt (METHOD 5).
    """
    if draws < 2:
        raise InputError(f"draws is {draws}", expected="2 or more, to have a spread")
    if not 0 < level < 1:
        raise InputError(f"level is {level}", expected="a rate between 0 and 1")
    run = prepare(model, case, draws=draws, seed=seed)
    search = _Search(ReplacedWords(model, run, draws, seed), level)
    search.find()
    proposal, no_twin = propose_twin(model.tokenizer, case)
    return Suggestion(
        case=case,
        subject=search.subject_words[0] if search.subject_words else None,
        cue=search.cue_words,
        subject_reason=search.subject_reason,
        cue_reason=search.cue_reason,
        kind=search.pair.kind,
        masked_by=" ".join(search.units[search.masked_by].words) if search.masked_by >= 0 else "",
        contrast=search.words.contrast,
        total_effect=search.effect(search.pair.cue),
        prior=search.prior(search.pair),
        alternatives=search.alternatives(),
        candidates=search.candidates(),
        twin=proposal,
        twin_reason=no_twin,
        level=level,
        forward_passes=search.words.passes,
        notes=(*run.notes, *search.words.notes),
        provenance=model.provenance(seed=seed, draws=draws, level=level),
    )


class _Search:
    """The steps of `suggest` on one case, and what they found.

    ``units`` are the words that were tried, then what the case itself gives as cue and
    subject. ``together[c][w]`` is LD with units c and w replaced at once, per draw of c.
    Every word is screened with `SCREEN` draws; whether it stands out is asked of those that
    have all draws, at the level of all that were tried.
    """

    def __init__(self, words: ReplacedWords, level: float) -> None:
        self.words, self.level = words, level
        case, variants = words.case, words.run.variants
        self.cue_given = bool(case.cue or case.neutral)
        self.subject_given = bool(case.subject or case.substitute)
        given = [
            (case.cue, variants.neutral),
            ((case.subject,) if case.subject else (), variants.substitute),
        ]
        named = [
            Unit(spans, words.positions(spans) or _changed(words, rows), rows, len(spans))
            for spans, rows in given
        ]
        taken = {p for unit in named for p in unit.positions}
        tried = [one for one in words.singles() if not taken & {*words.positions(one)}]
        needed = not (self.cue_given and self.subject_given)
        self.units = words.measured(words.drawn(tried if needed else []), SCREEN)
        self.free = [True] * len(self.units)
        """Whether a unit may be suggested."""
        self.given_cue, self.given_subject = (self._give(unit) for unit in named)
        self.together: dict[int, dict[int, np.ndarray]] = {}
        self.cue, self.pair = NONE, Pair(-1, NONE, "")
        self.masked_by = -1
        self.more: tuple[int, ...] = ()
        self.cue_reason = GIVEN if self.cue_given else ""
        self.subject_reason = GIVEN if self.subject_given else ""

    def _give(self, unit: Unit) -> int:
        """Add what the case gives; its index, -1 where there is nothing that can be run."""
        if not unit.rows:
            return -1
        self.units += self.words.measured([unit], len(unit.rows))
        self.free.append(False)
        return len(self.units) - 1

    # -- the steps -------------------------------------------------------------------------

    def find(self) -> None:
        """Cue, then subject."""
        self.cue = Choice(self.given_cue) if self.cue_given else self._find_cue()
        cue = self.cue.word
        self.pair = Pair(cue, Choice(self.given_subject), "")
        if cue < 0 and not self.cue_given:
            self.cue_reason = NO_CUE
        if self.subject_given:
            if cue >= 0 and self.given_subject >= 0:
                self._pair_up(cue, [self.given_subject])
            return
        if self.words.run.lacks_twin:
            self.subject_reason = NO_TWIN
        elif cue >= 0:
            self.pair = self._find_subject(cue)
        elif not self.cue_given:
            self.pair = Pair(-1, self._choose_alone(-1.0), "")
        if self.pair.subject.word < 0 and self._is_asked_about(cue):
            self.cue, self.pair = NONE, Pair(-1, Choice(cue), "agreement")
            self.cue_reason = ASKED_ABOUT
        if self.pair.subject.word < 0 and not self.subject_reason:
            self.subject_reason = NO_SUBJECT
        if self.pair.cue == cue >= 0 and not self.cue_given:
            may = [i in self.together.get(cue, {}) for i in range(len(self.units))]
            self.more = further_cues(self._aligned(cue), self._own(cue), self.pair, may, self.level)

    def _is_asked_about(self, cue: int) -> bool:
        """Whether a cue without a subject is named again where the answer is asked for."""
        if cue < 0 or self.cue_given or self.masked_by >= 0 or self.words.run.lacks_twin:
            return False
        unit = self.units[cue]
        return unit.mentions > 1 and self.words.before_the_answer(unit.words) < 2

    def _is_asked(self, unit: Unit) -> bool:
        """Whether the sentence that the answer completes names it again."""
        return unit.mentions > 1 and self.words.before_the_answer(unit.words) == 0

    def _find_cue(self) -> Choice:
        """A word; a word that counts once another is gone; the words of a sentence.

        What the prompt asks about comes last: it may bring the answer too, and is no context.
        """
        found = self._choose_alone(1.0, asked=False)
        if found.word < 0:
            found = self._choose_alone(1.0)
        if found.word < 0:
            against = self._choose_alone(-1.0).word
            if against >= 0:
                found = self._masked_cue(against)
        if found.word < 0:
            names = [u.words[0] for u, free in zip(self.units, self.free, strict=True) if free]
            sentences = self.words.drawn(self.words.sentences(names))
            self.units += self.words.measured(sentences, SCREEN)
            self.free += [True] * len(sentences)
            found = self._choose_alone(1.0)
        return found

    def _masked_cue(self, against: int) -> Choice:
        """The cue that holds the contextual answer up once ``against`` is replaced."""
        tried = self._others(against)
        self._pair_up(against, tried, SCREEN)
        own = self._own(against)
        last = self._deepen([i for i in tried if promising(own[i])])
        self._pair_up(against, last)
        may = [i in last for i in range(len(self.units))]
        found = choose(self._own(against), self._first, may, tried=len(tried), level=self.level)
        if found.word >= 0:
            self.masked_by = against
        return Choice(found.word)

    def _others(self, cue: int) -> list[int]:
        """What may be the other one of a pair: one word, and none of the first's."""
        return [
            i
            for i, (unit, free) in enumerate(zip(self.units, self.free, strict=True))
            if free and len(unit.words) == 1 and not unit.overlaps(self.units[cue])
        ]

    def _deepen(self, chosen: list[int]) -> list[int]:
        """Run all draws of some units."""
        full = self.words.measured([self.units[i] for i in chosen], self.words.draws)
        for i, unit in zip(chosen, full, strict=True):
            self.units[i] = unit
        return chosen

    def _choose_alone(self, sign: float, *, asked: bool = True) -> Choice:
        """The unit whose own replacement moves LD one way: for a subject, one word."""
        may = [
            free and (sign > 0 or len(unit.words) == 1) and (asked or not self._is_asked(unit))
            for unit, free in zip(self.units, self.free, strict=True)
        ]
        last = self._deepen(
            [i for i, row in enumerate(self._necessity()) if may[i] and promising(sign * row)]
        )
        may = [i in last for i in range(len(self.units))]
        effect = sign * self._necessity()
        return choose(effect, self._first, may, tried=sum(self.free), level=self.level)

    def _find_subject(self, cue: int) -> Pair:
        self._deepen([cue])
        tried = self._others(cue)
        self._pair_up(cue, tried, SCREEN)
        aligned, own = self._aligned(cue), self._own(cue)
        asked = [i in tried and self._is_asked(unit) for i, unit in enumerate(self.units)]
        last = self._deepen(
            [
                i
                for i in tried
                if asked[i] or any(map(promising, (aligned[i] - own[i], own[i], -own[i])))
            ]
        )
        self._pair_up(cue, last)
        may = [i in last for i in range(len(self.units))]
        pair = choose_subject(
            self._aligned(cue), self._own(cue), cue, self._first, self._last, self._mentions, may,
            asked=asked, tried=len(tried), fixed=self.cue_given, level=self.level,
        )  # fmt: skip
        if pair.cue != cue:
            self._pair_up(pair.cue, [cue])
        return pair

    def _pair_up(self, cue: int, others: Sequence[int], n: int | None = None) -> None:
        """Run the cue together with other words, for its first ``n`` draws (all of them)."""
        runs = self.together.setdefault(cue, {})
        n = min(n or self.words.draws, len(self.units[cue].rows))
        done = {i: runs.get(i, np.empty(0)) for i in others}
        for start in sorted({len(ld) for ld in done.values()}):
            here = [i for i, ld in done.items() if len(ld) == start]
            more = self.words.with_cue(
                self.units[cue], [self.units[i] for i in here], range(start, n)
            )
            for i, ld in zip(here, more, strict=True):
                runs[i] = np.concatenate([done[i], ld])

    # -- effects per draw, [word, draw] ------------------------------------------------------

    def _necessity(self) -> Draws:
        """N(w)."""
        return _padded([self.words.contrast - unit.contrast for unit in self.units])

    def _aligned(self, cue: int) -> Draws:
        """N(w), each draw beside the draw of the cue that it was run with."""
        rows = []
        for i, unit in enumerate(self.units):
            n = len(self.together[cue].get(i, ()))
            at = range(len(unit.contrast)) if i == cue else [partner(k, unit) for k in range(n)]
            at = [k for k in at if k < len(unit.contrast)]
            rows.append(self.words.contrast - unit.contrast[list(at)])
        return _padded(rows, len(self.units[cue].rows))

    def _own(self, cue: int) -> Draws:
        """P(w | c); NaN where the two were not run together."""
        c, runs = self.units[cue].contrast, self.together[cue]
        empty = np.empty(0)
        rows = [runs.get(i, empty) for i in range(len(self.units))]
        return _padded([c[: len(row)] - row for row in rows], len(self.units[cue].rows))

    @property
    def _first(self) -> list[int]:
        return [min(unit.positions, default=0) for unit in self.units]

    @property
    def _last(self) -> list[int]:
        return [max(unit.positions, default=0) for unit in self.units]

    @property
    def _mentions(self) -> list[int]:
        return [unit.mentions for unit in self.units]

    # -- what is told ------------------------------------------------------------------------

    @property
    def cue_words(self) -> tuple[str, ...]:
        """The cue's words: what was given, or what was found."""
        if self.cue_given:
            return self.words.case.cue
        found = [self.pair.cue, *self.more] if self.pair.cue >= 0 else []
        return tuple(word for i in found for word in self.units[i].words)

    @property
    def subject_words(self) -> tuple[str, ...]:
        """The subject, as a tuple of one word or none."""
        if self.subject_given:
            return (self.words.case.subject,) if self.words.case.subject else ()
        found = self.pair.subject.word
        return self.units[found].words if found >= 0 else ()

    def effect(self, cue: int) -> Estimate:
        """TE with a cue: the mean of N over its draws."""
        return estimate(self._necessity_of(cue)) if cue >= 0 else NOTHING

    def prior(self, pair: Pair) -> Estimate:
        """The prior with a cue and a subject; without a cue what the subject is worth in x."""
        subject = pair.subject.word
        if subject < 0:
            return NOTHING
        if pair.cue < 0:
            return estimate(self._necessity_of(subject))
        if subject not in self.together.get(pair.cue, {}):
            return NOTHING
        return estimate(known(self._own(pair.cue)[subject]))

    def _necessity_of(self, i: int) -> np.ndarray:
        return self.words.contrast - self.units[i].contrast

    def alternatives(self) -> tuple[Alternative, ...]:
        """The runner-up cue and the runner-up subject, and the terms with each."""
        found: list[Alternative] = []
        subject = self.pair.subject
        swapped = self.pair.cue != self.cue.word
        if self.cue.rivals and not swapped:
            cue = next((i for i in self.cue.rivals if i != subject.word), -1)
            if cue >= 0:
                if subject.word >= 0:
                    self._pair_up(cue, [subject.word])
                found.append(self._alternative("cue", Pair(cue, subject, "")))
        if subject.rivals:
            found.append(
                self._alternative("subject", Pair(self.pair.cue, Choice(subject.rivals[0]), ""))
            )
        return tuple(found)

    def _alternative(self, role: str, pair: Pair) -> Alternative:
        cue = self.units[pair.cue].words if pair.cue >= 0 else ()
        if role == "subject":
            cue = self.cue_words
        subject = self.units[pair.subject.word].words[0] if pair.subject.word >= 0 else None
        return Alternative(role, cue, subject, self.effect(pair.cue), self.prior(pair))

    def candidates(self) -> tuple[Candidate, ...]:
        """All that was tried, the most necessary first."""
        cue = self.pair.cue
        has_own = cue in self.together
        own = self._own(cue) if has_own else np.full((len(self.units), 1), np.nan)
        tried = sum(self.free)
        told = [
            Candidate(
                words=unit.words,
                mentions=unit.mentions,
                positions=unit.positions,
                necessity=estimate(self._necessity_of(i)),
                excess=excess(self._necessity_of(i)),
                threshold=threshold(len(unit.contrast), tried, self.level),
                own=estimate(known(own[i])) if len(known(own[i])) else NOTHING,
                reason=""
                if len(known(own[i]))
                else "no cue"
                if cue < 0
                else "part of the cue"
                if i == cue
                else "not tried",
            )
            for i, unit in enumerate(self.units)
            if self.free[i]
        ]
        return tuple(sorted(told, key=lambda one: -one.necessity.mean))


def _changed(words: ReplacedWords, rows: Sequence[Row]) -> tuple[int, ...]:
    """The positions at which variants differ from the prompt."""
    ids = words.run.tokenized.ids
    return tuple(
        p
        for p in range(len(ids))
        if any(row.places[p] < 0 or row.ids[row.places[p]] != ids[p] for row in rows)
    )


def _padded(rows: Sequence[np.ndarray], width: int = 0) -> Draws:
    """Rows of different length as one table, NaN after each row's end."""
    table = np.full((len(rows), max([width, *map(len, rows)])), np.nan)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
